"""What nodes write and what they read, from which every edge between them follows.

A head or a feature writes to the stream, and a later one reads the stream at the same position.
The edge s → t is what s writes more than on the counterfactual, times how much the metric would
change with what t reads:

A[t, s] = Σ over positions of ⟨Δwrite_s, ∂m/∂read_t⟩.

Of features both are a number times a fixed direction, so that edges between all features of two
layers are two matrix products: (decoder · encoder) ⊙ (activation · gradient). A norm between what
is written and the stream keeps it so: its weight goes into the direction, and its denominator, in
the clean pass and in the counterfactual's, divides the number.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError
from hagd_jax.interventions import chain
from hagd_jax.models import (
    Context,
    DecoderConfig,
    Intervention,
    LanguageModel,
    forward,
    norm_weight,
    scanned,
)
from hagd_jax.parallel import replicate
from hagd_jax.scores.component_graph import AddToReads, no_reads
from hagd_jax.scores.path import Metric, metric_sum, path_ends, path_gradient
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Directed

# Norms between what nodes write and the stream divide by these.
_DIVISORS = ("attn_out_scale", "mlp_out_scale")


class Directions(struct.PyTreeNode):
    """Directions are what features read and write, independent of the prompt.

    Attributes:
        out: (E, F, D) written along each edge of the layer graph, summed up to it: to the next
            layer, to the next two, and so on; the weight of the norm after the MLP within.
        own: (L,) int32 where the edges of each layer begin.
        reach: (L,) int32 how many there are.
        into: (K, L, F, D) read from the stream, the norm's weight within; K is 2 with a gate.
        heads: (L, H, Dh, D) what heads write, W_O, the weight of the norm after it within.
    """

    out: Any
    own: Any
    reach: Any
    into: Any
    heads: Any

    __repr__ = one_line


class Flow(struct.PyTreeNode):
    """A flow holds activations and gradients of nodes on B prompts of T positions.

    Attributes:
        move: (L, F, B, T) activation minus that of the counterfactual, each divided by its
            pass's denominator of the norm between the feature and the stream, if there is one.
        pull: (K, L, F, B, T) gradient of the metric with respect to what is read along `into`; for
            neurons of a mixture with the weight of their own expert held.
        head_move: (L, H, B, T, Dh) what heads put out, minus the counterfactual's; divided alike.
        head_read: (L, H, B, T, D) gradient with respect to what heads read: queries, keys and
            values. Heads that share keys and values share their gradient alike.
        score: (N,) Σ (clean − counterfactual) · ∂m/∂node, in the order of `Nodes.flat`.
    """

    move: Any
    pull: Any
    head_move: Any
    head_read: Any
    score: Any

    __repr__ = one_line


@struct.dataclass
class AddToHeads(Intervention):
    """Add to the outputs of heads, where their gradients are taken.

    Attributes:
        amount: (L, B, T, H, Dh).
    """

    amount: Any = scanned()

    def on_head_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToHeads]:
        """Add this layer's amounts to the head outputs."""
        return value + self.amount, self


def directions(model: LanguageModel, nodes: Directed) -> Directions:
    """Compute the directions that features read and write.

    Args:
        model: The model.
        nodes: Neurons, or a transcoder's features.

    Returns:
        The directions, float32.

    Raises:
        ConfigError: If features write to later layers too, before the norms after their MLPs: each
            of those norms divides what they write by another number.
    """
    c, blocks = model.config, model.params["blocks"]
    senders, receivers, rows = nodes.decoders(model)
    layers, rows = np.arange(c.n_layers), rows.astype(jnp.float32)
    heads = blocks["attn"]["o"]["kernel"].astype(jnp.float32)
    if "norm_attn_out" in blocks:
        heads = heads * norm_weight(blocks["norm_attn_out"]["scale"], c)[:, None, None]
    if "norm_mlp_out" in blocks and nodes.writes == "mlp_out_raw":
        if np.any(senders != receivers):
            raise ConfigError(
                "window of the transcoder", got=f"{int(np.max(receivers - senders))}",
                expected="0 in a node graph, if it writes before a norm after the MLP",
                mend="Graphs of prompts know such features: use graphs.attribute.",
            )  # fmt: skip
        rows = rows * norm_weight(blocks["norm_mlp_out"]["scale"], c)[receivers, None]
    # From each layer's first edge on: what reaches a reader so many layers above.
    hop, out = receivers - senders, rows
    for back in range(1, hop.max() + 1):
        earlier = jnp.roll(rows, back, axis=0)
        out = out + jnp.where(jnp.asarray(hop >= back)[:, None, None], earlier, 0)
    into = nodes.encoders(model)
    if nodes.reads == "mlp_in" and "norm2" in blocks:
        into = into * norm_weight(blocks["norm2"]["scale"], c)[:, None]
        if c.norm == "layer":
            into = into - into.mean(-1, keepdims=True)
    return Directions(
        out=out,
        own=jnp.asarray(np.searchsorted(senders, layers), jnp.int32),
        reach=jnp.asarray(np.bincount(senders, minlength=c.n_layers), jnp.int32),
        into=into.astype(jnp.float32),
        heads=heads,
    )


def flow_arrays(
    model: LanguageModel,
    nodes: Directed,
    batch: Prompts,
    weight: jax.Array,
    steps: jax.Array,
    metric: Metric,
    remat: bool,
) -> Flow:
    """Compute activations and gradients of a batch, averaged along the path of EAP-IG.

    Args:
        model: The model.
        nodes: Neurons, or a transcoder's features.
        batch: B prompts.
        weight: (B,) of each.
        steps: Where gradients are taken between the counterfactual's embeddings, 0, and the clean
            ones, 1.
        metric: (logits, prompts) → (B,).
        remat: Recompute blocks in the backward pass.

    Returns:
        The flow, float32.
    """
    normed = model.config.norm_placement != "before"
    ends = path_ends(model, batch, (*nodes.capture, *(_DIVISORS if normed else ())))
    own, theirs = map(nodes.values, ends)
    minus = lambda a, b: (a - b).astype(jnp.float32)  # noqa: E731
    moved = jax.tree.map(minus, own, theirs)
    name, shape = nodes.name_of_values, batch.inputs().shape
    added = jax.tree.map(minus, *map(functools.partial(_added, nodes), (own, theirs), ends))

    def pulls(step: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        start, read = ends.at(step), nodes.reads
        trace = forward(model, batch.inputs(), start, capture=(*nodes.pulls, "norm2_scale")).trace

        def value(extra: tuple) -> jax.Array:
            heads, features, reads = extra
            moves = (AddToHeads(heads), nodes.adding(features), reads)
            out = forward(model, batch.inputs(), chain(start, *moves), remat=remat)
            return metric_sum(metric, out.logits, batch, weight)

        zeros = (*(jnp.zeros_like(moved[n]) for n in ("head_out", name)),
                 no_reads(model.config, shape))  # fmt: skip
        heads, features, reads = jax.grad(value)(zeros)
        score = jnp.concatenate([
            jnp.einsum("lbthd,lbthd->lh", heads, moved["head_out"]).ravel(),
            jnp.einsum("lbtf,lbtf->lf", features, moved[name]).ravel(),
        ])  # fmt: skip
        pull = jnp.stack(nodes.pull(model, trace, features)).astype(jnp.float32)
        if read == "mlp_in":
            pull = pull / trace["norm2_scale"]
        return pull, _shared(reads, model.config), score

    pull, read, score = path_gradient(pulls, steps)
    first = lambda x: jnp.moveaxis(x, -1, -3)  # noqa: E731
    heads = lambda x: jnp.moveaxis(x, 3, 1)  # noqa: E731
    return Flow(first(added[name]), first(pull), heads(added["head_out"]), heads(read), score)


def _added(
    nodes: Directed, values: dict[str, jax.Array], trace: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Values as their sums are added to the stream, apart from a norm's weight."""
    if _DIVISORS[0] not in trace:
        return values
    found = values | {"head_out": values["head_out"] / trace["attn_out_scale"][..., None]}
    if nodes.writes == "mlp_out_raw":
        name = nodes.name_of_values
        found[name] = values[name] / trace["mlp_out_scale"]
    return found


@functools.partial(jax.jit, static_argnames=("metric", "remat"))
def flow(
    model: LanguageModel,
    nodes: Directed,
    batch: Prompts,
    weight: jax.Array,
    steps: jax.Array,
    *,
    metric: Metric,
    remat: bool,
) -> Flow:
    """Compute `flow_arrays` as one program, with results on every device."""
    return replicate(flow_arrays(model, nodes, batch, weight, steps, metric, remat), model.mesh)


def _shared(reads: AddToReads, c: DecoderConfig) -> jax.Array:
    """(L, B, T, H, D) gradients of what each query head reads in all."""
    group = c.n_heads // c.n_kv_heads
    return reads.q + jnp.repeat((reads.k + reads.v) / group, group, axis=3)
