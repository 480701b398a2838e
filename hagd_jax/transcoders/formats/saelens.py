"""SAELens transcoder folders: `cfg.json` and `sae_weights.safetensors`, a folder a layer.

A file holds W_enc (D, F), b_enc (F), W_dec (F, D), b_dec (D), and by the architecture W_skip
(D, D), applied as x W_skipᵀ, and `threshold` (F). What a transcoder reads and writes, and thereby
its layer, is told by the hook names in the `metadata`: `hf_hook_name` and `hf_hook_name_out` where
they are given, else `hook_name` and `hook_name_out`. (For Gemma Scope 2, SAELens gives
`hook_mlp_in`, which is before the norm in TransformerLens, beside
`model.layers.N.pre_feedforward_layernorm.output`, which is right: `get_gemma_3_config_from_hf` in
its `loading/pretrained_sae_loaders.py`.)

Its JumpReLU is relu(x) above the threshold, so that a negative threshold counts as 0. With `k` and
the activation function `topk`, the k largest pre-activations are kept where they are positive. With
`rescale_acts_by_decoder_norm`, pre-activations are multiplied by the norms of their rows of W_dec,
and features divided by them before they are decoded; both go into the weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import checked, read_json_object
from hagd_jax.transcoders.config import TranscoderConfig, Writes
from hagd_jax.transcoders.formats import hooks
from hagd_jax.transcoders.formats.finding import (
    first_shape,
    gather,
    layers_of,
    open_files,
    refuse_others,
)
from hagd_jax.transcoders.formats.options import ANY, OFF, Allowed, Size, Text, require_known
from hagd_jax.transcoders.formats.stored import Stored, Views

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_ARCHITECTURES = {
    "transcoder": (),
    "skip_transcoder": ("W_skip",),
    "jumprelu_transcoder": ("threshold",),
    "jumprelu_skip_transcoder": ("threshold", "W_skip"),
}
# Every field of a configuration, and the values under which the mathematics is as above.
_ALLOWED: Allowed = {
    "architecture": ANY, "d_in": ANY, "d_sae": ANY, "d_out": ANY, "metadata": ANY,
    "hook_name": ANY, "hook_name_out": ANY, "model_name": ANY,
    "model_from_pretrained_kwargs": ANY, "k": ANY, "activation_fn_kwargs": ANY,
    "activation_fn": ("relu", "topk", None), "activation_fn_str": ("relu", "topk", None),
    "rescale_acts_by_decoder_norm": (False, True, None),
    "normalize_activations": ("none", None, False), "reshape_activations": ("none", None),
    "apply_b_dec_to_input": OFF, "finetuning_scaling_factor": OFF,
    "hook_head_index": (None,), "hook_head_index_out": (None,),
    # Which text it was trained on, and how: `SAEMetadata` and `TrainingSAEConfig`.
    **dict.fromkeys((
        "dtype", "device", "hook_layer", "hook_layer_out", "hf_hook_name", "hf_hook_name_out",
        "model_class_name", "prepend_bos", "exclude_special_tokens", "neuronpedia_id",
        "context_size", "seqpos_slice", "dataset_path", "dataset_trust_remote_code",
        "sae_lens_version", "sae_lens_training_version", "noise_scale", "mse_loss_normalization",
        "b_dec_init_method", "decoder_init_norm", "lp_norm", "l0_coefficient", "l1_coefficient",
        "l0_warm_up_steps", "l1_warm_up_steps", "aux_loss_coefficient", "use_sparse_activations",
    ), ANY),
}  # fmt: skip
# What TransformerLens is asked for when it loads the model, if that is the model as it was
# published: folding norms or centring what is written makes another one of it.
_LOADING: Allowed = {
    "fold_ln": OFF, "center_writing_weights": OFF, "refactor_factored_attn_matrices": OFF,
    "revision": (None,), "checkpoint_index": (None,), "checkpoint_value": (None,),
    **dict.fromkeys((
        "center_unembed", "fold_value_biases", "default_prepend_bos", "default_padding_side",
        "dtype", "torch_dtype", "device", "n_devices", "move_to_device", "trust_remote_code",
    ), ANY),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Written:
    """Types and ranges of what is computed with; hooks and `k` have checks of their own."""

    d_in: Size
    d_sae: Size
    d_out: Size
    model_name: Text | None = None
    rescale_acts_by_decoder_norm: bool | None = None


class _Kind(NamedTuple):
    """What all layers must share: what they read, what they compute, and their sizes."""

    reading: hooks.Reading
    writes: Writes
    architecture: str
    k: int
    rescaled: bool
    d_in: Any
    d_sae: Any

    def __str__(self) -> str:
        kept = f" keeping {self.k} features" if self.k else ""
        scaled = ", rescaled by decoder norms," if self.rescaled else ""
        return (
            f"{self.architecture}{kept}{scaled} of d_in {self.d_in} from {self.reading.site} to "
            f"{self.writes}"
        )


class _Layer(NamedTuple):
    """One folder and its layer."""

    folder: Path
    layer: int
    kind: _Kind
    model_name: str


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
    first, kind = layers[0], layers[0].kind
    sources = open_files(layer.folder / WEIGHTS for layer in layers)
    width, features = first_shape(sources[0], "W_enc", 2)
    if (kind.d_in, kind.d_sae) != (width, features):
        raise CheckpointError(
            str(first.folder / CONFIG),
            got=f"d_in {quoted(kind.d_in)} and d_sae {quoted(kind.d_sae)}",
            expected=f"d_in {width} and d_sae {features}, by W_enc",
        )
    extra = _ARCHITECTURES[kind.architecture]
    views = gather(sources, {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", *extra)})
    refuse_others(sources, views.values())
    config = TranscoderConfig(
        n_layers=len(layers),
        d_model=width,
        n_features=features,
        activation="jump_relu" if "threshold" in extra else "topk" if kind.k else "relu",
        k=kind.k,
        reads=kind.reading.site,
        writes=kind.writes,
        skip="W_skip" in extra,
    )
    return Stored(
        config,
        Views(views),
        layouts={"W_enc": "e f"},
        unweighted=kind.reading.unweighted,
        positive="threshold" in extra,
        rescaled=kind.rescaled,
        model_name=first.model_name,
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
    first, *rest = layers = [found[layer] for layer in sorted(found)]
    for one in rest:
        if one.kind != first.kind:
            raise ConfigError(
                str(one.folder / CONFIG),
                got=str(one.kind),
                expected=f"{first.kind}, as in {first.folder.name}",
            )
    return layers


def _read(folder: Path) -> _Layer:
    path = folder / CONFIG
    cfg = _merged(read_json_object(path), path)
    architecture = cfg.get("architecture")
    if not isinstance(architecture, str) or architecture not in _ARCHITECTURES:
        raise ConfigError(
            f"{path}: architecture",
            got=quoted(architecture),
            expected=f"one of {', '.join(_ARCHITECTURES)}",
            mend="The others are autoencoders, which reconstruct what they read.",
        )
    _check(cfg, path)
    k, rescaled = _activation(cfg, architecture, path)
    (read, block), (written, block_out) = _place(cfg, "hook_name"), _place(cfg, "hook_name_out")
    writes = hooks.writing(written, f"{path}: hook_name_out")
    reading = hooks.reading(read, f"{path}: hook_name")
    if not re.fullmatch(r"\d{1,6}", block) or block != block_out:
        raise ConfigError(
            f"{path}: hook_name_out",
            got=f"{quoted(written)} with hook_name {quoted(read)}",
            expected="hooks of one and the same block",
        )
    kind = _Kind(reading, writes, architecture, k, rescaled, cfg.get("d_in"), cfg.get("d_sae"))
    return _Layer(folder, int(block), kind, str(cfg.get("model_name") or ""))


def _place(cfg: Mapping[str, Any], field: str) -> tuple[Any, str]:
    """The name that tells a place, and its block."""
    name = cfg.get(f"hf_{field}") or cfg.get(field)
    return name, hooks.split(name)[0]


def _merged(cfg: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields and those of the metadata, where version 6 keeps how a transcoder is used."""
    metadata = cfg.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ConfigError(f"{path}: metadata", got=quoted(metadata), expected="an object")
    for name in sorted(metadata.keys() & cfg.keys()):
        if metadata[name] != cfg[name]:
            raise ConfigError(
                f"{path}: {name}",
                got=f"{quoted(cfg[name])}, and {quoted(metadata[name])} in the metadata",
                expected="one value",
            )
    return metadata | cfg


def _check(cfg: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not known, and what is not computed here."""
    if cfg.get("normalize_activations") not in _ALLOWED["normalize_activations"]:  # type: ignore[operator]
        raise ConfigError(
            f"{path}: normalize_activations",
            got=quoted(cfg["normalize_activations"]),
            expected="'none'",
            mend="Fold it into the weights first; SAELens has methods named fold_... for that.",
        )
    require_known(cfg, _ALLOWED, str(path))
    checked(Written, cfg, str(path), strict=False, error=ConfigError)
    if cfg.get("d_in") != cfg.get("d_out"):
        raise ConfigError(
            f"{path}: d_out",
            got=quoted(cfg.get("d_out")),
            expected=f"d_in = {quoted(cfg.get('d_in'))}",
        )
    options = cfg.get("model_from_pretrained_kwargs") or {}
    what = f"{path}: model_from_pretrained_kwargs"
    if not isinstance(options, dict):
        raise ConfigError(what, got=quoted(options), expected="an object")
    require_known(options, _LOADING, what)


def _activation(cfg: Mapping[str, Any], architecture: str, path: Path) -> tuple[int, bool]:
    """How many features are kept (0 for all), and whether they are rescaled by decoder norms."""
    extra = cfg.get("activation_fn_kwargs") or {}
    if not isinstance(extra, dict):
        raise ConfigError(f"{path}: activation_fn_kwargs", got=quoted(extra), expected="an object")
    require_known(extra, {"k": ANY}, f"{path}: activation_fn_kwargs")
    names = {
        quoted(cfg[n]).strip("'") for n in ("activation_fn", "activation_fn_str") if cfg.get(n)
    }
    counts = [k for k in (cfg.get("k"), extra.get("k")) if k is not None]
    if len(names) > 1 or any(k != counts[0] for k in counts):
        raise ConfigError(
            f"{path}: activation_fn",
            got=f"{' and '.join(map(repr, sorted(names)))} with k of {quoted(counts)}",
            expected="one activation function with one k",
        )
    rescaled = bool(cfg.get("rescale_acts_by_decoder_norm"))
    topk = names == {"topk"} or (not names and bool(counts))
    if "threshold" in _ARCHITECTURES[architecture] and (topk or rescaled):
        raise ConfigError(
            f"{path}: {'k' if topk else 'rescale_acts_by_decoder_norm'}",
            got=quoted(counts[0]) if counts else True,
            expected=f"none with architecture {architecture}, whose features have thresholds",
        )
    if topk != bool(counts):
        raise ConfigError(
            f"{path}: k",
            got=quoted(counts[0]) if counts else "none",
            expected="the number of features that topk keeps, and none with relu",
        )
    if topk and (type(counts[0]) is not int or counts[0] < 1):
        raise ConfigError(f"{path}: k", got=quoted(counts[0]), expected="a whole number, 1 or more")
    return (counts[0] if topk else 0), rescaled
