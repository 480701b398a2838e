"""The component graph: how much each head and MLP matters to each input of each later one."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import require_index
from hagd_jax.interventions import chain
from hagd_jax.models import (
    Context,
    DecoderConfig,
    Identity,
    Intervention,
    LanguageModel,
    forward,
    scanned,
    shared,
)
from hagd_jax.parallel import replicate
from hagd_jax.scores.gradient_config import GradientConfig, check_scored
from hagd_jax.scores.methods import Method, read_method
from hagd_jax.scores.path import Metric, metric_sum, path_ends, path_gradient
from hagd_jax.tasks.batching import summed
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import WRITES, Edges, Scores
from hagd_jax.units.graph import Graph, graph_parts

EMBED, HEAD, MLP, LOGITS = range(4)
INPUTS = ("q", "k", "v", "mlp", "logits")


class ComponentNodes(NamedTuple):
    """The nodes are the embedding, heads by layer, MLPs and the logits.

    Attributes:
        kind: (N,) int8: `EMBED`, `HEAD`, `MLP` or `LOGITS`.
        layer: (N,) int32; −1 for the embedding, L for the logits.
        index: (N,) int32 query head; 0 for others.
    """

    kind: Any
    layer: Any
    index: Any

    __repr__ = one_line


class ComponentEdges(NamedTuple):
    """The edges are split by the input of the reader that they end at.

    Attributes:
        score: (E,) mean over prompts; positive helps the behaviour.
        error: (E,) its standard error.
        input: (E,) int8, an index into `INPUTS`.
        index: (E,) int32 which query head (q) or key/value head (k, v) reads; 0 for others.
    """

    score: Any
    error: Any
    input: Any
    index: Any

    __repr__ = one_line


class ComponentGraph(Graph):
    """A component graph holds the edges from writers to readers, with a score for each.

    Query heads that share a key/value head share its inputs: an edge into one of these ends at
    the first of them.

    Attributes:
        graph: Nodes are `ComponentNodes`, edges `ComponentEdges`.
        prompts: How many were averaged.
        config: The decoder's configuration.
        seen: What its edges were scored by looking at.
    """

    prompts: int = struct.field(pytree_node=False)
    config: DecoderConfig = struct.field(pytree_node=False)
    seen: Seen = struct.field(pytree_node=False, default=Seen.unknown())

    parallel: ClassVar[bool] = True

    @property
    def nodes(self) -> ComponentNodes:
        """Return the table of nodes."""
        return self.graph.nodes  # type: ignore[return-value]

    @property
    def edges(self) -> ComponentEdges:
        """Return the table of edges."""
        return self.graph.edges  # type: ignore[return-value]

    @property
    def weights(self) -> np.ndarray:
        """Return the (E,) score of each edge."""
        return np.asarray(self.edges.score)

    def label(self, node: int) -> str:
        """Describe a node, such as `L3 head 2` or `L3 MLP`; see `Graph.label`."""
        node, table = require_index("node", node, self.count), self.nodes
        kind, layer, index = (int(column[node]) for column in table)
        return {EMBED: "embedding", HEAD: f"L{layer} head {index}", MLP: f"L{layer} MLP",
                LOGITS: "logits"}[kind]  # fmt: skip

    def _about(self) -> tuple[str, ...]:
        return (f"mean of {self.prompts:,} prompts",)

    @property
    def scores(self) -> Scores:
        """Convert to scores of `Edges`; entries without an edge are 0."""
        found = jax.tree.map(
            lambda there: np.zeros(there.shape, np.float32), Edges.existing(self.config)
        )
        edges, writer, layer = self.edges, self.senders, self.layer[self.receivers]
        for number, name in enumerate(("q", "k", "v", "mlp", "final")):
            own = np.asarray(edges.input) == number
            place = (layer[own], np.asarray(edges.index)[own], writer[own])
            place = {"mlp": place[::2], "final": place[2:]}.get(name, place)
            getattr(found, name)[place] = np.asarray(edges.score)[own]
        return Scores(found, self.seen)


@struct.dataclass
class AddToReads(Intervention):
    """Add to what each reader reads before its norm, where gradients of reads are taken.

    Attributes:
        q: (L, B, T, H, D).
        k: (L, B, T, K, D).
        v: (L, B, T, K, D).
        mlp: (L, B, T, D).
        final: (B, T, D).
    """

    q: Any = scanned()
    k: Any = scanned()
    v: Any = scanned()
    mlp: Any = scanned()
    final: Any = shared()

    def on_q_in(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToReads]:
        """Add to what queries read."""
        return value + self.q, self

    def on_k_in(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToReads]:
        """Add to what keys read."""
        return value + self.k, self

    def on_v_in(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToReads]:
        """Add to what values read."""
        return value + self.v, self

    def on_resid_mlp(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToReads]:
        """Add to what the MLP reads."""
        return value + self.mlp, self

    def on_resid_final(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToReads]:
        """Add to what the logits read."""
        return value + self.final, self


def component_graph(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(),
    *,
    metric: Metric = logit_difference,
    rules: Intervention | None = None,
) -> ComponentGraph:
    """Score every edge between components by gradients.

    score(u → v) = mean over prompts of ∫₀¹ Σ (u_clean − u_corrupted) · ∂m/∂(what v reads) dα: how
    much m changes, to first order, when v alone reads u from the counterfactual. The path goes
    from the counterfactual's embeddings (α = 0) to the clean ones (Hanna et al., 2024,
    arXiv:2403.17806); `steps=(1.0,)` is attribution patching at the clean prompt.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Steps and batching.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).
        rules: Intervention without arrays that changes the backward pass alone, such as
            `relp_rules()`, whose coefficients then stand for the gradient.

    Returns:
        The graph.

    Raises:
        InputError: If the prompts do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> graph = component_graph(case.model, case.prompts, GradientConfig(steps=(1.0,)))
        >>> strongest = np.argsort(-abs(graph.edges.score))[:10]
        >>> len(strongest)
        10
    """
    check_scored(model, prompts, config)
    rules = read_method(Method(rules=Identity() if rules is None else rules)).rules
    bare, steps = model.bare(), jnp.asarray(config.steps, jnp.float32)

    def moments(batch: Prompts, weight: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        found = _scores(bare, batch, steps, metric, config.remat, rules)
        part = np.asarray(found, np.float64)
        part = part[np.asarray(weight) > 0]
        return part.sum(0), (part**2).sum(0)

    total, squares = summed(model, prompts, config.batch_size, moments)
    count, seen = len(prompts), look(prompts, ablation="counterfactual", model=model)
    mean = total / count
    spread = np.maximum(squares / count - mean**2, 0) * count / max(count - 1, 1)
    return _graph(model.config, mean, np.sqrt(spread / count), count).replace(seen=seen)


@functools.partial(jax.jit, static_argnames=("metric", "remat", "rules"))
def _scores(
    model: LanguageModel, batch: Prompts, steps: jax.Array, metric: Metric, remat: bool,
    rules: Intervention,
) -> jax.Array:  # fmt: skip
    """(B, writers, readers) scores of all pairs, in whatever order they stand."""
    ends = path_ends(model, batch, WRITES)
    c = model.config
    shape = batch.inputs().shape

    def gradient(step: jax.Array) -> AddToReads:
        def value(reads: AddToReads) -> jax.Array:
            path = chain(ends.at(step), rules, reads)
            out = forward(model, batch.inputs(), path, remat=remat)
            return metric_sum(metric, out.logits, batch, jnp.ones(len(batch)))

        return jax.grad(value)(no_reads(c, shape))

    reads = path_gradient(gradient, steps)
    writes = {site: (ends.clean[site] - ends.other[site]).astype(jnp.float32) for site in WRITES}
    heads = writes["head_added"].transpose(0, 3, 1, 2, 4).reshape(-1, *shape, c.d_model)
    written = jnp.concatenate([writes["embed"][None], heads, writes["mlp_out"]])

    def layer(reads: tuple) -> jax.Array:
        per_head = jnp.concatenate(reads[:3], 2).transpose(2, 0, 1, 3)
        return _pairs(written, jnp.concatenate([per_head, reads[3][None]]))

    by_layer = jax.lax.map(layer, (reads.q, reads.k, reads.v, reads.mlp))  # (L, B, W, readers)
    by_layer = by_layer.transpose(1, 2, 0, 3).reshape(shape[0], len(written), -1)
    final = _pairs(written, reads.final[None])
    rows = jnp.concatenate([by_layer, final], -1)
    # Several rows of one prompt add up.
    pairs = rows.reshape(len(batch), -1, *rows.shape[1:]).sum(1)
    return replicate(pairs, model.mesh)


def _pairs(written: jax.Array, read: jax.Array) -> jax.Array:
    """(W, B, T, D) and (R, B, T, D) → (B, W, R)."""
    return jnp.einsum("wbtd,rbtd->bwr", written, read)


def no_reads(c: DecoderConfig, shape: tuple[int, ...]) -> AddToReads:
    """Make an `AddToReads` of zeros, for tokens of shape (B, T)."""
    stream = (*shape, c.d_model)
    queries, keys = ((c.n_layers, *shape, n, c.d_model) for n in (c.n_heads, c.n_kv_heads))
    return AddToReads(
        q=jnp.zeros(queries),
        k=jnp.zeros(keys),
        v=jnp.zeros(keys),
        mlp=jnp.zeros((c.n_layers, *stream)),
        final=jnp.zeros(stream),
    )


def _graph(c: DecoderConfig, mean: np.ndarray, error: np.ndarray, prompts: int) -> ComponentGraph:
    """Edges from each writer to each reader that comes after it."""
    layers, heads, keys = c.n_layers, c.n_heads, c.n_kv_heads
    kind = np.repeat([EMBED, HEAD, MLP, LOGITS], [1, layers * heads, layers, 1]).astype(np.int8)
    own = np.repeat(np.arange(layers), heads)
    layer = np.concatenate([[-1], own, np.arange(layers), [layers]]).astype(np.int32)
    index = np.concatenate([[0], np.tile(np.arange(heads), layers), np.zeros(layers + 1)])
    # Readers of one layer: queries, keys, values, MLP.
    sizes = (heads, keys, keys, 1)
    input_ = np.append(np.tile(np.repeat([0, 1, 2, 3], sizes), layers), 4)
    reader = np.concatenate([np.tile(np.concatenate([np.arange(n) for n in sizes]), layers), [0]])
    reader_layer = np.append(np.repeat(np.arange(layers), sum(sizes)), layers)
    group = heads // keys
    first = reader * np.where(np.isin(input_, [1, 2]), group, 1)
    node = np.where(
        input_ == 3, 1 + layers * heads + reader_layer, 1 + reader_layer * heads + first
    )
    node = np.where(input_ == 4, len(kind) - 1, node)
    # When a writer has written, and when a reader reads; a layer's MLP reads its heads' writes
    # unless both stand side by side.
    wrote = np.where(kind == HEAD, 2 * layer + 1, 2 * layer + 2)[:-1]
    mlp_reads = 2 * reader_layer + (0 if c.parallel_residual else 1)
    reads = np.where(input_ == 3, mlp_reads, 2 * reader_layer)
    senders, readers = np.nonzero(wrote[:, None] <= reads[None])
    edges = ComponentEdges(
        score=mean[senders, readers].astype(np.float32),
        error=error[senders, readers].astype(np.float32),
        input=input_[readers].astype(np.int8),
        index=reader[readers].astype(np.int32),
    )
    table = ComponentNodes(kind, layer, index.astype(np.int32))
    return ComponentGraph(graph_parts(table, edges, senders, node[readers]), prompts, c)
