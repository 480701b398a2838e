"""A circuit: which nodes of a model carry a behaviour, and where that claim came from."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.causal.circuit_file import FORMAT, NodeFile, plain_config, read_record
from hagd_jax.errors import CheckpointError, InputError, require_index, require_is, require_list
from hagd_jax.files import named, with_digest, write_atomic
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Dictionary, Nodes, Scores, Selection, Space, unit_name
from hagd_jax.units.checks import require_mask, require_shapes
from hagd_jax.units.dictionary import MLPS, NEURONS


@dataclasses.dataclass(frozen=True, order=True)
class Node:
    """A node is an attention head, an MLP neuron, or a feature of a transcoder.

    Attributes:
        kind: `head`, `neuron`, `mlp` or `feature`.
        layer: From 0.
        index: Within its layer, from 0.
    """

    kind: str
    layer: int
    index: int


@dataclasses.dataclass(frozen=True)
class Circuit:
    """A circuit is a set of nodes with its provenance.

    Attributes:
        nodes: Members, sorted by kind, layer and index.
        scores: What each member was chosen by, in the same order.
        space: Layers, heads a layer, and neurons or features a layer.
        model: The model's name.
        task: The task's name.
        dictionary: What the nodes inside MLPs are: `neurons`, the model's own basis; `mlps`, each
            as a whole; or a transcoder's name and digest, NAME#1a2b3c4d.
        seen: The data that the circuit was chosen by looking at; unknown by default, and then the
            judge does not accept it. Of a circuit that no data decided it is `Seen.nothing()`, but
            a file that says so reads as unknown, since what it said may have been taken out.
        seed: Seed of its discovery.
        config: Everything else that decided it; kept as JSON has it, so tuples become lists.
        per_expert: Neurons of an expert in each layer, by which neurons of a mixture are named, see
            `Dictionary.per_expert`; empty otherwise, and in files older than this field.

    Raises:
        InputError: If a node is repeated or outside the space, if a score is missing or not
            finite, or if the configuration cannot be written as JSON.
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

    __repr__ = one_line

    def __post_init__(self):
        object.__setattr__(self, "space", _space(self.space))
        for what, kind in (("model", str), ("task", str), ("dictionary", str), ("seen", Seen)):
            require_is(what, getattr(self, what), kind)
        for what, expected in (
            ("nodes", "a tuple of `Node`"),
            ("scores", "a number for each node"),
        ):
            object.__setattr__(self, what, tuple(require_list(what, getattr(self, what), expected)))
        for node in self.nodes:
            require_is("nodes", node, Node)
            require_is("kind of a node", node.kind, str)
            require_is("layer of a node", node.layer, int, np.integer)
            require_is("index of a node", node.index, int, np.integer)
        for score in self.scores:
            require_is("scores", score, int, float, np.number)
        if len(self.scores) != len(self.nodes):
            raise InputError(
                "circuit", got=f"{len(self.scores)} scores", expected=f"{len(self.nodes)} of them"
            )
        if not np.isfinite(np.asarray(self.scores, float)).all():
            raise InputError("circuit", got="a score that is not finite", expected="numbers")
        object.__setattr__(self, "config", plain_config(self.config))
        if len(set(self.nodes)) != len(self.nodes):
            raise InputError("circuit", got="a node twice", expected="distinct nodes")
        layers, heads, features = self.space
        object.__setattr__(self, "per_expert", _per_expert(self.per_expert, self.space))
        widths = {"head": heads, self.kind: features}
        for node in self.nodes:
            if not (0 <= node.layer < layers and 0 <= node.index < widths.get(node.kind, 0)):
                raise InputError(
                    "node of the circuit",
                    got=f"{quoted(node.kind)} {node.index} of layer {node.layer}",
                    expected=f"one of {layers} layers of {heads} heads and {features} {self.kind}s",
                )

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def kind(self) -> str:
        """Return the kind of the nodes that are not attention heads."""
        return kind_of(self.dictionary)

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
        nodes, values = [], []
        other = kind_of(provenance.get("dictionary", NEURONS))
        for kind, members, score in (
            ("head", chosen.heads, ranks.heads),
            (other, chosen.features, ranks.features),
        ):
            score = np.asarray(score)
            for layer, index in np.argwhere(np.asarray(members)).tolist():
                nodes.append(Node(kind, layer, index))
                values.append(float(score[layer, index]))
        return cls(tuple(nodes), tuple(values), chosen.space, **provenance)

    def places(self) -> np.ndarray:
        """Return the (n,) indices of members in `mask().flat()`, in the order of `nodes`."""
        layers, heads, features = self.space
        start = {"head": (0, heads), self.kind: (layers * heads, features)}
        found = [first + node.layer * width + node.index
                 for node in self.nodes for first, width in [start[node.kind]]]  # fmt: skip
        return np.array(found, int)

    def names(self) -> tuple[str, ...]:
        """Return the names of members, such as `head 3.0`; in a mixture `neuron L3.E5.N12`."""
        return tuple(
            f"{node.kind} {unit_name(node.kind, node.layer, node.index, self.per_expert)}"
            if node.kind == "neuron" and self.per_expert
            else f"{node.kind} {node.layer}.{node.index}"
            for node in self.nodes
        )

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
        label = dictionary.label
        if _identity(label) != _identity(self.dictionary):
            raise InputError(
                f"circuit of {self.model!r}",
                got=f"the dictionary {label!r}",
                expected=f"{self.dictionary!r}, whose nodes it has",
            )
        if dictionary.space != self.space:
            raise InputError(
                f"circuit of {self.model!r}",
                got=f"a model with layers, heads, {self.kind}s = {tuple(dictionary.space)}",
                expected=f"{tuple(self.space)}",
            )

    def to_json(self) -> str:
        """Return the JSON that `load` reads: nodes as [kind, layer, index], one field a line."""
        record = {"format": FORMAT, **dataclasses.asdict(self)}
        record["nodes"] = [dataclasses.astuple(node) for node in self.nodes]
        record["seen"] = self.seen.to_json()
        if not self.per_expert:
            del record["per_expert"]  # a file of any other model is what it was before the field
        items = with_digest(record).items()
        fields = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in items)
        return "{\n" + ",\n".join(fields) + "\n}\n"

    def save(self, path: str | Path) -> None:
        """Write the circuit to a JSON file, whole or not at all."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a circuit from a file that `save` wrote.

        Raises:
            CheckpointError: If the file is absent, broken, or of another format.
        """
        record = read_record(path)
        try:
            if not isinstance(record, NodeFile):
                raise InputError("circuit", got="one of edges", expected="one of nodes")
            nodes = tuple(Node(*node) for node in record.nodes)
            return cls(
                nodes=nodes, space=Space(*record.space), dictionary=record.dictionary,
                per_expert=record.per_expert,
                **record.provenance(),
            )  # fmt: skip
        except InputError as error:
            raise CheckpointError(f"{named(path)}, {error}") from error


def _space(value: Any) -> Space:
    """A space, which files keep as a list."""
    sizes = [require_index("space", size) for size in require_list("space", value, "three sizes")]
    if len(sizes) != 3:
        raise InputError("space", got=sizes, expected="layers, heads and units of a layer")
    return Space(*sizes)


def _per_expert(value: Any, space: Space) -> tuple[int, ...]:
    """Neurons of an expert in each layer, which files keep as a list."""
    each = tuple(require_list("per_expert", value, "a number for each layer, or none"))
    if each and len(each) != space.layers:
        raise InputError("per_expert", got=f"{len(each)} numbers", expected=f"{space.layers}")
    return tuple(require_index("per_expert", size, space.features + 1) for size in each)


def kind_of(dictionary: str) -> str:
    """Return the kind of a dictionary's nodes, as circuits record it.

    Args:
        dictionary: Its label.

    Example:
        >>> kind_of("neurons"), kind_of("runs/transcoder#1a2b3c4d")
        ('neuron', 'feature')
    """
    require_is("dictionary", dictionary, str)
    return {NEURONS: "neuron", MLPS: "mlp"}.get(dictionary, "feature")


def _identity(label: str) -> str:
    return label.rpartition("#")[2]


def unpacked(mask: Any, scores: Any, provenance: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Separate a mask and scores from the records of what they have seen.

    Args:
        mask: Units, or a `Selection` of them.
        scores: Values, or `Scores`.
        provenance: Fields of a circuit; what its `seen` names is kept.

    Returns:
        The mask, the scores, and the fields, whose `seen` is the union of all three; the history of
        a plain mask is what `provenance` says of it, or else unknown.
    """
    seen = [part.seen for part in (mask, scores) if isinstance(part, Selection | Scores)]
    whole = isinstance(mask, Selection)
    told = provenance.get("seen", Seen.nothing() if whole else Seen.unknown())
    provenance = provenance | {"seen": functools.reduce(operator.or_, seen, told)}
    mask = mask.mask if whole else mask
    return mask, scores.values if isinstance(scores, Scores) else scores, provenance
