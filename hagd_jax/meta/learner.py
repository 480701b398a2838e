"""The learner: an attention network over graphs, whose last layer adapts."""

from __future__ import annotations

import dataclasses
import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import (
    CheckpointError,
    InputError,
    require,
    require_is,
    require_number,
)
from hagd_jax.files import as_path, checked, parse_json, read_arrays, save_arrays
from hagd_jax.meta.describe import EDGE_COLUMNS, NODE_COLUMNS, Described
from hagd_jax.models.arrays import require_key
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Scores

_SHIPPED = "learner.safetensors"
_MOST = {"width": 2**12, "heads": 2**10, "rounds": 2**6, "inner_steps": 10_000}


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Configure the size of the learner.

    Attributes:
        width: Of a node's state.
        heads: Of attention.
        rounds: How far nodes see: so many edges.
        inner_steps: Of gradient descent on the last layer, to adapt.
    """

    width: int = 16
    heads: int = 2
    rounds: int = 2
    inner_steps: int = 8

    def __post_init__(self):
        for field in dataclasses.fields(self):
            most = _MOST[field.name]
            require_number(field.name, getattr(self, field.name), least=1, most=most, whole=True)
        divides = self.width % self.heads == 0
        require(divides, "heads", got=self.heads, expected=f"a divisor of width = {self.width}")


class Learner(struct.PyTreeNode):
    """A learner is a network's weights with their configuration.

    Attributes:
        params: `network`, the last layer's `weight` and `bias`, and `rate`, how fast it adapts.
        config: How large it is.
    """

    params: Any
    config: LearnerConfig = struct.field(pytree_node=False)

    __repr__ = one_line


class Network(nn.Module):
    """The network computes node states by rounds of graph attention (Veličković et al., 2018)."""

    config: LearnerConfig

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> jax.Array:
        """(N, width) states."""
        c = self.config
        state = nn.LayerNorm()(nn.Dense(c.width)(nn.gelu(nn.Dense(c.width)(graph.nodes))))
        edges = nn.gelu(nn.Dense(c.width)(graph.edges))
        for _ in range(c.rounds):
            state = state + self.attend(nn.LayerNorm()(state), edges, graph)
            inner = nn.gelu(nn.Dense(2 * c.width)(nn.LayerNorm()(state)))
            state = state + nn.Dense(c.width)(inner)
        return nn.LayerNorm()(state)

    def attend(self, state: jax.Array, edges: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """Aggregate messages from the neighbours of each node."""
        c = self.config
        senders, receivers = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)
        split = lambda x: x.reshape(*x.shape[:-1], c.heads, c.width // c.heads)  # noqa: E731
        query = split(nn.Dense(c.width)(state))[receivers]
        key = split(nn.Dense(c.width)(state)[senders] + nn.Dense(c.width)(edges))
        value = split(nn.Dense(c.width)(state)[senders] + nn.Dense(c.width)(edges))
        match = (query * key).sum(-1) / np.sqrt(c.width / c.heads)
        share = jraph.segment_softmax(match, receivers, len(state))
        taken = jraph.segment_sum(jnp.asarray(share)[..., None] * value, receivers, len(state))
        return nn.Dense(c.width)(taken.reshape(len(state), -1))


def init(config: LearnerConfig, key: jax.Array) -> Learner:
    """Make an untrained learner."""
    require_is("config", config, LearnerConfig)
    require_key(key)
    columns = len(NODE_COLUMNS), len(EDGE_COLUMNS)
    ends = jnp.zeros(1, jnp.int32)
    blank: Any = jraph.GraphsTuple(
        jnp.zeros((1, columns[0])), jnp.zeros((1, columns[1])), ends, ends, None, ends + 1, ends + 1
    )
    network = Network(config).init(key, blank)["params"]
    params = {
        "network": network, "weight": jnp.zeros(config.width), "bias": jnp.float32(-2),
        "rate": jnp.float32(-1),
    }  # fmt: skip
    return Learner(params, config)


@jax.jit
def states(learner: Learner, graph: jraph.GraphsTuple) -> jax.Array:
    """Compute the (N, width) states of the nodes."""
    found = Network(learner.config).apply({"params": learner.params["network"]}, graph)
    return found  # type: ignore[return-value]


def logits(learner: Learner, graph: jraph.GraphsTuple) -> jax.Array:
    """Compute the membership logits of the nodes.

    Args:
        learner: The learner.
        graph: From `describe`, or several in one batch.

    Returns:
        (N,) float32.
    """
    p = learner.params
    return states(learner, graph) @ p["weight"] + p["bias"]


def score(learner: Learner, described: Described) -> Scores:
    """Score the nodes of one graph by `logits`, in place of signed integrated gradients.

    Args:
        learner: The learner, such as `load()`.
        described: From `describe`.

    Returns:
        Membership scores, higher is likelier, which have seen what the graph has seen.

    Raises:
        InputError: If it is a description without the space of its nodes.

    Example:
        >>> from hagd_jax.meta import describe, load, score
        >>> from hagd_jax.scores import node_graph
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> score(load(), describe(node_graph(case.model, case.prompts))).flat().shape
        (10,)
    """
    require_is("learner", learner, Learner)
    require_is("described", described, Described)
    return as_scores(described, logits(learner, padded(described.graph)))


def padded(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """Pad a graph to a power of two, so that few programs serve graphs of all sizes."""
    count, edges = int(graph.n_node[0]), max(int(graph.n_edge[0]), 1)
    return jraph.pad_with_graphs(graph, 1 << count.bit_length(), 1 << edges.bit_length(), 2)


def as_scores(described: Described, values: jax.Array) -> Scores:
    """Make scores of a described graph's nodes from padded values."""
    if described.space is None:
        raise InputError("description", got="one without the space of its nodes",
                         expected="what `describe` returns")  # fmt: skip
    row = np.asarray(values)[: described.space.nodes]
    nodes = Nodes.from_flat(described.space, row)
    return Scores(nodes, described.seen or Seen.unknown())


def save(learner: Learner, path: str | Path) -> None:
    """Write a learner to a safetensors file.

    Args:
        learner: The learner.
        path: The file.

    Raises:
        CheckpointError: If it cannot be written.
    """
    require_is("learner", learner, Learner)
    path = as_path(path)
    flat = flax.traverse_util.flatten_dict(learner.params, sep="/")
    about = {"config": json.dumps(dataclasses.asdict(learner.config))}
    arrays = {name: np.asarray(x, np.float32, order="C") for name, x in flat.items()}
    save_arrays(path, arrays, about)


@functools.cache
def _shipped() -> Path:
    return Path(str(resources.files("hagd_jax.meta") / _SHIPPED))


def load(path: str | Path | None = None) -> Learner:
    """Read a learner that `save` wrote.

    Args:
        path: A file that `save` wrote; the one that comes with the package if None.

    Returns:
        The learner.

    Raises:
        CheckpointError: If there is no such file, or it holds something else.

    Example:
        >>> from hagd_jax.meta import load
        >>> load().config.rounds
        2
    """
    file = _shipped() if path is None else as_path(path)
    try:
        arrays, about = read_arrays(file)
        config = checked(LearnerConfig, parse_json(about.get("config", "null"), "config"), "config")
        params = flax.traverse_util.unflatten_dict(arrays, sep="/")
        like = jax.eval_shape(lambda: init(config, jax.random.key(0))).params
        if jax.tree.map(_kind, params) != jax.tree.map(_kind, like):
            raise ValueError("weights of other shapes or types")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("weights that are not finite")
    # Names of its tensors may nest in each other in any way.
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise CheckpointError(
            str(file), got=str(error), expected="a learner's safetensors",
            mend="Make one with `python -m experiments.circuits.meta_learning`.",
        ) from error  # fmt: skip
    return Learner(jax.tree.map(jnp.asarray, params), config)


def _kind(array: Any) -> str:
    return f"{array.dtype}{array.shape}"
