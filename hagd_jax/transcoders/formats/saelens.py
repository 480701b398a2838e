"""SAELens transcoder folders: `cfg.json` and `sae_weights.safetensors`, a folder a layer.

A file holds W_enc (D, F), b_enc (F), W_dec (F, D), b_dec (D), and by the architecture W_skip
(D, D), applied as x W_skipᵀ, and `threshold` (F). What a transcoder reads and writes, and thereby
its layer, is told by the hook names in the `metadata`.

Its JumpReLU is relu(x) above the threshold, so that a negative threshold counts as 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.models.safetensors_source import read_json_object
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats import hooks
from hagd_jax.transcoders.formats.finding import (
    first_shape,
    gather,
    layers_of,
    open_files,
    refuse_others,
)
from hagd_jax.transcoders.formats.stored import Stored, Views

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_ARCHITECTURES = {
    "transcoder": (),
    "skip_transcoder": ("W_skip",),
    "jumprelu_transcoder": ("threshold",),
    "jumprelu_skip_transcoder": ("threshold", "W_skip"),
}
# Options that change the mathematics, and the values under which they do not.
_OFF: dict[str, tuple[Any, ...]] = {
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "apply_b_dec_to_input": (False, None),
    "activation_fn": ("relu", None),
    "activation_fn_str": ("relu", None),
    "hook_head_index": (None,),
    "hook_head_index_out": (None,),
}
# TransformerLens then runs another model: norms without weights, or other MLP outputs.
_PROCESSING = ("fold_ln", "center_writing_weights")


class _Layer(NamedTuple):
    """One folder: its layer, what it reads, and the options that all layers must share."""

    folder: Path
    layer: int
    reading: hooks.Reading
    architecture: str
    d_in: Any
    d_sae: Any


def open_folder(folder: Path) -> Stored:
    """Find and check the tensors of a folder.

    Args:
        folder: With a folder for each layer in it, or that of the only layer.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a layer or tensor is missing, has another shape, or is not known.
        ConfigError: If an option is not supported, or layers differ in one.
    """
    layers = _layers(folder)
    first = layers[0]
    sources = open_files(layer.folder / WEIGHTS for layer in layers)
    width, features = first_shape(sources[0], "W_enc", 2)
    if (first.d_in, first.d_sae) != (width, features):
        raise CheckpointError(
            str(first.folder / CONFIG),
            got=f"d_in {first.d_in} and d_sae {first.d_sae}",
            expected=f"d_in {width} and d_sae {features}, by W_enc",
        )
    extra = _ARCHITECTURES[first.architecture]
    views = gather(sources, {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", *extra)})
    refuse_others(sources, views.values())
    config = TranscoderConfig(
        n_layers=len(layers),
        d_model=width,
        n_features=features,
        activation="jump_relu" if "threshold" in extra else "relu",
        reads=first.reading.site,
        skip="W_skip" in extra,
    )
    return Stored(
        config,
        Views(views),
        layouts={"W_enc": "e f"},
        unweighted=first.reading.unweighted,
        positive="threshold" in extra,
    )


def _layers(folder: Path) -> list[_Layer]:
    """The folders in the order of their layers; all are of one kind."""
    alone = (folder / CONFIG).is_file()
    paths = [folder] if alone else sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    found: dict[int, _Layer] = {}
    for path in paths:
        one = _read(path)
        twin = found.setdefault(one.layer, one)
        if twin is not one:
            raise CheckpointError(
                str(folder),
                got=f"{twin.folder.name} and {path.name}, both of layer {one.layer}",
                expected="one folder a layer",
            )
    layers_of(found, str(folder))
    layers = [found[layer] for layer in sorted(found)]
    for one in layers:
        if one[2:] != layers[0][2:]:
            raise ConfigError(
                str(one.folder / CONFIG),
                got=f"{one.architecture} of d_in {one.d_in} that reads {one.reading.site}",
                expected=f"{layers[0].architecture} of d_in {layers[0].d_in} that reads "
                f"{layers[0].reading.site}, as in {layers[0].folder.name}",
            )
    return layers


def _read(folder: Path) -> _Layer:
    path = folder / CONFIG
    cfg = read_json_object(path)
    # Version 6 moved what says how a transcoder is used into the metadata.
    metadata = cfg.get("metadata")
    cfg = (metadata if isinstance(metadata, dict) else {}) | cfg
    architecture = str(cfg.get("architecture"))
    if architecture not in _ARCHITECTURES:
        raise ConfigError(
            f"{path}: architecture",
            got=repr(architecture),
            expected=f"one of {', '.join(_ARCHITECTURES)}",
            mend="The others are autoencoders, which reconstruct what they read.",
        )
    _check(cfg, path)
    read, written = cfg.get("hook_name"), cfg.get("hook_name_out")
    hooks.require_output(written, cfg.get("model_name"), f"{path}: hook_name_out")
    reading = hooks.reading(read, f"{path}: hook_name")
    block, block_out = hooks.split(read)[0], hooks.split(written)[0]
    if not re.fullmatch(r"\d{1,6}", block) or block != block_out:
        raise ConfigError(
            f"{path}: hook_name_out",
            got=f"{written!r} with hook_name {read!r}",
            expected="hooks of one and the same block",
        )
    return _Layer(folder, int(block), reading, architecture, cfg.get("d_in"), cfg.get("d_sae"))


def _check(cfg: Mapping[str, Any], path: Path) -> None:
    """Refuse options that change the mathematics."""
    for name, allowed in _OFF.items():
        if cfg.get(name) not in allowed:
            raise ConfigError(
                f"{path}: {name}",
                got=repr(cfg[name]),
                expected=repr(allowed[0]),
                mend="Fold it into the weights first; SAELens has methods named fold_... for that."
                if name == "normalize_activations"
                else None,
            )
    if cfg.get("d_in") != cfg.get("d_out"):
        raise ConfigError(
            f"{path}: d_out", got=cfg.get("d_out"), expected=f"d_in = {cfg.get('d_in')}"
        )
    options = cfg.get("model_from_pretrained_kwargs")
    for name in _PROCESSING:
        if isinstance(options, dict) and options.get(name):
            raise ConfigError(
                f"{path}: model_from_pretrained_kwargs",
                got=f"{name}: {options[name]}",
                expected="a model as it was published",
                mend="TransformerLens changed the model that this was trained on.",
            )
