"""Which attention heads carry an edge of an attribution graph, by what they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.errors import require_is, require_number
from hagd_jax.graphs.frozen import weight_of
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT, AttributionGraph, LogitTarget
from hagd_jax.graphs.prompt import HeldPrompt, held_again
from hagd_jax.graphs.rows import Targets
from hagd_jax.graphs.targets import logit_targets
from hagd_jax.interventions import chain, freeze
from hagd_jax.models import Context, Intervention, LanguageModel, forward, scanned, shared, static
from hagd_jax.models.arrays import read_array, read_indices
from hagd_jax.units import Source, directed


@struct.dataclass
class OnlyWrites(Intervention):
    """Put given values in place of the embedding and of all MLP outputs.

    Attributes:
        word: (B, T, D) instead of the embedding.
        out: (L, B, T, D) instead of what the MLPs write.
        W_skip: (L, D, D) a linear map that still acts, or None.
        gain: (L, 1, T, D), or what broadcasts to it, from its output to what is added to the
            stream.
        reads: The site that it reads.
    """

    word: Any = shared()
    out: Any = scanned()
    W_skip: Any = scanned(default=None)
    gain: Any = scanned(default=None)
    reads: str = static(default="mlp_in")

    def on_embed(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, OnlyWrites]:
        """Return the given values."""
        return jnp.broadcast_to(self.word, value.shape), self

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, OnlyWrites]:
        """Return the given values plus the output of the skip connection."""
        if self.W_skip is None:
            return jnp.broadcast_to(self.out, value.shape), self
        return self.out + self.gain * (ctx.seen[self.reads] @ self.W_skip.T), self


def edge_heads(
    model: LanguageModel,
    dictionary: Source | None,
    graph: AttributionGraph,
    edges: Sequence[int],
    *,
    batch_size: int = 16,
) -> np.ndarray:
    """Split edges into the shares that attention heads carry through their OV circuits.

    An edge sums paths of any number of heads, also of none. A head's part is the sum over the
    paths through it, ∂A[t, s] / ∂μ for its output times μ, at μ = 1: what the edge would lose
    without that head, patterns held. A path through two heads counts for both.

    Args:
        model: The model.
        dictionary: As the graph was made with.
        graph: The graph.
        edges: Numbers of edges in it.
        batch_size: Edges in one call.

    Returns:
        (n, L, H) float32.

    Raises:
        InputError: If an edge does not exist, or the graph is another model's.
        ConfigError: If `batch_size` is not a positive whole number.

    Example:
        >>> import jax
        >>> from hagd_jax.graphs import attribute
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> graph = attribute(model, None, [1, 2, 3, 4], targets=5)
        >>> edge_heads(model, None, graph, [edge.number for edge in graph.top(10)]).shape
        (10, 2, 2)
    """
    require_is("graph", graph, AttributionGraph)
    require_number("batch_size", batch_size, least=1, whole=True)
    nodes = directed(model, dictionary)
    numbers = np.ravel(np.asarray(read_array("edges", edges, "numbers of edges")))
    numbers = numbers if numbers.size else np.zeros(0, np.int64)
    numbers = read_indices("edges", numbers, len(graph.weights), numbers.shape)
    batch_size = min(batch_size, max(len(numbers), 1))
    ready = held_again(model, nodes, graph)
    tokens = jnp.asarray([graph.info.tokens], jnp.int32)
    held = ("attn_pattern", "attn_out_scale", "norm1_scale", "norm2_scale")
    trace = forward(model.bare(), tokens, capture=held).trace
    gain = jnp.asarray(_gain(ready)[:, None, : len(graph.info.tokens)])
    found = []
    for start in range(0, len(numbers), batch_size):
        part = numbers[start : start + batch_size]
        part = np.pad(part, (0, batch_size - len(part)), mode="edge")
        word, out = _writes(ready, graph, graph.senders[part])
        targets = _targets(ready, graph, graph.receivers[part])
        acting = OnlyWrites(word, out, nodes.skip, gain, nodes.reads)
        found.append(_head_parts(ready.model, tokens, trace, acting, targets))
    joined = np.concatenate([np.asarray(x) for x in found]) if found else np.zeros(
        (0, model.config.n_layers, model.config.n_heads), np.float32
    )  # fmt: skip
    return joined[: len(numbers)]


@jax.jit
def _head_parts(
    model: LanguageModel,
    tokens: jax.Array,
    trace: dict[str, jax.Array],
    acting: OnlyWrites,
    targets: Targets,
) -> jax.Array:
    """(n, L, H) ∂A/∂μ; biases act with and without the source, and so drop out."""
    c, count = model.config, len(targets.stage)
    many = jnp.repeat(tokens, count, 0)
    held = freeze({site: jnp.repeat(value, count, 1) for site, value in trace.items()})
    nothing = acting.replace(word=0 * acting.word, out=0 * acting.out)  # type: ignore[attr-defined]

    def difference(scale: jax.Array) -> jax.Array:
        def value(writes: OnlyWrites) -> jax.Array:
            do = chain(held, writes, ScaleHeads(scale))
            out = forward(model, many, do, capture=("resid_mid", "resid_final")).trace
            stream = jnp.concatenate([out["resid_mid"], out["resid_final"][None]])
            layer = jnp.minimum(targets.stage // 2, c.n_layers)
            read = stream[layer, jnp.arange(count), targets.position]
            return jnp.sum(read * targets.vector)

        return value(acting) - value(nothing)

    ones = jnp.ones((c.n_layers, count, c.n_heads))
    return jax.grad(difference)(ones).transpose(1, 0, 2)


@struct.dataclass
class ScaleHeads(Intervention):
    """Multiply the outputs of heads.

    Attributes:
        scale: (L, B, H).
    """

    scale: Any = scanned()

    def on_head_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, ScaleHeads]:
        """Scale the head outputs before W_O."""
        return value * self.scale[:, None, :, None], self


def _writes(
    ready: HeldPrompt, graph: AttributionGraph, senders: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """(n, T, D) what each sender writes to the embedding, (L, n, T, D) to MLP outputs."""
    table, length = graph.nodes, len(graph.info.tokens)
    found, width = ready.found, ready.model.config.d_model
    gain = _gain(ready)
    decoders = ready.dictionary.decoders(ready.model).rows
    word = np.zeros((len(senders), length, width), np.float32)
    out = np.zeros((graph.info.layers, len(senders), length, width), np.float32)
    for row, node in enumerate(senders):
        kind, layer = int(table.kind[node]), int(table.layer[node])
        position, index = int(table.position[node]), int(table.index[node])
        if kind == EMBEDDING:
            word[row, position] = found.embedding[position]
        elif kind == ERROR:
            error = np.asarray(found.error[layer, position])
            out[layer, row, position] = error * gain[layer, position]
        else:
            index = int(ready.rows_of(layer, index))
            for edge in np.flatnonzero(np.asarray(found.senders) == layer):
                vector = np.asarray(decoders[int(edge), index], np.float32)
                to = found.receivers[edge]
                out[to, row, position] = table.activation[node] * vector * gain[to, position]
    return jnp.asarray(word), jnp.asarray(out)


def _gain(ready: HeldPrompt) -> np.ndarray:
    """(L, T, D) or (L, T, 1) what takes rows of decoders to what is added to the stream."""
    scale, blocks = np.asarray(ready.held.gain_mlp)[..., None], ready.model.params["blocks"]
    weight = weight_of(blocks, "norm_mlp_out", ready.model.config)
    if weight is None or ready.found.writes == "mlp_out":
        return np.ones_like(scale)
    return scale * np.asarray(weight)[:, None]


def _targets(ready: HeldPrompt, graph: AttributionGraph, receivers: np.ndarray) -> Targets:
    """Receivers as targets, in their order."""
    table = graph.nodes
    kind = np.asarray(table.kind)[receivers]
    layer = np.where(kind == FEATURE, np.asarray(table.layer)[receivers], -1)
    index = np.where(kind == FEATURE, np.asarray(table.index)[receivers], 0)
    position = np.asarray(table.position)[receivers]
    features = ready.features(layer, position, index)
    outputs = [
        graph.target(int(node)) if own == LOGIT else LogitTarget("", (0,))
        for node, own in zip(receivers, kind, strict=True)
    ]
    logits = logit_targets(ready.model, ready.held, outputs, ready.length - 1, len(outputs))
    is_logit = jnp.asarray(kind == LOGIT)
    return jax.tree.map(
        lambda a, b: jnp.where(is_logit.reshape(-1, *[1] * (a.ndim - 1)), a, b), logits, features
    )
