"""EleutherAI's `sparsify` folders: `<path of the MLP>/{cfg.json, sae.safetensors}`.

A file holds `encoder.weight` (F, D), `encoder.bias` (F), W_dec (F, D), b_dec (D) and optionally
W_skip (D, D), applied as x W_skipᵀ; the features are the k largest positive pre-activations of
what the MLP module reads, and reconstruct what this module puts out, before a norm behind it. As
when `sparsify` loads them, nothing is normalised: `normalize_decoder` and `multi_topk` say how
they were trained.

Folders from before the option `transcode` were trained with b_dec taken off the input, as for an
autoencoder, and are read so; that these are transcoders is told by their skip connection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import checked, read_json_object
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats.finding import (
    first_shape,
    gather,
    layers_of,
    numbered,
    open_files,
    refuse_others,
)
from hagd_jax.transcoders.formats.options import ANY, OFF, Allowed, Size, require_known
from hagd_jax.transcoders.formats.stored import Stored, Views

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_MLP = r"(?:\w+\.)*(?:layers|h)\.(\d+)\.mlp"
_NAMES = {
    "W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec",
}  # fmt: skip
# Every option of `sparsify`, and the values under which the mathematics is as above.
_ALLOWED: Allowed = {
    "activation": ("topk",), "d_in": ANY, "k": ANY, "num_latents": ANY, "expansion_factor": ANY,
    "skip_connection": (False, True), "transcode": (True, False), "signed": OFF,
    "embed_skip": OFF, "gram_lookup": OFF,
    # How it was trained.
    "normalize_decoder": ANY, "multi_topk": ANY, "lookup_max_order": ANY, "gram_table_hash": ANY,
}  # fmt: skip
# What all layers must agree on; a number of latents may be given in two ways.
_SHARED = ("activation", "d_in", "k", "num_latents", "skip_connection", "transcode")


@dataclasses.dataclass(frozen=True)
class Written:
    """Types and ranges of what is computed with."""

    d_in: Size
    k: Size = 32
    num_latents: Size = 0
    expansion_factor: Size | float = 32
    skip_connection: bool = False
    transcode: bool | None = None


def open_folder(folder: Path) -> Stored:
    """Find and check the tensors of a folder.

    Args:
        folder: With a folder for each MLP in it.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a layer or tensor is missing, has another shape, or is not known.
        ConfigError: If an option is not supported, or layers differ in one.
    """
    layers = _layers(folder)
    cfg = _same(path / CONFIG for path in layers)
    what = str(layers[0] / CONFIG)
    transcode = _transcodes(cfg, what)
    sources = open_files(path / WEIGHTS for path in layers)
    features, width = first_shape(sources[0], "encoder.weight", 2)
    skip = bool(cfg.get("skip_connection"))
    views = gather(sources, _NAMES | ({"W_skip": "W_skip"} if skip else {}))
    refuse_others(sources, views.values())
    _check_sizes(cfg, width, features, what)
    config = TranscoderConfig(
        n_layers=len(layers), d_model=width, n_features=features, k=cfg.get("k", 32), skip=skip,
        writes="mlp_out_raw",
    )  # fmt: skip
    return Stored(config, Views(views), centred=not transcode)


def _layers(folder: Path) -> list[Path]:
    found = numbered(folder, _MLP)
    held = {path.parent for path in folder.glob(f"*/{WEIGHTS}")}
    others = sorted(path.name for path in held - {*found.values()})
    if others or not found:
        raise ConfigError(
            f"{folder}: place",
            got=", ".join(others) or "no folder of an MLP",
            expected="MLPs, such as layers.0.mlp or model.layers.0.mlp",
            mend="Pass a folder that holds the transcoders of a model's MLPs, and those alone.",
        )
    layers_of(found, str(folder))
    return list(found.values())


def _same(files: Iterable[Path]) -> dict[str, Any]:
    """The configuration, which must be that of every layer."""
    found = {file: read_json_object(file) for file in files}
    for file, cfg in found.items():
        require_known(cfg, _ALLOWED, str(file))
        checked(Written, cfg, str(file), strict=False, error=ConfigError)
    (place, first), *rest = found.items()
    for file, other in rest:
        for name in _SHARED:
            if first.get(name) != other.get(name):
                raise ConfigError(
                    f"{file}: {name}",
                    got=quoted(other.get(name)),
                    expected=f"{quoted(first.get(name))}, as in {place}",
                )
    return first


def _check_sizes(cfg: Mapping[str, Any], width: int, features: int, what: str) -> None:
    latents, factor = cfg.get("num_latents"), cfg.get("expansion_factor", 32)
    right = latents == features if latents else factor == features / width
    if cfg.get("d_in") != width or not right:
        raise CheckpointError(
            what,
            got=f"d_in {quoted(cfg.get('d_in'))}, num_latents {quoted(latents)}, "
            f"expansion_factor {quoted(factor)}",
            expected=f"d_in {width} and {features} latents, by encoder.weight",
        )


def _transcodes(cfg: Mapping[str, Any], what: str) -> bool:
    """Whether the folder says that it is a transcoder; an autoencoder is refused."""
    transcode = cfg.get("transcode")
    if not transcode and (transcode is not None or not cfg.get("skip_connection")):
        raise ConfigError(
            f"{what}: transcode",
            got=quoted(transcode),
            expected="True",
            mend="This is an autoencoder: it reconstructs what it reads, not what an MLP computes.",
        )
    return bool(transcode)
