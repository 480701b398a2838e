"""Circuits of the MIB benchmark: scored edges, the benchmark's choice of members, and its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.edge_circuit import EdgeCircuit, Shape
from hagd_jax.causal.mib_file import MibRecord, read_mib, write_mib
from hagd_jax.causal.mib_layout import MOST, Layout, as_edges, as_matrix
from hagd_jax.errors import InputError, require_flag, require_index, require_is
from hagd_jax.models import DecoderConfig
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Edges, Scores, Selection
from hagd_jax.units.checks import require_mask, require_shapes


@dataclasses.dataclass(frozen=True, eq=False)
class MibGraph:
    """A graph of the benchmark holds a score for every edge, and which edges are in the circuit.

    Attributes:
        layout: Sizes of the model.
        scores: (writers, readers) float64; 0 where there is no edge.
        members: (writers, readers) bool.
        nodes: (writers,) bool: components that the file calls part of the circuit. The edges
            decide what is run.
        d_model: Width of the stream, which the files record; 0 if unknown.

    Raises:
        InputError: If an array has another shape, an edge that does not exist is a member, or a
            score is not finite.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> there = Edges.existing(config)
        >>> graph = MibGraph.of(there.like(np.arange(len(there.flat())) / 10), there, config)
        >>> graph
        MibGraph(46 of 46 edges, 2 layers of 2 heads)
        >>> graph.save("circuit.json")
        >>> graph.top(3).members.sum() == MibGraph.load("circuit.json").top(3).members.sum()
        np.True_
    """

    layout: Layout
    scores: np.ndarray
    members: np.ndarray
    nodes: np.ndarray
    d_model: int = 0

    def __post_init__(self):
        layout = Layout(*self.layout)
        object.__setattr__(self, "layout", layout)
        if layout.writers * layout.readers > MOST:
            raise InputError("graph", got=f"{layout}", expected=f"at most {MOST:,} pairs")
        pairs = (layout.writers, layout.readers)
        wanted = {"scores": (np.float64, pairs), "members": (bool, pairs),
                  "nodes": (bool, pairs[:1])}  # fmt: skip
        for name, (kind, shape) in wanted.items():
            value = np.asarray(getattr(self, name), kind)
            if value.shape != shape:
                raise InputError(f"{name} of the graph", got=value.shape, expected=f"{shape}")
            object.__setattr__(self, name, value)
        there = layout.existing()
        if (self.members & ~there).any():
            raise InputError("members of the graph", got="an edge that does not exist",
                             expected="edges from earlier writers to later readers")  # fmt: skip
        if not np.isfinite(self.scores).all():
            raise InputError("scores of the graph", got="some not finite", expected="numbers")
        object.__setattr__(self, "scores", np.where(there, self.scores, 0.0))

    @classmethod
    def of(cls, scores: Edges | Scores, mask: Edges | Selection, config: DecoderConfig) -> MibGraph:
        """Make the graph of scored edges and a circuit of them.

        Edges into keys and values that several query heads share become one edge for each of them.

        Args:
            scores: `Edges` of float, or `Scores` of them.
            mask: `Edges` of bool, or a `Selection`.
            config: The decoder's.

        Returns:
            The graph, in which components with members on both sides are nodes of the circuit.

        Raises:
            InputError: If scores or mask are of another model.
        """
        require_is("config", config, DecoderConfig)
        there = Edges.existing(config)
        values = scores.values if isinstance(scores, Scores) else scores
        held = mask.mask if isinstance(mask, Selection) else mask
        require_shapes("scores", values, there)
        require_mask("mask", held, there)
        layout = Layout(config.n_layers, config.n_heads, config.parallel_residual)
        members = as_matrix(held).astype(bool) & layout.existing()
        matrix = np.asarray(as_matrix(values), np.float64)
        return cls(layout, np.where(layout.existing(), matrix, 0.0), members,
                   connected(layout, members), config.d_model)  # fmt: skip

    @classmethod
    def of_circuit(cls, circuit: EdgeCircuit, d_model: int = 0) -> MibGraph:
        """Make the graph of a circuit of edges, whose other edges have the score 0."""
        require_is("circuit", circuit, EdgeCircuit)
        mask = circuit.mask()
        flat = np.zeros(len(mask.flat()))
        flat[circuit.places()] = circuit.scores
        layers, heads, _, parallel = circuit.shape
        layout = Layout(layers, heads, parallel)
        members = as_matrix(mask).astype(bool)
        return cls(layout, as_matrix(mask.like(flat)), members, connected(layout, members), d_model)

    @classmethod
    def load(cls, path: str | Path) -> MibGraph:
        """Read a JSON file of the benchmark.

        Args:
            path: What `Graph.to_json` of the EAP-IG library, or `save`, wrote.

        Returns:
            The graph. Edges that the file leaves out have the score 0 and are no members.

        Raises:
            CheckpointError: If it is a pickle (`.pt`, `.pkl`), which is never opened; or if it is
                broken: a component or an edge that the model does not have, an entry twice, a
                score that is no number. The message names the entry.
        """
        return cls(*read_mib(path))

    def save(self, path: str | Path) -> None:
        """Write the JSON file that `load` and the benchmark read, whole or not at all."""
        write_mib(path, MibRecord(self.layout, self.scores, self.members, self.nodes, self.d_model))

    def circuit(
        self,
        config: DecoderConfig | None = None,
        *,
        model: str = "unnamed",
        task: str = "unnamed",
        seen: Seen | None = None,
    ) -> EdgeCircuit:
        """Convert the members to a circuit of edges.

        Args:
            config: The decoder's, whose query heads may share keys and values: then those that do
                must agree in score and membership. None stands for heads that share nothing.
            model: The model's name.
            task: The task's name.
            seen: What the circuit was chosen by looking at; files do not say, so that it is
                unknown by default and the judge does not accept it.

        Returns:
            The circuit.

        Raises:
            InputError: If the file is of a model with other sizes, or heads disagree.
        """
        mask, scores = self.mask(config), self.values(config)
        layers, heads, parallel = self.layout
        keys = heads if config is None else config.n_kv_heads
        plain = DecoderConfig(vocab_size=1, n_layers=layers, d_model=heads, n_heads=heads,
                              n_kv_heads=keys, d_mlp=1, parallel_residual=parallel)  # fmt: skip
        return EdgeCircuit.from_mask(
            mask, scores, plain, model=model, task=task,
            seen=Seen.unknown() if seen is None else seen,
        )  # fmt: skip

    def mask(self, config: DecoderConfig | None = None) -> Edges:
        """Convert the members to `Edges` of bool; see `circuit`."""
        return as_edges(self.layout, self.members, self._keys(config))

    def values(self, config: DecoderConfig | None = None) -> Edges:
        """Convert the scores to `Edges` of float64; see `circuit`."""
        return as_edges(self.layout, self.scores, self._keys(config))

    def top(self, count: int, *, absolute: bool = True) -> MibGraph:
        """Keep the edges with the highest scores, and drop those that hang loose.

        As in the benchmark, edges of components without an edge on their other side are dropped
        until none is left; they carry nothing, so that only the count changes. Ties go to the
        earlier writer.

        Args:
            count: Number of edges, before any is dropped.
            absolute: Rank by magnitude, as the benchmark does by default.

        Returns:
            The same scores with other members.

        Raises:
            InputError: If there are not as many edges.
        """
        require_flag("absolute", absolute)
        there = self.layout.existing()
        count = require_index("number of edges", count, int(there.sum()) + 1)
        ranked = np.abs(self.scores) if absolute else self.scores
        places = np.flatnonzero(there)
        best = places[np.argsort(-ranked.ravel()[places], kind="stable")[:count]]
        members = np.zeros(there.size, bool)
        members[best] = True
        members = pruned(self.layout, members.reshape(there.shape))
        return dataclasses.replace(self, members=members, nodes=connected(self.layout, members))

    def weighted_edge_count(self) -> float:
        """Count the members, as the benchmark does where all neurons of a component are in it."""
        return float(self.members.sum())

    def __len__(self) -> int:
        return int(self.members.sum())

    def __repr__(self) -> str:
        try:
            layers, heads, _ = self.layout
            total = int(self.layout.existing().sum())
            return f"MibGraph({len(self):,} of {total:,} edges, {layers} layers of {heads} heads)"
        except Exception:
            return one_line(self)

    def _keys(self, config: DecoderConfig | None) -> int:
        if config is None:
            return self.layout.heads
        require_is("config", config, DecoderConfig)
        shape = Shape.of(config)
        own = (self.layout.layers, self.layout.heads, self.layout.parallel)
        if own != (shape.layers, shape.heads, shape.parallel):
            raise InputError("circuit of the benchmark", got=f"{self.layout}",
                             expected=f"the sizes of the model, {shape}")  # fmt: skip
        return shape.keys


def connected(layout: Layout, members: np.ndarray) -> np.ndarray:
    """Mark the (writers,) components with members on both sides; the input needs only one."""
    reads = np.zeros(layout.writers, bool)
    heard: Any = members.any(0)
    into = heard[:-1].reshape(layout.layers, -1)
    heads = into[:, :-1].reshape(layout.layers, 3, -1).any(1)
    reads[1:] = np.concatenate([heads, into[:, -1:]], 1).ravel()
    reads[0] = True
    return members.any(1) & reads


def pruned(layout: Layout, members: np.ndarray) -> np.ndarray:
    """Drop edges of components that are not `connected`, until all are."""
    while True:
        nodes = connected(layout, members)
        blocks = nodes[1:].reshape(layout.layers, layout.heads + 1)
        reads: Any = np.concatenate([np.tile(blocks[:, :-1], 3), blocks[:, -1:]], 1).ravel()
        kept = members & nodes[:, None] & np.append(reads, True)
        if (kept == members).all():
            return kept
        members = kept
