"""Gemma Scope 2's folders of transcoders, whose tensors `gemma_scope` describes.

Each has a `config.json`, with `hf_hook_point_in` and `hf_hook_point_out`, `width`, `architecture`,
`affine_connection`, `type`, `model_name` and `l0`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import checked, read_json_object
from hagd_jax.transcoders.config import Writes
from hagd_jax.transcoders.formats import gemma_scope, hooks
from hagd_jax.transcoders.formats.finding import file_of, layers_of, numbered, open_files
from hagd_jax.transcoders.formats.options import ANY, Allowed, Size, Text, require_known
from hagd_jax.transcoders.formats.stored import Stored, TensorFile

CONFIG, WEIGHTS = "config.json", "params.safetensors"
ACROSS = r"params_layer_(\d+)\.safetensors"
# Every field of `config.json`, and the values under which the mathematics is as above.
_ALLOWED: Allowed = {
    "hf_hook_point_in": ANY, "hf_hook_point_out": ANY, "model_name": ANY, "width": ANY, "l0": ANY,
    "architecture": ("jump_relu",), "affine_connection": (True, False), "type": ANY,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Written:
    """Types and ranges of what is computed with."""

    hf_hook_point_in: Text
    hf_hook_point_out: Text
    width: Size
    architecture: Text
    type: Text
    model_name: Text = ""
    affine_connection: bool = False


class Kind(NamedTuple):
    """A kind is what all layers of a set share.

    Attributes:
        reading: What features read.
        writes: What is reconstructed.
        affine: Whether there is a skip connection.
        width: Features, of a layer or of all layers.
        model_name: The model that they are for.
    """

    reading: hooks.Reading
    writes: Writes
    affine: bool
    width: int
    model_name: str

    def __str__(self) -> str:
        more = " with an affine connection" if self.affine else ""
        return (
            f"{self.width} features from {self.reading.site} to {self.writes}{more}, for "
            f"{quoted(self.model_name)}"
        )


def open_folder(folder: Path) -> Stored:
    """Find and check the tensors of a folder of Gemma Scope 2's transcoders, one a layer.

    Args:
        folder: With `layer_{l}_width_{w}_l0_{n}/` in it, one for each layer.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If layers or tensors are missing, or there are several folders of a layer.
        ConfigError: If an option is not supported, or layers differ in one.
    """
    paths = sorted(path.parent for path in folder.glob(f"*/{WEIGHTS}"))
    found: dict[int, tuple[Path, Kind]] = {}
    for path in paths:
        kind, block = _kind(path / CONFIG, "transcoder")
        twin, _ = found.setdefault(int(block), (path, kind))
        if twin != path:
            got = f"{twin.name} and {path.name}"
            raise CheckpointError(
                str(folder), got=got, expected="one of each layer", mend=gemma_scope.SEVERAL
            )
    layers_of(found, str(folder))
    (first, kind), *rest = (found[layer] for layer in sorted(found))
    for path, other in rest:
        if other != kind:
            raise ConfigError(
                str(path / CONFIG), got=str(other), expected=f"{kind}, as in {first.name}"
            )
    sources = open_files(found[layer][0] / WEIGHTS for layer in sorted(found))
    _require_affine(sources[0], kind)
    return gemma_scope.per_layer(
        sources, _of(kind), kind.reading.unweighted, kind.model_name, kind.width
    )


def open_across_layers(folder: Path) -> Stored:
    """Find and check the tensors of a folder of one of Gemma Scope 2's cross-layer transcoders.

    Args:
        folder: With `config.json` and `params_layer_{l}.safetensors`.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If layers or tensors are missing, have another shape, or are not known.
        ConfigError: If an option is not supported.
    """
    kind, _ = _kind(folder / CONFIG, "clt")
    found = numbered(folder, ACROSS)
    layers_of(found, str(folder))
    sources = open_files(found.values())
    _require_affine(sources[0], kind)
    return gemma_scope.cross_layer(
        sources, _of(kind), kind.reading.unweighted, kind.model_name, kind.width
    )


def _of(kind: Kind) -> dict[str, Any]:
    return {"activation": "jump_relu", "reads": kind.reading.site, "writes": kind.writes}


def _kind(path: Path, expected: str) -> tuple[Kind, str]:
    """What a `config.json` says, and the block that its hooks name."""
    values = read_json_object(path)
    require_known(values, _ALLOWED, str(path))
    given = checked(Written, values, str(path), strict=False, error=ConfigError)
    if given.type != expected:
        raise ConfigError(
            f"{path}: type",
            got=quoted(given.type),
            expected=repr(expected),
            mend="The others are autoencoders, or read and write several layers at once.",
        )
    reading = hooks.reading(given.hf_hook_point_in, f"{path}: hf_hook_point_in")
    writes = hooks.writing(given.hf_hook_point_out, f"{path}: hf_hook_point_out")
    blocks = [hooks.split(name)[0] for name in (given.hf_hook_point_in, given.hf_hook_point_out)]
    right = r"\d{1,6}" if expected == "transcoder" else r"\{all\}"
    if blocks[0] != blocks[1] or not re.fullmatch(right, blocks[0]):
        raise ConfigError(
            f"{path}: hf_hook_point_out",
            got=f"{quoted(given.hf_hook_point_out)} with {quoted(given.hf_hook_point_in)}",
            expected="modules of one and the same layer"
            if expected == "transcoder" else "modules of {all} layers",
        )  # fmt: skip
    kind = Kind(reading, writes, given.affine_connection, given.width, given.model_name)
    return kind, blocks[0]


def _require_affine(source: TensorFile, kind: Kind) -> None:
    has = gemma_scope.AFFINE in source.entries
    if has != kind.affine:
        raise CheckpointError(
            f"{file_of(source)}: tensor {gemma_scope.AFFINE}",
            got="it" if has else "none",
            expected=f"what the configuration says, affine_connection {kind.affine}",
        )
