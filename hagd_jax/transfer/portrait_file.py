"""Files of portraits, which take minutes to measure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from hagd_jax.errors import CheckpointError, InputError, require_is
from hagd_jax.files import checked, named, parse_json
from hagd_jax.files.tensors import read_arrays, save_arrays
from hagd_jax.files.writing import as_path
from hagd_jax.roles import NAMES
from hagd_jax.tasks.seen import Seen
from hagd_jax.transfer.portrait import Portrait
from hagd_jax.units import Unit
from hagd_jax.units.unit import HEAD, INNER

FORMAT = "hagd_jax portrait 1"
_ABOUT = "portrait"
_Count = Annotated[int, Meta(ge=0, le=2**31)]


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One unit, as the file has it."""

    kind: str
    layers: tuple[_Count, _Count]
    index: _Count
    block: str
    ranges: tuple[tuple[_Count, _Count], ...]
    name: str


@dataclasses.dataclass(frozen=True)
class _Record:
    """What the file holds beside arrays."""

    format: str
    columns: tuple[str, ...]
    units: tuple[_Unit, ...]
    model: str
    task: str
    seen: Any = None


def save_portrait(own: Portrait, path: str | Path) -> None:
    """Write a portrait to a safetensors file, completely or not at all.

    Args:
        own: The portrait.
        path: The file; replaced if it exists.

    Raises:
        CheckpointError: If it cannot be written.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> config = hagd.transfer.PortraitConfig(edges=0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3"], config)
        >>> save_portrait(own, "portrait.safetensors")
        >>> load_portrait("portrait.safetensors")
        Portrait(1 unit of '' in 'induction plain small 0', without structure)
    """
    require_is("portrait", own, Portrait)
    units = tuple(_Unit(u.kind, u.layers, u.index, u.block, u.ranges, name)
                  for u, name in zip(own.units, own.names, strict=True))  # fmt: skip
    record = _Record(FORMAT, NAMES, units, own.model, own.task, own.seen.to_json())
    arrays = {"values": own.values, "known": own.known.astype(np.uint8), "depth": own.depth}
    if own.shares is not None:
        arrays["shares"] = own.shares
    save_arrays(as_path(path), arrays, {_ABOUT: json.dumps(dataclasses.asdict(record))})


def load_portrait(path: str | Path) -> Portrait:
    """Read a portrait that `save_portrait` wrote.

    Args:
        path: The file.

    Returns:
        The portrait. The history of one whose file names no data is unknown.

    Raises:
        CheckpointError: If the file is absent, broken, of another format, holds no portrait, or
            one with columns that this version does not measure.
    """
    path = as_path(path)
    arrays, texts = read_arrays(path)
    where = f"{named(path)}, read as a portrait"
    if _ABOUT not in texts:
        raise CheckpointError(where, got="no record of a portrait", expected=f"one of {FORMAT!r}")
    record = checked(_Record, parse_json(texts[_ABOUT], where), where)
    names = {"values", "known", "depth"}
    if record.format != FORMAT or set(arrays) - {"shares"} != names or record.columns != NAMES:
        raise CheckpointError(
            where, got=f"the format {record.format[:40]!r} with {len(record.columns)} columns and "
            f"{len(arrays)} arrays",
            expected=f"{FORMAT!r} with the {len(NAMES)} columns of this version",
            mend="Measure it again.",
        )  # fmt: skip
    try:
        units = tuple(_unit(own) for own in record.units)
        return Portrait(
            units, tuple(own.name for own in record.units),
            _floats(arrays["values"]), _bools(arrays["known"]),
            _floats(arrays["shares"]) if "shares" in arrays else None, _floats(arrays["depth"]),
            record.model, record.task, Seen.from_json(record.seen),
        )  # fmt: skip
    except InputError as error:
        raise CheckpointError(f"{where}, {error}") from error


def _unit(own: _Unit) -> Unit:
    """A unit of a kind that exists, whose leaves are ranges apart from each other."""
    if own.kind not in (*INNER, HEAD, "neuron") or own.layers[0] > own.layers[1]:
        raise InputError("unit of a portrait", got=f"a {own.kind[:20]} of layers {own.layers}",
                         expected="a head, a neuron or what is made of them")  # fmt: skip
    ends = [place for held in own.ranges for place in held]
    if not ends or ends != sorted(set(ends)):
        raise InputError(f"leaves of a {own.kind[:20]}", got=str(own.ranges)[:60],
                         expected="ascending ranges apart from each other")  # fmt: skip
    return Unit(own.kind, own.layers, own.index, own.block, own.ranges)


def _bools(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.max(initial=0) > 1:
        raise InputError("array of a portrait", got=str(array.dtype), expected="0 or 1")
    return array.astype(bool)


def _floats(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise InputError("array of a portrait", got=str(array.dtype), expected="numbers")
    return array.astype(np.float64)
