"""What makes an attention head look where it looks: pairs of nodes, in its query and its key."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import require_index, require_is
from hagd_jax.graphs.frozen import norm_back, weight_of
from hagd_jax.graphs.graph import EMBEDDING, FEATURE, LOGIT, AttributionGraph
from hagd_jax.graphs.prompt import HeldPrompt, held_again
from hagd_jax.graphs.rows import Targets, before_layer
from hagd_jax.graphs.stored_rows import Columns
from hagd_jax.models import LanguageModel, forward, require_supported, rope
from hagd_jax.units import Source, directed


class QueryKey(NamedTuple):
    """A decomposition splits one attention score of a head into pairs of nodes.

    The score before the softmax is Σ over all pairs. The last row and column are everything that
    is no node of the graph: features that were not chosen, biases.

    Attributes:
        pairs: (N + 1, N + 1) part of the score due to [node in the query, node in the key].
        score: Their sum.
    """

    pairs: np.ndarray
    score: float

    __repr__ = one_line


def query_key(
    model: LanguageModel,
    dictionary: Source | None,
    graph: AttributionGraph,
    *,
    layer: int,
    head: int,
    query: int,
    key: int,
) -> QueryKey:
    """Attribute the attention score of a head to pairs of nodes at two positions.

    The score is bilinear in the streams at both positions, norms held: with Q_u and K_v what node
    u adds to the query and v to the key, on all paths, it is Σ_u Σ_v R Q_u · R K_v / √d.

    Args:
        model: The model.
        dictionary: As the graph was made with.
        graph: Whose nodes are paired.
        layer: Of the head.
        head: Its number among the query heads.
        query: Position that looks.
        key: Position that is looked at.

    Returns:
        The pairs.

    Raises:
        InputError: If there is no such head or position, or the graph is another model's.
        ConfigError: If the model has an option that changes its scores and is not known here.
    """
    require_is("graph", graph, AttributionGraph)
    require_is("model", model, LanguageModel)
    require_supported(model.config, "query_key", ())
    nodes, c = directed(model, dictionary), model.config
    length = len(graph.info.tokens)
    layer, head = require_index("layer", layer, c.n_layers), require_index("head", head, c.n_heads)
    query = require_index("query", query, length)
    key = require_index("key", key, query + 1 if c.causal else length)
    ready = held_again(model, nodes, graph)
    tokens = jnp.asarray([graph.info.tokens], jnp.int32)
    trace = forward(ready.model, tokens, capture=("q", "k")).trace
    columns = _node_columns(ready, graph)
    group = head // (c.n_heads // c.n_kv_heads)
    sides = []
    for name, which, position in (("q", head, query), ("k", group, key)):
        vectors = _projection(ready.model, ready.held.gain1, layer, position, name, which)
        own = np.asarray(ready.rows(vectors).values)[:, columns].T
        whole = np.asarray(trace[name])[layer, 0, position, which]
        own = np.concatenate([own, (whole - own.sum(0))[None]])
        sides.append(np.asarray(_rotated(c, own, position, length)))
    divisor = math.sqrt(c.d_head) if c.scale_attn else 1.0
    divisor *= layer + 1 if c.scale_attn_by_layer else 1
    pairs = sides[0] @ sides[1].T / divisor
    return QueryKey(pairs, float(pairs.sum()))


@functools.partial(jax.jit, static_argnames=("name",))
def _projection(
    model: LanguageModel, gain: jax.Array, layer: Any, position: Any, name: str, head: Any
) -> Targets:
    """Each entry of a query or a key as a target."""
    blocks = model.params["blocks"]
    kernel = blocks["attn"][name]["kernel"][layer, :, head].astype(jnp.float32)
    weight = weight_of(blocks, "norm1")
    weight = None if weight is None else weight[layer]
    vector = norm_back(kernel.T, weight, gain[layer, position], model.config)
    stage = jnp.full(len(vector), before_layer(layer), jnp.int32)
    return Targets(vector, stage, jnp.full(len(vector), position, jnp.int32))


def _rotated(config: Any, values: np.ndarray, position: int, length: int) -> jax.Array:
    """(N, Dh) turned as at a position."""
    if config.positions != "rotary":
        return jnp.asarray(values)
    cos, sin = (table[position : position + 1] for table in rope.tables(config, length))
    return rope.rotate(jnp.asarray(values)[None, None], cos, sin)[0, 0]


def _node_columns(ready: HeldPrompt, graph: AttributionGraph) -> np.ndarray:
    """(N,) the column of each node that is a source; logits have none and are left out."""
    table = graph.nodes
    kind, layer, position, index = (
        np.asarray(x) for x in (table.kind, table.layer, table.position, table.index)
    )
    c = Columns(*ready.found.activation.shape)
    slot = np.zeros(len(kind), np.int64)
    features = np.flatnonzero(kind == FEATURE)
    if ready.found.index is None:
        slot[features] = index[features]
    else:
        table_of = np.asarray(ready.found.index)
        active = np.asarray(ready.found.activation) != 0
        here = table_of[layer[features], position[features]] == index[features, None]
        slot[features] = np.argmax(here & active[layer[features], position[features]], 1)
    places = layer * c.positions + position
    columns = np.where(kind == FEATURE, places * c.slots + slot, c.features + places)
    columns = np.where(kind == EMBEDDING, c.embeddings + position, columns)
    return columns[kind != LOGIT]
