"""Attribution by brute force: run the frozen model once for every source, and see what moves.

Nothing of `hagd_jax.attribution` is used but the finished graph: the forward pass with frozen
attention and norms, MLP outputs written by hand, a soft cap's tangent in NumPy, and differences.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT
from hagd_jax.interventions import chain, freeze
from hagd_jax.models import Intervention, forward, scanned, shared, static
from hagd_jax.models.layers import ACTIVATIONS
from hagd_jax.transcoders.graph import layer_graph

HELD = ("attn_pattern", "norm1_scale", "norm2_scale", "normf_scale", "attn_out_scale")


@struct.dataclass
class Written(Intervention):
    """What is written where: embeddings of tokens are exchanged, MLP outputs replaced."""

    token: Any = shared()  # (B, T, D) taken from the embedding
    out: Any = scanned()  # (L, B, T, D) instead of what the MLPs write
    W_skip: Any = scanned()  # (L, D, D), or None
    gain: Any = scanned()  # (L, 1, T, D), or what broadcasts to it
    reads: str = static(default="mlp_in")

    def on_embed(self, value, ctx):
        return value - self.token, self

    def on_mlp_out(self, value, ctx):
        through = 0 if self.W_skip is None else ctx.seen[self.reads] @ self.W_skip.T
        return self.out + self.gain * through, self


def effects(model, transcoder, graph, also=()):
    """A[t, s] of every target and source that are nodes of a graph, and the rows' totals.

    Args:
        model: The model.
        transcoder: Of the graph, or None for neurons.
        graph: The graph.
        also: Further interventions, linear ones.

    Returns:
        (N, N) differences, (N,) by how much a target moves when all sources go at once, and (N,)
        what is left of it then.
    """
    tokens = jnp.asarray([graph.info.tokens])
    sites = (*HELD, "mlp_in", "resid_mid", "mlp_out", "neuron", "router",
             "mlp_out_raw", "mlp_out_scale", "normed_final")  # fmt: skip
    trace = forward(model, tokens, capture=sites).trace
    table, count = graph.nodes, len(graph.nodes.kind)
    writes, tokens_of = sources(model, transcoder, graph, trace)
    everything = trace["mlp_out"][:, 0]
    skip = None
    if transcoder is not None and "W_skip" in transcoder.params:
        skip = transcoder.params["W_skip"]
        read = trace[transcoder.config.reads][:, 0]
        through = jnp.einsum("ltd,led->lte", read, skip)
        everything = everything - gains(model, transcoder, trace) * through
    # First as it was, then without everything, then without one source after the other.
    gone = np.concatenate([0 * writes[:1], writes.sum(0)[None], writes])
    words = np.concatenate([0 * tokens_of[:1], tokens_of.sum(0)[None], tokens_of])
    found = []
    for start in range(0, len(gone), 64):
        part, word = gone[start : start + 64], words[start : start + 64]
        n = len(part)
        held = freeze({site: np.repeat(trace[site], n, 1 if site != "normf_scale" else 0)
                       for site in HELD})  # fmt: skip
        out = jnp.asarray(everything[:, None] - part.swapaxes(0, 1))
        reads = "mlp_in" if transcoder is None else transcoder.config.reads
        gain = jnp.asarray(gains(model, transcoder, trace)[:, None])
        hand = Written(jnp.asarray(word), out, skip, gain, reads)
        ran = forward(model, jnp.repeat(tokens, n, 0), chain(held, hand, *also),
                      capture=(reads, "normed_final"))  # fmt: skip
        found.append(np.asarray(inputs(model, transcoder, graph, trace, ran, reads)))
    found = np.concatenate(found, 0)
    targets = np.flatnonzero((table.kind == FEATURE) | (table.kind == LOGIT))
    dense = np.zeros((count, count))
    kept = np.flatnonzero(table.kind != LOGIT)
    dense[np.ix_(targets, kept)] = (found[0] - found[2:]).T
    total, left = np.zeros(count), np.zeros(count)
    total[targets], left[targets] = found[0] - found[1], found[1]
    return dense, total, left


def sources(model, transcoder, graph, trace):
    """(S, L, T, D) what each source writes to MLP outputs, (S, T, D) what to the embedding."""
    table, c = graph.nodes, model.config
    length, rows, words = len(graph.info.tokens), [], []
    embedding = np.asarray(model.params["embed"]["embedding"])
    embedding = embedding * (c.d_model**0.5 if c.scale_embed else 1)
    gain = gains(model, transcoder, trace)
    left = error(transcoder, trace) * gain
    for node in np.flatnonzero(table.kind != LOGIT):
        write = np.zeros((c.n_layers, length, c.d_model), np.float32)
        word = np.zeros((length, c.d_model), np.float32)
        layer, place, index = (int(x[node]) for x in (table.layer, table.position, table.index))
        if table.kind[node] == FEATURE:
            for receiver, row in decoder_rows(model, transcoder, layer, index):
                write[receiver, place] = table.activation[node] * row * gain[receiver, place]
        elif table.kind[node] == ERROR:
            counts = place not in graph.info.settings["skip_positions"]
            write[layer, place] = left[layer, place] * counts
        elif table.kind[node] == EMBEDDING:
            word[place] = embedding[index]
        rows.append(write)
        words.append(word)
    return np.stack(rows), np.stack(words)


def decoder_rows(model, transcoder, layer, index):
    """(receiving layer, row) of a feature."""
    if transcoder is None:
        return [(layer, np.asarray(model.params["blocks"]["mlp"]["out"]["kernel"][layer, index]))]
    edges = layer_graph(transcoder.config)
    return [
        (int(receiver), np.asarray(transcoder.params["W_dec"][edge, index]))
        for edge, (sender, receiver) in enumerate(zip(edges.senders, edges.receivers, strict=True))
        if sender == layer
    ]


def gains(model, transcoder, trace):
    """(L, T, D) or (L, T, 1) what the norm after the MLP multiplies by, where writes pass it."""
    blocks, scale = model.params["blocks"], np.asarray(trace["mlp_out_scale"])[:, 0]
    raw = transcoder is None or transcoder.config.writes == "mlp_out_raw"
    if "norm_mlp_out" not in blocks or not raw:
        return np.ones_like(scale)
    weight = np.asarray(blocks["norm_mlp_out"]["scale"]) + model.config.norm_offset
    return weight[:, None] / scale


def error(transcoder, trace):
    from hagd_jax.transcoders import errors

    if transcoder is None:
        return np.zeros(trace["mlp_out"][:, 0].shape, np.float32)
    return np.asarray(errors(transcoder, trace))[:, 0]


def inputs(model, transcoder, graph, trace, ran, reads):
    """(B, targets) what features read, then logits minus their mean."""
    table = graph.nodes
    chosen = np.flatnonzero(table.kind == FEATURE)
    layer, place, index = table.layer[chosen], table.position[chosen], table.index[chosen]
    read = ran.trace[reads][layer, :, place]  # (targets, B, D)
    if transcoder is None:
        rows = neuron_rows(model, trace["mlp_in"][layer, 0, place], layer, index)
        expert = index // model.config.d_expert
        rows = rows * trace["router"][layer, 0, place, expert][:, None]
    else:
        rows = transcoder.params["W_enc"][layer, index]
    values = jnp.einsum("sbd,sd->bs", read, rows)
    last = ran.logits[:, -1]
    if model.config.logit_softcap:
        final = [np.asarray(t["normed_final"], np.float64)[:, -1] for t in (trace, ran.trace)]
        last = tangent(model, *final)
    last = last - last.mean(-1, keepdims=True)
    return jnp.concatenate([values, last[:, table.index[table.kind == LOGIT]]], 1)


def tangent(model, at, moved):
    """c tanh(z / c) to first order around one prompt's z, in float64."""
    p, cap = model.params, model.config.logit_softcap
    table = p["embed"]["embedding"].T if model.config.tied else p["unembed"]["kernel"]
    z, there = (x @ np.asarray(table, np.float64) for x in (at, moved))
    return cap * np.tanh(z / cap) + (there - z) / np.cosh(z / cap) ** 2


def neuron_rows(model, x, layer, index):
    """Gradient of one neuron's held form at x, by automatic differentiation."""
    mlp, gated = model.params["blocks"]["mlp"], model.config.gated_mlp

    def neuron(x, layer, index):
        value, gate = (
            x @ mlp[name]["kernel"][layer, :, index] + (mlp[name]["bias"][layer, index]
                                                        if "bias" in mlp[name] else 0)
            for name in ("in", "gate" if gated else "in")
        )  # fmt: skip
        if not gated:
            return value
        hold = jax.lax.stop_gradient
        opened = hold(ACTIVATIONS[model.config.activation](gate) / gate) * gate
        return 0.5 * (hold(opened) * value + opened * hold(value))

    return jax.vmap(jax.grad(neuron))(x, layer, index)
