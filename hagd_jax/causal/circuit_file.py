"""What the files of circuits say: names, types and ranges, before a circuit is made of them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import (
    Bounds,
    as_path,
    checked,
    named,
    parse_json,
    read_json_object,
    with_digest,
    without_digest,
)
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.unit import Inner

# Circuits with units of several nodes have the second format, all others the first.
FORMAT, WITH_UNITS = 1, 2
EDGES, WIRING = "edges", "wiring"
# A circuit of a million nodes with its configuration.
_FILE = Bounds(size=2**27, items=8_000_000)
_CONFIG = Bounds(size=2**24, items=1_000_000)
# Units of a model, or edges between them, that a mask may have: of a bit each, 128 MiB.
_MOST_UNITS = 2**30

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Layers = Annotated[int, Meta(ge=0, le=2**14)]
Name = Annotated[str, Meta(max_length=1000)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """What both kinds of files hold, see `Circuit`."""

    format: Literal[1]
    model: Name
    task: Name
    scores: tuple[float, ...]
    seed: Seed = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    seen: dict[str, Any] | None = None
    # Files written before `seen` was recorded have the ablation of the search at most.
    ablation: Name | None = None

    def provenance(self) -> dict[str, Any]:
        """Fields that every circuit has; the history of one that names no data is unknown."""
        seen = Seen.from_json(self.seen)
        if self.seen is None and self.ablation is not None:
            seen = Seen(known=False, ablations=(self.ablation,))
        # A choice of members rests on something: a record that has lost it all is no record.
        if self.scores and not (seen.ablations or seen.splits or seen.prompts):
            seen |= Seen.unknown()
        fields = {
            name: getattr(self, name) for name in ("model", "task", "scores", "seed", "config")
        }
        return fields | {"seen": seen}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitRecord:
    """A unit of several nodes.

    Attributes:
        kind: As in `Unit`.
        layers: First and last.
        score: What it was chosen by.
        index: As in `Unit`.
        block: Of a cluster: which block it is in.
        members: Of a cluster: its heads or features, as ranges [first, last] of indices in the
            layer. Blocks and bands hold all of theirs.
        span: The only span at which it is, in circuits whose nodes are split by span.
    """

    kind: Inner | Literal["head", "neuron", "feature"]
    layers: tuple[Layers, Layers]
    score: float
    index: Count = 0
    block: Literal["", "attention", "mlp"] = ""
    members: tuple[tuple[Count, Count], ...] = ()
    span: Annotated[str, Meta(max_length=40)] = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeRecord:
    """The tree that units are of.

    Attributes:
        digest: Hexadecimal digits.
        band: Layers of a band.
    """

    digest: Annotated[str, Meta(pattern="^[0-9a-f]{8,64}$")]
    band: Annotated[int, Meta(ge=1, le=2**31 - 1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeFile(_File):
    """The file of a circuit of nodes.

    Attributes:
        nodes: Kind, layer and index of each.
        space: Layers, heads a layer, features a layer.
        dictionary: As in `Circuit`.
        per_expert: As in `Circuit`.
        about: Role, necessity and radius of each unit, see `About`; files need not have it.
        tree: The tree of the units, in the second format, see `TreeRecord`.
        units: Those of several nodes, in the second format, see `UnitRecord`.
    """

    format: Literal[1, 2]  # type: ignore[assignment]
    tree: dict[str, Any] | None = None
    units: tuple[dict[str, Any], ...] | None = None
    nodes: tuple[tuple[Name, Layers, Count], ...]
    space: tuple[Layers, Layers, Count]
    dictionary: Name = "neurons"
    per_expert: Annotated[tuple[Count, ...], Meta(max_length=2**14)] = ()
    about: tuple[tuple[Name, float, Count | None], ...] | None = None

    def size(self) -> int:
        """Return the number of nodes of the model."""
        layers, heads, features = self.space
        return layers * (heads + features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeFile(_File):
    """The file of a circuit of edges.

    Attributes:
        kind: `edges`.
        edges: Writer, reader and input of each.
        shape: Layers, heads, key/value heads, and whether blocks are parallel.
    """

    kind: Literal["edges"]
    edges: tuple[tuple[Name, Name, Name], ...]
    shape: tuple[Layers, Layers, Layers, bool]

    def size(self) -> int:
        """How many entries a mask of the model's edges has."""
        layers, heads, keys, _ = self.shape
        return (layers * (heads + 2 * keys + 1) + 1) * (1 + layers * heads + layers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WiringFile:
    """The file of a wiring, see `Wiring`.

    Attributes:
        circuit: What the file of its circuit of nodes says.
        edges: Source, reader, input and weight of each.
    """

    format: Literal[1]
    kind: Literal["wiring"]
    circuit: dict[str, Any]
    edges: tuple[tuple[Name, Name, Name, float], ...]
    parallel: bool
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    seen: dict[str, Any] | None = None

    def units_of(self, where: str) -> NodeFile:
        """Return what the file says of the circuit.

        Raises:
            CheckpointError: If that is no circuit of nodes.
        """
        found = record_of(self.circuit, f"{where}: circuit")
        if not isinstance(found, NodeFile):
            raise CheckpointError(f"{where}: circuit", got="one of edges", expected="one of nodes")
        return found

    def fields(self) -> dict[str, Any]:
        """Fields of the wiring besides circuit and edges."""
        seen = Seen.from_json(self.seen)
        if self.edges and not (seen.ablations or seen.splits or seen.prompts):
            seen |= Seen.unknown()
        return {"parallel": self.parallel, "seed": self.seed, "config": self.config, "seen": seen}


def read_record(path: str | Path) -> NodeFile | EdgeFile | WiringFile:
    """Read the file of a circuit of any kind.

    Args:
        path: The file.

    Returns:
        What it says, in the types and ranges that it should have.

    Raises:
        DamagedError: If its digest is another.
        CheckpointError: If it cannot be read, or says something else, naming the field.
    """
    path = as_path(path)
    record = without_digest(path, read_json_object(path, _FILE))
    return record_of(record, named(path))


def record_of(record: dict[str, Any], name: str) -> NodeFile | EdgeFile | WiringFile:
    """Check what the file of a circuit says.

    Args:
        record: Its fields, without a digest.
        name: What the file is called in messages.

    Returns:
        The same, in the types and ranges that it should have.

    Raises:
        CheckpointError: If it says something else, naming the field.
    """
    if record.get("kind") == WIRING:
        return checked(WiringFile, record, f"{name}, read as a wiring of format {FORMAT}")
    where = f"{name}, read as a circuit of format {FORMAT} or {WITH_UNITS}"
    kind = EdgeFile if record.get("kind") == EDGES else NodeFile
    found = checked(kind, record, where)
    if found.size() > _MOST_UNITS:
        raise CheckpointError(
            f"{where}: {'shape' if kind is EdgeFile else 'space'}",
            got=f"{found.size():,} units",
            expected=f"at most {_MOST_UNITS:,}",
        )
    if isinstance(found, NodeFile):
        given = found.tree is not None, found.units is not None
        if given != (found.format == WITH_UNITS,) * 2:
            raise CheckpointError(
                f"{where}: tree and units", got=f"{'some' if any(given) else 'none'} in format "
                f"{found.format}", expected=f"both in format {WITH_UNITS}, and none in {FORMAT}",
            )  # fmt: skip
    return found


def lines_of(record: dict[str, Any]) -> str:
    """Write the fields of a file as JSON with a digest, one field a line."""
    items = with_digest(record).items()
    fields = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in items)
    return "{\n" + ",\n".join(fields) + "\n}\n"


def plain_config(config: Any) -> dict[str, Any]:
    """A configuration as a file would give it back, so that what is loaded equals what was saved.

    Raises:
        InputError: If JSON cannot hold it.
    """
    try:
        text = json.dumps(config)
    except (TypeError, ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise InputError("config of the circuit", got=got, expected="JSON") from error
    return parse_json(text, "config of the circuit", _CONFIG, InputError)


def require_name(task: str) -> str:
    """The task that a circuit's file names; the user says which file a benchmark is read from.

    Args:
        task: What the file says.

    Returns:
        The same.

    Raises:
        InputError: If it has a file in it, as in `winogrande:FILE`.

    Example:
        >>> require_name("ioi")
        'ioi'
    """
    if not re.fullmatch(r"[\w-]{1,100}", task):
        raise InputError(
            "task of the circuit",
            got=quoted(task),
            expected="a name without a file in it",
            mend="Say which task is meant, with its file if it is a benchmark: --task NAME:FILE.",
        )
    return task
