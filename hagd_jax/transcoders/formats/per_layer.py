"""circuit-tracer's folders of a transcoder a layer: `layer_{i}.safetensors` and `config.yaml`.

A file holds W_enc (F, D), W_dec (F, D), b_enc (F), b_dec (D) and optionally
`activation_function.threshold` (F, or one number) and W_skip (D, D), applied as x W_skipᵀ: the
layout that our parameters have as well. The files may be listed under `transcoders`, and then be
those of Gemma Scope, see `gemma_scope`. Published in it are, among others,
`mwhanna/qwen3-*-transcoders` (`mlp.hook_in` to `mlp.hook_out`, ReLU) and
`mntss/transcoder-Llama-3.2-1B` (with W_skip).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError
from hagd_jax.files import Tensor
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats import gemma_scope
from hagd_jax.transcoders.formats.circuit_tracer import (
    CONFIG,
    Given,
    layer_tensor,
    prediction_views,
)
from hagd_jax.transcoders.formats.finding import (
    first_shape,
    gather,
    layers_of,
    numbered,
    open_files,
    refuse_others,
)
from hagd_jax.transcoders.formats.hub import fetch
from hagd_jax.transcoders.formats.stored import Stored, Views

# Parameter → tensor.
_NEEDED = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_OPTIONAL = {"threshold": "activation_function.threshold", "W_skip": "W_skip"}


def open_folder(given: Given) -> Stored:
    """Find and check the tensors of a folder.

    Args:
        given: Its `config.yaml`.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a layer or tensor is missing, has another shape, or is not known.
        ConfigError: If the configuration is not supported.
    """
    sources = open_files(_files(given))
    if gemma_scope.names_of(sources[0]) is not None:
        return gemma_scope.listed(given, sources)
    features, width = first_shape(sources[0], "W_enc", 2)
    extra = {leaf: name for leaf, name in _OPTIONAL.items() if name in sources[0].entries}
    views = gather(sources, _NEEDED | extra, features)
    refuse_others(sources, views.values())
    config = TranscoderConfig(
        n_layers=len(sources),
        d_model=width,
        n_features=features,
        skip="W_skip" in extra,
        **given.fields("threshold" in extra),
    )
    if config.activation != "jump_relu" and "threshold" in extra:
        raise CheckpointError(
            f"{given.folder / CONFIG}: activation",
            got=config.activation,
            expected=f"jump_relu, since there is an {_OPTIONAL['threshold']}",
        )
    if config.activation == "jump_relu":
        views |= gather(sources, {"threshold": _OPTIONAL["threshold"]}, features)
    if config.predict:
        views |= prediction_views(given.folder, config.n_layers)
    unweighted = given.reading.unweighted
    return Stored(config, Views(views), unweighted=unweighted, model_name=given.model_name)


def _files(given: Given) -> list[Path]:
    """The files in the order of layers: those that the configuration lists, or all there are."""
    if given.values.get("transcoders") is None:
        found = numbered(given.folder, r"layer_(\d+)\.safetensors")
        if not found:
            raise CheckpointError(
                str(given.folder), got="no layer_0.safetensors", expected="one file a layer"
            )
        layers_of(found, str(given.folder))
        return list(found.values())
    return listed(given)


def listed(given: Given) -> list[Path]:
    """Find the files that a configuration lists under `transcoders`.

    Args:
        given: Its `config.yaml`.

    Returns:
        The files in the order of layers, fetched where they are addresses on a hub.

    Raises:
        CheckpointError: If there is no list, an entry leads out of the folder, or the hub cannot be
            reached.
    """
    what, entries = f"{given.folder / CONFIG}: transcoders", given.values.get("transcoders")
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(what, got=quoted(entries), expected="a list of files")
    return [_file(given.folder, str(entry), what) for entry in entries]


def _file(folder: Path, entry: str, what: str) -> Path:
    if entry.startswith("hf://"):
        return fetch(entry)
    path = PurePosixPath(entry)
    if path.is_absolute() or ".." in path.parts:
        raise CheckpointError(what, got=quoted(entry), expected="a file in the folder, or hf://...")
    return folder / path


def files(params: dict[str, Any], config: TranscoderConfig) -> Iterator[tuple[str, list[Tensor]]]:
    """List the files to write, with their tensors.

    Args:
        params: Of the transcoder.
        config: Of the transcoder.

    Yields:
        A file's name and its tensors.
    """
    names = _NEEDED | {leaf: name for leaf, name in _OPTIONAL.items() if leaf in params}
    for layer in range(config.n_layers):
        tensors = [layer_tensor(name, params[leaf], layer) for leaf, name in names.items()]
        yield f"layer_{layer}.safetensors", tensors
