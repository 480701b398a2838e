"""Circuits that consist of edges between components rather than of nodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.causal.circuit_file import EDGES, FORMAT, EdgeFile, lines_of, plain_config
from hagd_jax.causal.grouping import UnitPlaces, unit_places
from hagd_jax.causal.node import plain_scores, unpacked
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.files import write_atomic
from hagd_jax.models import DecoderConfig
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Edges, Scores, Selection
from hagd_jax.units.checks import require_mask, require_shapes
from hagd_jax.units.components import Components


class Edge(NamedTuple):
    """An edge is given by the names of its ends.

    Attributes:
        writer: `embed`, `head 3.0` or `mlp 2`.
        reader: The same, or `logits`.
        input: `q`, `k`, `v`, `mlp` or `logits`.
    """

    writer: str
    reader: str
    input: str


class Shape(NamedTuple):
    """A shape holds the properties of a decoder that decide which edges exist.

    Attributes:
        layers: L.
        heads: Query heads a layer.
        keys: Key/value heads a layer.
        parallel: Whether the MLP reads what the heads of its layer read (GPT-NeoX).
    """

    layers: int
    heads: int
    keys: int
    parallel: bool

    @classmethod
    def of(cls, config: DecoderConfig) -> Shape:
        """Take the shape of a decoder's component graph from its configuration."""
        return cls(config.n_layers, config.n_heads, config.n_kv_heads, config.parallel_residual)

    def existing(self) -> Edges:
        """Return a mask that is true where an edge exists."""
        return Edges.existing(
            DecoderConfig(
                vocab_size=1,
                n_layers=self.layers,
                d_model=self.heads,
                n_heads=self.heads,
                n_kv_heads=self.keys,
                d_mlp=1,
                parallel_residual=self.parallel,
            )
        )


@dataclasses.dataclass(frozen=True)
class EdgeCircuit:
    """An edge circuit is a set of edges with provenance; other edges carry the alternative.

    Attributes:
        edges: Members, readers from the bottom up.
        scores: What each was chosen by, in the same order.
        shape: Of the model's component graph.
        model: The model's name.
        task: The task's name.
        seen: The data that the circuit was chosen by looking at, see `Circuit`.
        seed: Seed of its discovery.
        config: Everything else that decided it, as JSON has it.

    Raises:
        InputError: If an edge is repeated or does not exist, or a score is missing or no number.
    """

    edges: tuple[Edge, ...]
    scores: tuple[float, ...]
    shape: Shape
    model: str
    task: str
    seen: Seen = dataclasses.field(default_factory=Seen.unknown)
    seed: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    __repr__ = one_line

    def __post_init__(self):
        object.__setattr__(self, "shape", Shape(*self.shape))
        object.__setattr__(self, "edges", tuple(Edge(*edge) for edge in self.edges))
        object.__setattr__(self, "config", plain_config(self.config))
        scores = require_list("scores", self.scores, "a number for each edge")
        object.__setattr__(self, "scores", plain_scores("scores", scores))
        if len(self.scores) != len(self.edges):
            raise InputError("circuit of edges", got=f"{len(self.scores)} scores",
                             expected=f"{len(self.edges)} of them")  # fmt: skip
        if len(set(self.edges)) != len(self.edges):
            raise InputError("circuit of edges", got="an edge twice", expected="distinct edges")
        self.places()

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def leaves(self) -> int:
        """Return the number of edges, each of which is a unit."""
        return len(self.edges)

    def parts(self) -> UnitPlaces:
        """Return the places, scores and names of the edges."""
        return unit_places(self.places(), self.scores, self.names())

    @classmethod
    def from_mask(
        cls,
        mask: Edges | Selection,
        scores: Edges | Scores,
        decoder: DecoderConfig,
        **provenance: Any,
    ) -> EdgeCircuit:
        """Make a circuit of the members of a boolean mask.

        Args:
            mask: `Edges` of bool, of which entries that are no edges are left out, or a `Selection`
                of them, whose record of what it has seen becomes the circuit's.
            scores: `Edges` of float, or `Scores` of them.
            decoder: The model's configuration.
            **provenance: The remaining fields.

        Returns:
            The circuit.

        Raises:
            InputError: If the mask is not one, or it or the scores are of another model's edges.
        """
        require_is("decoder", decoder, DecoderConfig)
        held, ranks, provenance = unpacked(mask, scores, provenance)
        shape = Shape.of(decoder)
        existing = shape.existing()
        require_mask("mask", held, existing)
        require_shapes("scores", ranks, existing)
        there = np.asarray(held.flat(), bool) & existing.flat()
        chosen = named_edges(decoder, held.like(there))
        flat = ranks.flat()
        values = tuple(float(flat[_place(edge, shape)]) for edge in chosen)
        return cls(tuple(chosen), values, shape, **provenance)

    def places(self) -> np.ndarray:
        """Return the (n,) indices of members in `mask().flat()`, in the order of `edges`."""
        found = [_place(edge, self.shape) for edge in self.edges]
        for edge, place in zip(self.edges, found, strict=True):
            if place is None:
                raise InputError("circuit of edges", got=quoted(tuple(edge)),
                                 expected=f"an edge of a model of {self.shape}")  # fmt: skip
        return np.array(found, int)

    def names(self) -> tuple[str, ...]:
        """Return the names of members, such as `head 0.1 → head 1.0 q`."""
        return tuple(
            f"{e.writer} → {e.reader}" + f" {e.input}" * e.reader.startswith("head")
            for e in self.edges
        )

    def mask(self) -> Edges:
        """Return `Edges` of bool that are true for members."""
        there = self.shape.existing()
        flat = np.zeros(len(there.flat()), bool)
        flat[self.places()] = True
        return there.like(flat)

    def check_model(self, parts: Components) -> None:
        """Refuse a model with another component graph.

        Args:
            parts: `components(model)`.

        Raises:
            InputError: If it is not what the circuit's edges are of.
        """
        if not isinstance(parts, Components) or Shape.of(parts.decoder) != self.shape:
            raise InputError(f"circuit of {self.model!r}", got=type(parts).__name__,
                             expected=f"components of {self.shape}")  # fmt: skip

    def to_json(self) -> str:
        """Return the JSON text that `load` reads, one field a line."""
        record = {"format": FORMAT, "kind": EDGES, **dataclasses.asdict(self)}
        record["seen"] = self.seen.to_json()
        return lines_of(record)

    def save(self, path: str | Path) -> None:
        """Write the circuit to a JSON file, whole or not at all."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def of_record(cls, record: EdgeFile) -> EdgeCircuit:
        """Make the circuit that a file describes.

        Raises:
            InputError: If the circuit is impossible.
        """
        edges = tuple(Edge(*edge) for edge in record.edges)
        return cls(edges=edges, shape=Shape(*record.shape), **record.provenance())


def named_edges(config: DecoderConfig, edges: Edges) -> list[Edge]:
    """Name the edges that are true in a mask, readers from the lowest layer up.

    Args:
        config: The decoder's.
        edges: `Edges` of bool.

    Returns:
        Their names.
    """
    require_is("config", config, DecoderConfig)
    require_mask("edges", edges, Edges.existing(config))
    writers = ["embed"]
    writers += [f"head {i}.{h}" for i in range(config.n_layers) for h in range(config.n_heads)]
    writers += [f"mlp {i}" for i in range(config.n_layers)]
    found = []
    for layer in range(config.n_layers):
        for input_ in ("q", "k", "v"):
            rows = np.asarray(getattr(edges, input_)[layer])
            found += [Edge(writers[w], f"head {layer}.{h}", input_) for h, w in np.argwhere(rows)]
        own = np.flatnonzero(np.asarray(edges.mlp[layer]))
        found += [Edge(writers[w], f"mlp {layer}", "mlp") for w in own]
    last = np.flatnonzero(np.asarray(edges.final))
    return found + [Edge(writers[w], "logits", "logits") for w in last]


def _place(edge: Edge, shape: Shape) -> int | None:
    """Where an edge stands in `Edges.flat()`; None if there is no such edge.

    Nothing as large as the model's edges is made: a file may say any shape.
    """
    layers, heads, keys, parallel = shape
    writers = 1 + layers * heads + layers
    kind, layer, index = _parsed(edge.writer)
    # Twice the layer, as in `Edges.existing`: heads write in the middle, MLPs at the end.
    if kind == "embed":
        writer, wrote = 0, -1
    elif kind == "head" and layer < layers and index < heads:
        writer, wrote = 1 + layer * heads + index, 2 * layer + 1
    elif kind == "mlp" and layer < layers:
        writer, wrote = 1 + layers * heads + layer, 2 * layer + 2
    else:
        return None
    kind, layer, index = _parsed(edge.reader)
    # Inputs one after the other, as the leaves of `Edges` are: q, k, v, mlp, final.
    widths = {"q": heads, "k": keys, "v": keys, "mlp": 1, "logits": 0}
    kinds = {"q": "head", "k": "head", "v": "head", "mlp": "mlp", "logits": "logits"}
    before = 0
    for name, width in widths.items():
        if name == edge.input:
            fits = kinds[name] == kind and layer < max(layers, 1) and index < max(width, 1)
            reads = 2 * layer + (kind == "mlp" and not parallel)
            if not fits or (kind != "logits" and wrote > reads):
                return None
            return (before + layer * width + index) * writers + writer
        before += layers * width
    return None


def _parsed(name: str) -> tuple[str, int, int]:
    """`head 3.0` → ("head", 3, 0); a name that is none gets a kind that nothing has."""
    kind, _, place = name.partition(" ")
    layer, _, index = place.partition(".")
    if not place:
        return kind, 0, 0
    digits = layer.isascii() and layer.isdigit() and (index or "0").isascii()
    if not digits or not (index or "0").isdigit() or (kind == "head") != bool(index):
        return "", 0, 0
    return kind, int(layer), int(index or 0)
