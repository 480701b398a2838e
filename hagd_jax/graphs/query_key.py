"""What makes an attention head look where it looks: pairs of nodes, in its query and its key."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.graphs.frozen import norm_back, weight_of
from hagd_jax.graphs.graph import EMBEDDING, FEATURE, LOGIT, AttributionGraph
from hagd_jax.graphs.prompt import HeldPrompt, held_again
from hagd_jax.graphs.rows import Targets, before_layer
from hagd_jax.graphs.stored_rows import Columns
from hagd_jax.models import LanguageModel, forward, rope
from hagd_jax.models.layers import score_divisor
from hagd_jax.units import Source, directed


class QueryKey(NamedTuple):
    """A decomposition splits one attention score of a head into pairs of nodes.

    The score before the softmax is Σ over all pairs; where scores have a soft cap, c tanh(s / c),
    the pairs sum to s, before it. The last row and column are everything that is no node of the
    graph: features that were not chosen, biases.

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

    The score is bilinear in the streams at both positions, norms held, those of queries and keys
    among them: with Q_u and K_v what node u adds to the query and v to the key, on all paths, it
    is Σ_u Σ_v R Q_u · R K_v / √d. A soft cap of scores comes after this sum: as it rises with s,
    what raises s makes the head look.

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
        InputError: If there is no such head or position, the key lies outside the layer's window,
            or the graph is another model's.
    """
    require_is("graph", graph, AttributionGraph)
    require_is("model", model, LanguageModel)
    nodes, c = directed(model, dictionary), model.config
    length = len(graph.info.tokens)
    layer, head = require_index("layer", layer, c.n_layers), require_index("head", head, c.n_heads)
    query = require_index("query", query, length)
    key = require_index("key", key, query + 1 if c.causal else length)
    _require_window(c.windows[layer], layer, query, key)
    ready = held_again(model, nodes, graph)
    tokens = jnp.asarray([graph.info.tokens], jnp.int32)
    trace = forward(ready.model, tokens, capture=("q", "k", "q_scale", "k_scale")).trace
    columns = _node_columns(ready, graph)
    group = head // (c.n_heads // c.n_kv_heads)
    sides = []
    for name, which, position in (("q", head, query), ("k", group, key)):
        scale = trace[f"{name}_scale"][layer, 0, position, which]
        vectors = _projection(ready.model, ready.held.gain1, scale, layer, position, name, which)
        own = np.asarray(ready.rows(vectors).values)[:, columns].T
        whole = np.asarray(trace[name])[layer, 0, position, which]
        own = np.concatenate([own, (whole - own.sum(0))[None]])
        sides.append(np.asarray(_rotated(c, own, position, length, layer)))
    divisor = score_divisor(c) * (layer + 1 if c.scale_attn_by_layer else 1)
    pairs = sides[0] @ sides[1].T / divisor
    return QueryKey(pairs, float(pairs.sum()))


def _require_window(window: int, layer: int, query: int, key: int) -> None:
    """Refuse a key that the layer hides from the query."""
    if window and query - key >= window:
        raise InputError(
            "key", got=f"{key} for query {query}",
            expected=f"{query - window + 1} or more: layer {layer} sees {window} positions",
        )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("name",))
def _projection(
    model: LanguageModel,
    gain: jax.Array,
    scale: jax.Array,
    layer: Any,
    position: Any,
    name: str,
    head: Any,
) -> Targets:
    """Each entry of a query or a key as a target, the denominator of its norm held."""
    blocks, c = model.params["blocks"], model.config
    kernel = blocks["attn"][name]["kernel"][layer, :, head].astype(jnp.float32)
    own = weight_of(blocks["attn"], f"{name}_norm", c)
    if own is not None:
        own = own[layer] if c.qk_norm == "head" else own[layer, head]
        kernel = kernel * own / scale
    weight = weight_of(blocks, "norm1", c)
    weight = None if weight is None else weight[layer]
    vector = norm_back(kernel.T, weight, gain[layer, position], c)
    stage = jnp.full(len(vector), before_layer(layer), jnp.int32)
    return Targets(vector, stage, jnp.full(len(vector), position, jnp.int32))


def _rotated(config: Any, values: np.ndarray, position: int, length: int, layer: int) -> jax.Array:
    """(N, Dh) turned as at a position of a layer."""
    if config.positions != "rotary":
        return jnp.asarray(values)
    tables = rope.layer_tables(config, length, layer)
    cos, sin = (table[position : position + 1] for table in tables)
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
