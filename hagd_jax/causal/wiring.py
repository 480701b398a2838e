"""A wiring: the edges between the units of a circuit, measured, with their provenance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.circuit_file import (
    FORMAT,
    WIRING,
    WiringFile,
    lines_of,
    plain_config,
    read_record,
)
from hagd_jax.causal.grouping import UnitPlaces, unit_places
from hagd_jax.causal.node import plain_scores
from hagd_jax.errors import (
    CheckpointError,
    InputError,
    MissingDependencyError,
    require_index,
    require_is,
    require_list,
)
from hagd_jax.files import named, write_atomic
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import UnitTree
from hagd_jax.units.dictionary import NEURONS
from hagd_jax.units.unit import Unit
from hagd_jax.units.unit_edges import EMBED, LOGITS, Frame, UnitEdge, UnitEdges, frame_of
from hagd_jax.units.wired import Wired, wired

# Inputs of a unit that its line of the table names.
_TOLD = 4


class MeasuredEdge(NamedTuple):
    """An edge between units, with what closing it alone costs.

    Attributes:
        source: Name of the unit that writes, or `embed`.
        reader: Name of the unit that reads, or `logits`.
        input: `q`, `k` or `v` of attention, `mlp`, `stream` of a band of layers, or `logits`.
        weight: KL that is added when this edge alone is closed, as a share of the empty circuit's.
    """

    source: str
    reader: str
    input: str
    weight: float


@dataclasses.dataclass(frozen=True)
class Wiring:
    """A wiring is a circuit whose units read each other only along the edges that it lists.

    Without an edge, a reader sees what the source writes when it is ablated. With all edges that
    can exist it does what the circuit of nodes does.

    Attributes:
        circuit: The units.
        edges: The edges that are kept, readers from the bottom up.
        parallel: Whether an MLP of the model reads what the heads of its layer read.
        seen: The data that the edges were chosen by looking at; that of the circuit is added.
        seed: Seed of the search.
        config: Everything else that decided it, as JSON has it.

    Raises:
        InputError: If an edge is repeated or cannot exist, a weight is not finite, or nodes of the
            circuit are not neurons.

    Example:
        >>> from hagd_jax.causal import Circuit, Node
        >>> from hagd_jax.units import Space
        >>> nodes = (Node("head", 0, 1), Node("head", 1, 0))
        >>> circuit = Circuit(nodes, (1.0, 1.0), Space(2, 2, 4), model="small", task="copy")
        >>> edges = [("embed", "head 0.1", "v", 0.5), ("head 0.1", "logits", "logits", 1.0)]
        >>> print(Wiring(circuit, tuple(edges)))
        2 units, 2 edges (1.0 a unit) of 12: copy in small
        head 0.1  v ← embed 0.50
        logits    ← head 0.1 1.00
    """

    circuit: Circuit
    edges: tuple[MeasuredEdge, ...]
    parallel: bool = False
    seen: Seen = dataclasses.field(default_factory=Seen.unknown)
    seed: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    __repr__ = one_line

    def __post_init__(self):
        require_is("circuit", self.circuit, Circuit)
        require_is("seen", self.seen, Seen)
        if self.circuit.dictionary != NEURONS:
            raise InputError("circuit of a wiring", got=f"nodes of {self.circuit.dictionary!r}",
                             expected=f"heads and {NEURONS}")  # fmt: skip
        rows = require_list("edges", self.edges, "edges (source, reader, input, weight)")
        for row in rows:
            if not isinstance(row, tuple | list) or len(row) != 4:
                raise InputError("edge of a wiring", got=quoted(row),
                                 expected="(source, reader, input, weight)")  # fmt: skip
        weights = plain_scores("weights of edges", [row[3] for row in rows])
        edges = tuple(
            MeasuredEdge(row[0], row[1], row[2], weight)
            for row, weight in zip(rows, weights, strict=True)
        )
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "config", plain_config(self.config))
        object.__setattr__(self, "seed", require_index("seed", self.seed))
        object.__setattr__(self, "seen", self.seen | self.circuit.seen)
        if len(set(self.places().tolist())) < len(edges):
            raise InputError("wiring", got="an edge twice", expected="distinct edges")

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def leaves(self) -> int:
        """Return the number of edges, each of which is a member."""
        return len(self.edges)

    @property
    def units(self) -> tuple[Unit, ...]:
        """Return the units, from the bottom up."""
        return self.frame.units

    @property
    def per_unit(self) -> float:
        """Return the number of edges a unit."""
        return len(self.edges) / len(self.units)

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self.circuit.model

    @property
    def task(self) -> str:
        """Return the task's name."""
        return self.circuit.task

    @functools.cached_property
    def frame(self) -> Frame:
        """Return all edges that can exist between the units."""
        return frame_of(self.circuit.space, self.circuit.units, self.parallel)

    @classmethod
    def from_mask(
        cls, circuit: Circuit, mask: UnitEdges, weights: Iterable[float], **provenance: Any
    ) -> Wiring:
        """Make a wiring of the members of a boolean mask.

        Args:
            circuit: The units.
            mask: `UnitEdges` of bool, in the order of `frame.edges`.
            weights: What closing each member alone costs, in the order of the mask.
            **provenance: The remaining fields.

        Raises:
            InputError: If the mask is of other edges.
        """
        frame = frame_of(circuit.space, circuit.units, provenance.get("parallel", False))
        require_is("mask", mask, UnitEdges)
        row = mask.flat().astype(bool)
        if row.shape != (len(frame),):
            raise InputError("mask", got=f"shape {row.shape}", expected=f"({len(frame)},)")
        chosen = [frame.edges[place] for place in np.flatnonzero(row)]
        edges = tuple(MeasuredEdge(*e, float(w)) for e, w in zip(chosen, weights, strict=True))
        return cls(circuit, edges, **provenance)

    def places(self) -> np.ndarray:
        """Return the (n,) indices of members in `mask().flat()`, in the order of `edges`."""
        every = self.frame.places
        for edge in self.edges:
            if UnitEdge(*edge[:3]) not in every:
                raise InputError("wiring", got=quoted(tuple(edge[:3])),
                                 expected="an edge that can exist between its units")  # fmt: skip
        return np.array([every[UnitEdge(*edge[:3])] for edge in self.edges], int)

    def names(self) -> tuple[str, ...]:
        """Return the names of members, such as `head 0.1 → head 1.0 q`."""
        return tuple(
            f"{e.source} → {e.reader}" + (f" {e.input}" if e.input in ("q", "k", "v") else "")
            for e in self.edges
        )

    def parts(self) -> UnitPlaces:
        """Return the places, weights and names of the edges."""
        return unit_places(self.places(), [edge.weight for edge in self.edges], self.names())

    def mask(self) -> UnitEdges:
        """Return `UnitEdges` of bool that are true for members."""
        row = np.zeros(len(self.frame), bool)
        row[self.places()] = True
        return UnitEdges(row)

    def on(self, model: LanguageModel) -> Wired:
        """Return the units and edges as what the judge runs in a model.

        Raises:
            InputError: If the model has other sizes, or is a mixture of experts.
        """
        return wired(model, self.frame)

    def check_model(self, parts: Any) -> None:
        """Refuse edges between other units.

        Args:
            parts: `wired(model, frame)`.

        Raises:
            InputError: If they are not those of the wiring.
        """
        own = self.frame
        same = isinstance(parts, Wired) and all(
            np.array_equal(np.asarray(x), np.asarray(y))
            for block, found in (("attention", parts.heads), ("mlp", parts.mlps))
            for x, y in zip(own.slots(block), found, strict=True)
        )
        if not same:
            raise InputError(f"wiring of {self.model!r}", got="edges between other units",
                             expected="the edges between its own units")  # fmt: skip

    def to_networkx(self) -> Any:
        """Convert the wiring to NetworkX: nodes are names, edges have `input` and `weight`.

        Returns:
            A `networkx.MultiDiGraph`; units have `kind`, `layers` and `leaves`.

        Raises:
            MissingDependencyError: If NetworkX is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise MissingDependencyError(
                "to_networkx needs the package networkx", mend="pip install networkx"
            ) from error
        made = networkx.MultiDiGraph()
        layers = self.circuit.space.layers
        made.add_node(EMBED, kind=EMBED, layers=(-1, -1), leaves=0)
        for unit in self.units:
            made.add_node(unit.name, kind=unit.kind, layers=unit.layers, leaves=len(unit))
        made.add_node(LOGITS, kind=LOGITS, layers=(layers, layers), leaves=0)
        for edge in self.edges:
            made.add_edge(edge.source, edge.reader, edge.input, input=edge.input,
                          weight=edge.weight)  # fmt: skip
        return made

    def __str__(self) -> str:
        """Return a table: the strongest inputs of each unit."""
        names = [*(unit.name for unit in self.units), LOGITS]
        into: dict[str, dict[str, list[MeasuredEdge]]] = {name: {} for name in names}
        for edge in sorted(self.edges, key=lambda edge: -edge.weight):
            into[edge.reader].setdefault(edge.input, []).append(edge)
        wide = max(len(name) for name in names)
        lines = [
            f"{len(self.units)} units, {len(self)} edges ({self.per_unit:.1f} a unit) of "
            f"{len(self.frame):,}: {self.task} in {self.model}"
        ]
        for name in names:
            parts = [
                (f"{port} " if port in ("q", "k", "v") else "") + f"← {_listed(into[name][port])}"
                for port in sorted(into[name], key="qkv".find)
            ]
            if parts:
                lines.append(f"{name:{wide}}  {'; '.join(parts)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the JSON text that `load` reads, one field a line."""
        record = {
            "format": FORMAT, "kind": WIRING, "circuit": self.circuit.record(),
            "edges": [list(edge) for edge in self.edges], "parallel": self.parallel,
            "seen": self.seen.to_json(), "seed": self.seed, "config": self.config,
        }  # fmt: skip
        return lines_of(record)

    def save(self, path: str | Path) -> None:
        """Write the wiring with its circuit to a JSON file, whole or not at all."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path, tree: UnitTree | None = None) -> Wiring:
        """Read a wiring from a file that `save` wrote.

        Args:
            path: The file.
            tree: The tree that the circuit's units are of, if it is at hand.

        Raises:
            CheckpointError: If the file is absent, broken, of another format, or its units are of
                another tree.
        """
        record = read_record(path)
        try:
            if not isinstance(record, WiringFile):
                raise InputError("wiring", got="a circuit without edges between its units",
                                 expected="a file that Wiring.save wrote")  # fmt: skip
            circuit = Circuit.of_record(record.units_of(named(path)), named(path), tree)
            return cls(circuit, tuple(MeasuredEdge(*e) for e in record.edges), **record.fields())
        except InputError as error:
            raise CheckpointError(f"{named(path)}, {error}") from error


def _listed(edges: list[MeasuredEdge]) -> str:
    """The strongest edges into one input."""
    told = ", ".join(f"{edge.source} {edge.weight:.2f}" for edge in edges[:_TOLD])
    return told + (f" and {len(edges) - _TOLD} more" if len(edges) > _TOLD else "")
