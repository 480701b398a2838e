"""A circuit: which nodes of a model carry a behaviour, and where that claim came from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import write_atomic
from hagd_jax.interventions import KINDS, Nodes
from hagd_jax.models import DecoderConfig

FORMAT = 1


@dataclasses.dataclass(frozen=True, order=True)
class Node:
    """One node: an attention head or an MLP neuron.

    Attributes:
        kind: `head` or `neuron`.
        layer: From 0.
        index: Within its layer, from 0.
    """

    kind: str
    layer: int
    index: int


@dataclasses.dataclass(frozen=True)
class Circuit:
    """A set of nodes with its provenance.

    Attributes:
        nodes: Members, sorted by kind, layer and index.
        scores: What each member was chosen by, in the same order.
        space: Layers, heads a layer and neurons a layer of the model.
        model: The model's name.
        task: The task's name.
        dictionary: What the nodes inside MLPs are; `neurons` is the model's own basis.
        ablation: What replaced the complement while the circuit was found.
        seed: Seed of its discovery.
        config: Everything else that decided it.
    """

    nodes: tuple[Node, ...]
    scores: tuple[float, ...]
    space: tuple[int, int, int]
    model: str
    task: str
    dictionary: str = "neurons"
    ablation: str = "counterfactual"
    seed: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if len(self.scores) != len(self.nodes):
            raise InputError(
                "circuit", got=f"{len(self.scores)} scores", expected=f"{len(self.nodes)} of them"
            )
        if len(set(self.nodes)) != len(self.nodes):
            raise InputError("circuit", got="a node twice", expected="distinct nodes")
        layers, heads, neurons = self.space
        for node in self.nodes:
            width = {"head": heads, "neuron": neurons}.get(node.kind, 0)
            if not (0 <= node.layer < layers and 0 <= node.index < width):
                raise InputError(
                    "circuit",
                    got=dataclasses.astuple(node),
                    expected=f"one of {layers} layers of {heads} heads and {neurons} neurons",
                )

    def __len__(self) -> int:
        return len(self.nodes)

    @classmethod
    def from_mask(
        cls, mask: Nodes, scores: Nodes, decoder: DecoderConfig, **provenance: Any
    ) -> Circuit:
        """The members of a boolean mask.

        Args:
            mask: `Nodes` of bool, (L, H) and (L, M).
            scores: `Nodes` of float, same shapes.
            decoder: The model's configuration.
            **provenance: The remaining fields.

        Returns:
            The circuit.
        """
        nodes, values = [], []
        for kind, members, score in zip(
            KINDS, (mask.heads, mask.neurons), (scores.heads, scores.neurons), strict=True
        ):
            score = np.asarray(score)
            for layer, index in np.argwhere(np.asarray(members)).tolist():
                nodes.append(Node(kind, layer, index))
                values.append(float(score[layer, index]))
        space = decoder.n_layers, decoder.n_heads, decoder.d_mlp
        return cls(tuple(nodes), tuple(values), space, **provenance)

    def mask(self) -> Nodes:
        """`Nodes` of bool: True for members."""
        layers, heads, neurons = self.space
        arrays = {
            "head": np.zeros((layers, heads), bool),
            "neuron": np.zeros((layers, neurons), bool),
        }
        for node in self.nodes:
            arrays[node.kind][node.layer, node.index] = True
        return Nodes(jnp.asarray(arrays["head"]), jnp.asarray(arrays["neuron"]))

    def check_model(self, decoder: DecoderConfig) -> None:
        """Refuse a model whose nodes are not the circuit's.

        Raises:
            InputError: If the numbers of layers, heads or neurons differ.
        """
        space = decoder.n_layers, decoder.n_heads, decoder.d_mlp
        if space != self.space:
            raise InputError(
                f"circuit of {self.model!r}",
                got=f"a model with layers, heads, neurons = {space}",
                expected=f"{self.space}",
            )

    def to_json(self) -> str:
        """What `load` reads: nodes as [kind, layer, index], one field a line."""
        record = {"format": FORMAT, **dataclasses.asdict(self)}
        record["nodes"] = [dataclasses.astuple(node) for node in self.nodes]
        fields = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
        return "{\n" + ",\n".join(fields) + "\n}\n"

    def save(self, path: str | Path) -> None:
        """Write JSON, all of it or nothing."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote.

        Raises:
            CheckpointError: If the file is absent, broken, or of another format.
        """
        try:
            record = json.loads(Path(path).read_text())
            if record.pop("format") != FORMAT:
                raise ValueError("another format version")
            record["nodes"] = tuple(Node(str(k), int(a), int(b)) for k, a, b in record["nodes"])
            record["scores"] = tuple(float(score) for score in record["scores"])
            record["space"] = tuple(int(size) for size in record["space"])
            return cls(**record)
        except InputError as error:
            raise CheckpointError(str(path), got=str(error)) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                str(path),
                got=f"{type(error).__name__}: {error}",
                expected=f"a circuit written by this package, format {FORMAT}",
            ) from error
