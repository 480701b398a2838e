"""Gemma Scope's transcoders of Gemma 2, and Gemma Scope 2's of Gemma 3, per and across layers.

Gemma Scope (arXiv:2408.05147; `google/gemma-scope-2b-pt-transcoders`): a file
`layer_{l}/width_{16k ...}/average_l0_{n}/params.npz` a layer, width and sparsity, with W_enc
(D, F), W_dec (F, D), b_enc (F), b_dec (D), threshold (F). They read the norm before the MLP
without its weights ("we fold the pre-MLP RMS norm gain parameters into the MLP input matrices ...
just after the pre-MLP RMSNorm", page 18; TransformerLens's `ln2.hook_normalized`), and reconstruct
what is added to the stream (the repository's README, section 3; `hook_mlp_out`).

Gemma Scope 2 (`google/gemma-scope-2-{270m ... 27b}-{pt,it}`): folders
`transcoder_all/layer_{l}_width_{w}_l0_{small,medium,big}[_affine]/` with `config.json` and
`params.safetensors`: w_enc (D, F), w_dec (F, D), b_enc, b_dec, threshold, and with
`affine_connection` affine_skip_connection (D, D), applied as x A. Across layers it is
`clt/width_{w}_l0_{...}[_affine]/` with one `config.json` (`type` clt, `width` of all layers
together) and `params_layer_{l}.safetensors` a layer, in which w_dec is (F, L, D): entry j writes to
layer j. Entries to layers below l have no meaning, and circuit-tracer's `load_gemma_scope_2_clt`
passes over them, as is done here. `hf_hook_point_in` and `hf_hook_point_out` name modules of
Hugging Face's Gemma 3: what a norm there puts out has the norm's weights in it.

JumpReLU is relu(x) above the threshold in both, so that a negative threshold counts as 0.
circuit-tracer's `config.yaml` may list such files, with hooks of its own
(`mwhanna/gemma-scope-transcoders`, `mwhanna/gemma-scope-2-*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats.circuit_tracer import CONFIG as LIST
from hagd_jax.transcoders.formats.circuit_tracer import Given
from hagd_jax.transcoders.formats.finding import (
    file_of,
    first_shape,
    gather,
    layers_of,
    open_files,
    refuse_others,
)
from hagd_jax.transcoders.formats.npz_source import NpzSource
from hagd_jax.transcoders.formats.stored import Stored, TensorFile, View, Views
from hagd_jax.transcoders.graph import layer_graph

FIRST = "params.npz"
_NPZ = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
_SECOND = {
    "W_enc": "w_enc", "b_enc": "b_enc", "W_dec": "w_dec", "b_dec": "b_dec",
    "threshold": "threshold",
}  # fmt: skip
AFFINE = "affine_skip_connection"
_LAYOUTS = {"W_enc": "e f", "W_skip": "e g"}
SEVERAL = (
    "Keep the files of one of them, or list them in circuit-tracer's config.yaml, a layer after "
    "the other, under transcoders."
)


def names_of(source: TensorFile) -> dict[str, str] | None:
    """Return the names that a file of one of the two has for our parameters, or None."""
    if isinstance(source, NpzSource):
        return _NPZ
    if "w_enc" not in source.entries:
        return None
    return _SECOND | ({"W_skip": AFFINE} if AFFINE in source.entries else {})


def listed(given: Given, sources: Sequence[TensorFile]) -> Stored:
    """Find and check the tensors of files that circuit-tracer's `config.yaml` lists.

    Args:
        given: The configuration.
        sources: The files, in the order of layers.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a tensor is missing, has another shape, or is not known.
        ConfigError: If the configuration names another activation function.
    """
    return per_layer(sources, _fields(given), given.reading.unweighted, given.model_name)


def listed_across_layers(given: Given, files: Sequence[Path]) -> Stored:
    """Find and check the tensors of a cross-layer transcoder whose files are listed.

    circuit-tracer leaves out the last file of the list, which therefore holds one too many.

    Args:
        given: The configuration.
        files: In the order of layers.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a tensor is missing, has another shape, or is not known.
        ConfigError: If the configuration names another activation function.
    """
    (first,) = open_files(files[:1])
    layers = first_shape(first, "w_dec", 3)[1]
    if len(files) not in (layers, layers + 1):
        raise CheckpointError(
            f"{given.folder / LIST}: transcoders",
            got=f"{len(files)} files",
            expected=f"{layers}, one a layer, as w_dec of the first writes to",
        )
    sources = open_files(files[:layers])
    return cross_layer(sources, _fields(given), given.reading.unweighted, given.model_name)


def _fields(given: Given) -> dict[str, Any]:
    fields = given.fields(True)
    if fields["activation"] != "jump_relu" or fields["predict"]:
        raise ConfigError(
            f"{given.folder / LIST}: activation",
            got=quoted(given.values.get("activation")),
            expected="jump_relu and no prediction head, as files of Gemma Scope have thresholds",
        )
    return fields


def open_folder(folder: Path) -> Stored:
    """Find and check the tensors of a folder of Gemma Scope's transcoders.

    Args:
        folder: With `layer_{l}/.../params.npz` in it, one for each layer.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If layers or tensors are missing, or there are several files of a layer.
        ConfigError: If nothing says that these are transcoders.
    """
    if "transcoder" not in str(folder.resolve()).lower():
        raise ConfigError(
            str(folder),
            got=f"{FIRST} in a folder that does not say what is in it",
            expected="'transcoders' in its path, as in google/gemma-scope-2b-pt-transcoders: "
            "autoencoders have the same files",
            mend="Name the folder as the hub does, or list the files in circuit-tracer's "
            "config.yaml, with the hooks that they read and write.",
        )
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(f"layer_*/**/{FIRST}")):
        match = re.fullmatch(r"layer_(\d{1,6})", path.relative_to(folder).parts[0])
        if match is None:
            continue
        twin = found.setdefault(int(match[1]), path)
        if twin != path:
            both = " and ".join(str(one.parent.relative_to(folder)) for one in (twin, path))
            raise CheckpointError(str(folder), got=both, expected="one of each layer", mend=SEVERAL)
    layers_of(found, str(folder))
    sources = open_files(found[layer] for layer in sorted(found))
    fields = {"activation": "jump_relu", "reads": "mlp_in", "writes": "mlp_out"}
    return per_layer(sources, fields, True, "")


def per_layer(
    sources: Sequence[TensorFile],
    fields: Mapping[str, Any],
    unweighted: bool,
    model_name: str,
    expected: int | None = None,
) -> Stored:
    """Find the tensors of a transcoder a layer, in files of either of the two.

    Args:
        sources: The files, in the order of layers.
        fields: Of `TranscoderConfig`, which do not follow from the tensors' shapes.
        unweighted: Whether features read an RMSNorm's value before its weights.
        model_name: The model that the files say they are for, or empty.
        expected: Features of a layer, if a configuration says so.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a tensor is missing, has another shape, or is not known.
    """
    names = names_of(sources[0]) or _SECOND
    width, features = first_shape(sources[0], names["W_enc"], 2)
    _require_width(sources[0], features, expected)
    views = gather(sources, names)
    refuse_others(sources, views.values())
    config = TranscoderConfig(
        n_layers=len(sources), d_model=width, n_features=features, skip="W_skip" in names, **fields
    )
    return _stored(config, views, unweighted, model_name)


def cross_layer(
    sources: Sequence[TensorFile],
    fields: Mapping[str, Any],
    unweighted: bool,
    model_name: str,
    expected: int | None = None,
) -> Stored:
    """Find the tensors of a cross-layer transcoder, in files of Gemma Scope 2.

    Args:
        sources: The files, in the order of layers.
        fields: Of `TranscoderConfig`, which do not follow from the tensors' shapes.
        unweighted: Whether features read an RMSNorm's value before its weights.
        model_name: The model that the files say they are for, or empty.
        expected: Features of all layers together, if a configuration says so.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a tensor is missing, has another shape, or is not known.
    """
    names = names_of(sources[0]) or _SECOND
    width, features = first_shape(sources[0], names["W_enc"], 2)
    _require_width(sources[0], features * len(sources), expected)
    views = gather(sources, names)
    refuse_others(sources, views.values())
    want = (features, len(sources), width)
    for source in sources:
        if source.shape(names["W_dec"]) != want:
            raise CheckpointError(
                f"{file_of(source)}: tensor {names['W_dec']}",
                got=f"shape {source.shape(names['W_dec'])}", expected=str(want),
            )  # fmt: skip
    config = TranscoderConfig(
        n_layers=len(sources), d_model=width, n_features=features, window=None,
        skip="W_skip" in names, **fields,
    )  # fmt: skip
    graph = layer_graph(config)
    edges = zip(np.asarray(graph.senders), np.asarray(graph.receivers), strict=True)
    kept = {name: view for name, view in views.items() if not name.startswith("W_dec/")}
    decoders = {
        f"W_dec/{edge}": View(sources[sender], names["W_dec"], entry=int(receiver))
        for edge, (sender, receiver) in enumerate(edges)
    }
    return _stored(config, kept | decoders, unweighted, model_name)


def _require_width(source: TensorFile, features: int, expected: int | None) -> None:
    if expected is not None and features != expected:
        raise CheckpointError(
            file_of(source),
            got=f"{features} features",
            expected=f"{expected}, the width in its configuration",
        )


def _stored(
    config: TranscoderConfig, views: dict[str, View], unweighted: bool, model_name: str
) -> Stored:
    layouts = {leaf: axes for leaf, axes in _LAYOUTS.items() if config.skip or leaf != "W_skip"}
    return Stored(
        config, Views(views), layouts=layouts, unweighted=unweighted, positive=True,
        model_name=model_name,
    )  # fmt: skip
