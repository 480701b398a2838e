"""A circuit: which units of a model carry a behaviour, and where that claim came from."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.about import About, rows_of
from hagd_jax.causal.circuit_file import NodeFile, lines_of, plain_config, read_record
from hagd_jax.causal.circuit_record import circuit_record, require_dictionary
from hagd_jax.causal.circuit_text import circuit_text
from hagd_jax.causal.grouping import Grouping, UnitPlaces, unit_places
from hagd_jax.causal.grouping_file import grouping_of, nodes_of_file
from hagd_jax.causal.node import (
    Node,
    kind_of,
    members_of,
    names_of,
    per_expert_of,
    places_of,
    plain_scores,
    read_nodes,
    require_inside,
    space_of,
    unpacked,
)
from hagd_jax.causal.regrouping import closed, nodes_of, opened, split
from hagd_jax.errors import CheckpointError, InputError, require_is, require_list
from hagd_jax.files import named, write_atomic
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import (
    Dictionary,
    Nodes,
    Scores,
    Selection,
    Space,
    Unit,
    UnitTree,
)
from hagd_jax.units.checks import require_mask, require_shapes
from hagd_jax.units.dictionary import NEURONS, spans_of
from hagd_jax.units.split import split_leaf


@dataclasses.dataclass(frozen=True)
class Circuit:
    """A circuit is a set of nodes, grouped into units of a tree, with its provenance.

    Its size, `len(circuit)`, is the number of its units: what a reader has to take in. Without a
    grouping every node is a unit; `leaves` counts the nodes.

    Attributes:
        nodes: Members, sorted by kind, layer and index.
        scores: What each member was chosen by, in the same order.
        space: Layers, heads a layer, and neurons or features a layer.
        model: The model's name.
        task: The task's name.
        dictionary: What the nodes inside MLPs are: `neurons`, the model's own basis; `mlps`, each
            as a whole; or a transcoder's name and digest, NAME#1a2b3c4d. Where nodes are split by
            the spans of prompts it names them, as `neurons@io,s1,s2,end,rest`.
        seen: The data that the circuit and its tree's clusters were chosen by looking at; unknown
            by default, and then the judge does not accept it. Of a circuit that no data decided it
            is `Seen.nothing()`, but a file that says so reads as unknown, since what it said may
            have been taken out.
        seed: Seed of its discovery.
        config: Everything else that decided it; kept as JSON has it, so tuples become lists.
        per_expert: Neurons of an expert in each layer, by which neurons of a mixture are named, see
            `Dictionary.per_expert`; empty otherwise, and in files older than this field.
        grouping: How the nodes group into units of a tree; if None, each is a unit of its own.
        about: Role, necessity and certified radius of each unit, in the order of `units`; set by
            `described` alone, and None in any circuit that is made from another one.

    Raises:
        InputError: If a node is repeated or outside the space, if a score is missing or not
            finite, if the configuration cannot be written as JSON, or if a unit holds nodes that
            are not in the circuit.
    """

    nodes: tuple[Node, ...]
    scores: tuple[float, ...]
    space: Space
    model: str
    task: str
    dictionary: str = NEURONS
    seen: Seen = dataclasses.field(default_factory=Seen.unknown)
    seed: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    per_expert: tuple[int, ...] = ()
    grouping: Grouping | None = None
    # No argument, so that `dataclasses.replace` leaves it out: it holds for these units only.
    about: tuple[About, ...] | None = dataclasses.field(default=None, init=False)

    __repr__ = one_line

    def __post_init__(self):
        object.__setattr__(self, "space", space_of(self.space))
        for what, kind in (("model", str), ("task", str), ("dictionary", str), ("seen", Seen)):
            require_is(what, getattr(self, what), kind)
        object.__setattr__(self, "nodes", read_nodes(self.nodes))
        scores = require_list("scores", self.scores, "a number for each node")
        object.__setattr__(self, "scores", plain_scores("scores", scores))
        if len(self.scores) != len(self.nodes):
            raise InputError(
                "circuit", got=f"{len(self.scores)} scores", expected=f"{len(self.nodes)} of them"
            )
        object.__setattr__(self, "config", plain_config(self.config))
        object.__setattr__(self, "per_expert", per_expert_of(self.per_expert, self.space))
        require_inside(self.nodes, self.space, self.kind, self.spans)
        if self.grouping is not None:
            require_is("grouping", self.grouping, Grouping)
            self.grouping.require_nodes(self.space, self.dictionary, self.places())
            if self.grouping.tree is not None:
                object.__setattr__(self, "seen", self.seen | self.grouping.tree.seen)

    def __str__(self) -> str:
        """Return a table of the units, see `circuit_text`."""
        return circuit_text(self)

    def __len__(self) -> int:
        return self.leaves - sum(len(unit) - 1 for unit in self._larger)

    @property
    def leaves(self) -> int:
        """Return the number of nodes, at the finest resolution."""
        return len(self.nodes)

    @property
    def _larger(self) -> tuple[Unit, ...]:
        """The units of several nodes."""
        return () if self.grouping is None else self.grouping.units

    @property
    def units(self) -> tuple[Unit, ...]:
        """Return the units, each where the first of its nodes is."""
        several, first = {int(unit.ranges[0][0]): unit for unit in self._larger}, self.parts().first
        return tuple(several.get(place) or split_leaf(self.space, self.kind, place, self.spans)
                     for place in first.tolist())  # fmt: skip

    def parts(self) -> UnitPlaces:
        """Return the places, scores and names of the units, in the order of `units`."""
        return unit_places(self.places(), self.scores, self.names(), self.grouping)

    @property
    def kind(self) -> str:
        """Return the kind of the nodes that are not attention heads."""
        return kind_of(self.dictionary)

    @property
    def spans(self) -> tuple[str, ...]:
        """Return the names of the spans by which nodes are split; none if they are whole."""
        return spans_of(self.dictionary)

    @classmethod
    def from_mask(
        cls, mask: Nodes | Selection, scores: Nodes | Scores, **provenance: Any
    ) -> Circuit:
        """Make a circuit of the members of a boolean mask.

        Args:
            mask: `Nodes` of bool, (L, H) and (L, F), or a `Selection` of them, whose record of
                what it has seen becomes the circuit's.
            scores: `Nodes` of float, same shapes, or `Scores` of them.
            **provenance: The remaining fields; `dictionary` is a `Dictionary`'s label.

        Returns:
            The circuit.

        Raises:
            InputError: If the mask is not one, or the scores are not of the same nodes.
        """
        chosen, ranks, provenance = unpacked(mask, scores, provenance)
        require_is("mask", chosen, Nodes)
        require_mask("mask", chosen)
        require_shapes("scores", ranks, chosen.space)
        nodes, values = members_of(chosen, ranks, provenance.get("dictionary", NEURONS))
        return cls(nodes, values, chosen.space, **provenance)

    @classmethod
    def of_units(
        cls,
        tree: UnitTree,
        units: Iterable[str | Unit],
        scores: Iterable[float] | None = None,
        **provenance: Any,
    ) -> Circuit:
        """Make a circuit of units of a tree, at any mixture of resolutions.

        Args:
            tree: The tree, from `units.tree(model)`.
            units: Units or their names, such as `mlp 0`, `cluster 5.2` and `head 3.1`, without a
                leaf in common.
            scores: What each was chosen by; 1 if None. Nodes have the scores of their units.
            **provenance: The remaining fields; what the tree has seen is added to `seen`.

        Returns:
            The circuit.

        Raises:
            InputError: If there is no such unit, two overlap, or a score is missing.

        Example:
            >>> from hagd_jax.models import DecoderConfig, init
            >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
            >>> tree = hagd.units.tree(init(config, jax.random.key(0)))
            >>> circuit = Circuit.of_units(tree, ["mlp 0", "head 1.1"], model="m", task="t")
            >>> len(circuit), circuit.leaves, len(circuit.opened("mlp 0"))
            (2, 17, 17)
        """
        nodes, values, own = nodes_of(tree, units, scores)
        return cls(nodes, values, tree.space, dictionary=tree.dictionary, grouping=own,
                   **provenance)  # fmt: skip

    def opened(self, name: str | Unit, only: Iterable[str | Unit] | None = None) -> Circuit:
        """Replace a unit by its children, or by some of them.

        Args:
            name: One of the units, of several nodes.
            only: The children to keep; all if None.

        Returns:
            The circuit; children have the score of the unit.

        Raises:
            InputError: If the circuit has no such unit, its tree is not at hand (see `on`), or
                what should be kept is none of the children.
        """
        return dataclasses.replace(self, **opened(self, name, only))

    def closed(self, name: str | Unit) -> Circuit:
        """Replace the units that fill a larger one by that one, which gets the highest score.

        Raises:
            InputError: If they do not fill it, or the circuit's tree is not at hand (see `on`).
        """
        return dataclasses.replace(self, **closed(self, name))

    def by_span(
        self, names: Iterable[str], at: Mapping[str, Iterable[str]] | None = None
    ) -> Circuit:
        """Split the nodes by the spans of prompts, and keep some units at some spans only.

        Args:
            names: Names of the spans, such as `task.spans`.
            at: Name of a unit → the spans at which it stays; units that are not named stay whole.

        Returns:
            The circuit of the dictionary split by span; parts have the score of their unit. What
            decided `at` must be added to `seen`, as `search.split_spans` does.

        Raises:
            InputError: If nodes are split already, or there is no such unit or span.

        Example:
            >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
            >>> circuit = Circuit.of_units(tree, ["mlp 0", "head 0.1"], model="m", task="t")
            >>> print(circuit.by_span(["letters", "end"], {"head 0.1": ["end"]}))
            circuit of 't' in 'm': 2 units with 13 of 20 nodes
            layer  unit             kind  nodes  score
                0  head 0.1 at end  head      1      1
                0  mlp 0            MLP      12      1
        """
        return dataclasses.replace(self, **split(self, names, at or {}))

    def on(self, tree: UnitTree) -> Circuit:
        """Return the circuit with its tree at hand, which files record by a digest only.

        Args:
            tree: The tree; of units split by span, also the tree that was split.

        Raises:
            InputError: If it is another tree, or the circuit was not made with any.
        """
        if self.grouping is None:
            raise InputError("circuit", got="one without units of a tree",
                             expected="one from Circuit.of_units")  # fmt: skip
        require_is("tree", tree, UnitTree, mend="Make one with `hagd.units.tree(model)`.")
        split = self.spans and not spans_of(tree.dictionary)
        own = self.grouping.on(tree.by_span(self.spans) if split else tree)
        found = dataclasses.replace(self, grouping=own)
        return found if self.about is None else found.described(self.about)

    def described(self, about: Iterable[About]) -> Circuit:
        """Return the circuit with what is known of each of its units.

        Args:
            about: One for each unit, in the order of `units`.

        Raises:
            InputError: If one is something else, or their number is another.

        Example:
            >>> from hagd_jax.causal import About
            >>> one = Circuit((Node("head", 0, 1),), (1.0,), (1, 2, 3), model="m", task="t")
            >>> print(one.described([About("induction", 0.5, 2)]))
            circuit of 't' in 'm': 1 of 5 nodes
            layer  unit      kind  nodes  score  role       necessity  radius
                0  head 0.1  head      1      1  induction      50.0%       2
        """
        found = copy.copy(self)
        object.__setattr__(found, "about", rows_of(about, len(self)))
        return found

    def places(self) -> np.ndarray:
        """Return the (n,) indices of members in `mask().flat()`, in the order of `nodes`."""
        return places_of(self.nodes, self.space, self.kind, self.spans)

    def names(self) -> tuple[str, ...]:
        """Return the names of members, such as `head 3.0`; in a mixture `neuron L3.E5.N12`."""
        return names_of(self.nodes, self.per_expert)

    def mask(self) -> Nodes:
        """Return `Nodes` of bool that are true for members."""
        flat = np.zeros(self.space.nodes, bool)
        flat[self.places()] = True
        return Nodes.from_flat(self.space, jnp.asarray(flat))

    def check_model(self, dictionary: Dictionary) -> None:
        """Refuse a model, or a dictionary of it, whose nodes are not the circuit's.

        Args:
            dictionary: Of the model, see `units.as_dictionary`. A transcoder is known by
                its digest, since folders move.

        Raises:
            InputError: If the numbers of layers, heads or features differ, or the dictionary.
        """
        require_dictionary(self, dictionary)

    def record(self) -> dict[str, Any]:
        """Return the fields of the JSON that `load` reads: nodes as [kind, layer, index].

        Of nodes that are split by span the index is that of the column of a mask.
        """
        return circuit_record(self)

    def to_json(self) -> str:
        """Return the JSON that `load` reads, one field a line."""
        return lines_of(self.record())

    def save(self, path: str | Path) -> None:
        """Write the circuit to a JSON file, whole or not at all."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path, tree: UnitTree | None = None) -> Circuit:
        """Read a circuit from a file that `save` wrote.

        Args:
            path: The file.
            tree: The tree that the circuit's units are of, if it is at hand; of units split by
                span, also the tree that was split.

        Returns:
            The circuit. A tree without clusters is made again, and needs not be given.

        Raises:
            CheckpointError: If the file is absent, broken, of another format, or its units are of
                another tree.
        """
        record = read_record(path)
        try:
            if not isinstance(record, NodeFile):
                raise InputError("circuit", got="one of edges", expected="one of nodes")
            return cls.of_record(record, named(path), tree)
        except InputError as error:
            raise CheckpointError(f"{named(path)}, {error}") from error

    @classmethod
    def of_record(cls, record: NodeFile, where: str, tree: UnitTree | None = None) -> Circuit:
        """Make the circuit that a file describes.

        Args:
            record: What the file says.
            where: Name of the file.
            tree: As in `load`.

        Raises:
            CheckpointError: If a unit has a field of another type.
            InputError: If the circuit is impossible, or its units are of another tree.
        """
        nodes = nodes_of_file(record)
        found = cls(
            nodes=nodes, space=Space(*record.space), dictionary=record.dictionary,
            per_expert=record.per_expert, grouping=grouping_of(record, where),
            **record.provenance(),
        )  # fmt: skip
        if record.about is not None:
            found = found.described(About(*row) for row in record.about)
        return found if tree is None else found.on(tree)
