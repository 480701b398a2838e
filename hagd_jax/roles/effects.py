"""What units do to a task's metric: directly, through whom, where in the prompt, and alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.interventions import chain, freeze
from hagd_jax.models import LanguageModel, forward, write_gain
from hagd_jax.parallel import replicate
from hagd_jax.roles.necessity import alone, scale, shift
from hagd_jax.scores.component_graph import AddToReads
from hagd_jax.scores.path import path_ends, path_gradient
from hagd_jax.tasks.batching import summed
from hagd_jax.tasks.choices import Choices
from hagd_jax.tasks.metric import columns
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Space, Unit, neurons

# Where gradients are taken on the path from counterfactual to clean: ReLUs may be off at either.
STEPS = (0.25, 0.5, 0.75, 1.0)
READERS = ("q", "k", "v", "mlp", "logits")
SPANS = ("read", "changed", "rest")
# A smaller effect on a prompt, as a share of what the counterfactual changes, has no sign.
_ROUNDING = 1e-3


class Effects(NamedTuple):
    """Effects of U units, as shares of Σ |m(clean) − m(counterfactual)|, and their parts.

    Attributes:
        readers: (U, 5) mean size of the first-order effect through each kind of reader.
        spans: (U, 3) mean size of the first-order effect that is written at each span.
        direct: (U,) signed effect on the logits with the final norm held.
        agreement: (U,) share of prompts on which that helps, less the share on which it hurts.
        reads: (U, 3) attention from where the answer is read: to the answer's own positions, to
            the distractor's, and to those that the counterfactual changes.
        necessity: (U,) what the metric loses when the unit alone takes its counterfactual values,
            see `roles.necessity`.
        ablated: (U,) the same with its mean.
        touched: (U,) mean size of the loss under counterfactual values, whatever its sign.
        size: (N,) mean size of the first-order effect of each leaf, by which leaves are weighed.
    """

    readers: np.ndarray
    spans: np.ndarray
    direct: np.ndarray
    agreement: np.ndarray
    reads: np.ndarray
    necessity: np.ndarray
    ablated: np.ndarray
    touched: np.ndarray
    size: np.ndarray

    __repr__ = one_line


def effects(
    model: LanguageModel, prompts: Prompts, space: Space, units: Sequence[Unit], batch_size: int
) -> Effects:
    """Measure what units do on the prompts of a task.

    The first-order effect of what unit u writes, through readers of one kind, is
    Σ (u_clean − u_counterfactual) · Σ_readers ∂m/∂(what the reader reads), the gradients averaged
    along the path between both prompts with the final norm held (as in `scores.component_graph`).

    Args:
        model: The model.
        prompts: Clean prompts with counterfactuals.
        space: Of the model's heads and neurons.
        units: U units without a leaf in common.
        batch_size: Prompts in one call.

    Returns:
        The effects.
    """
    bare, steps = model.bare(), jnp.asarray(STEPS, jnp.float32)
    # Rounded up, so that other units run the same compiled program.
    count = 1 << (len(units) - 1).bit_length()
    owner = np.full(space.nodes, count)
    for i, unit in enumerate(units):
        owner[unit.places()] = i

    def part(batch: Prompts, weight: jax.Array) -> dict[str, np.ndarray]:
        own = jnp.asarray(owner)
        found = _batch(bare, batch, weight, steps, own, count)
        return {name: np.asarray(x, np.float64) for name, x in found.items()}

    sums = summed(model, prompts, batch_size, part)
    for name in ("readers", "spans", "direct", "agreement"):
        sums[name] = sums[name][: len(units)]
    heads = space.layers * space.heads
    weight = sums["size"][:heads] + 1e-9 * (1 + sums["size"][:heads].max(initial=0))
    reads = np.zeros((len(units), 3))
    for i, unit in enumerate(units):
        places = unit.places()
        places = places[places < heads]
        if len(places):
            reads[i] = np.average(sums["reads"][places], axis=0, weights=weight[places])
    nodes = neurons(model)
    level, lost = alone(model, prompts, nodes, units, "counterfactual", batch_size)
    _, ablated = alone(model, prompts, nodes, units, "mean", batch_size)
    change = scale(float(sums["change"]), level)
    return Effects(
        readers=sums["readers"] / change,
        spans=sums["spans"] / change,
        direct=sums["direct"] / change,
        agreement=sums["agreement"] / len(prompts),
        reads=reads / len(prompts),
        necessity=lost.sum(1) / change,
        ablated=ablated.sum(1) / change,
        touched=np.abs(lost).sum(1) / change,
        size=sums["size"] / change,
    )


@functools.partial(jax.jit, static_argnames="count")
def _batch(
    model: LanguageModel,
    batch: Prompts,
    weight: jax.Array,
    steps: jax.Array,
    owner: jax.Array,
    count: int,
) -> dict[str, jax.Array]:
    """Sums over the prompts of a batch."""
    sites = ("head_out", "neuron", "attn_out_scale", "mlp_out_scale", "normf_scale")
    ends = path_ends(model, batch, (*sites, "attn_pattern"))
    held = freeze({"normf_scale": ends.clean["normf_scale"]})

    def gradient(step: jax.Array) -> AddToReads:
        def value(reads: AddToReads) -> jax.Array:
            moved = chain(ends.at(step), held, reads)
            at = forward(model, batch.inputs(), moved, read=jnp.maximum(batch.reads, 0)).logits
            return jnp.sum(batch.metric(at))

        return jax.grad(value)(_no_reads(model, batch.inputs().shape))

    grads = path_gradient(gradient, steps)
    spans = _spans(batch)
    rows = batch.per_row(weight)

    found = [_written(model, ends, reader) for reader in _readers(model, grads)]  # (B, T, N) each
    by_reader = jnp.stack([_to_units(x, owner, count) for x in found])  # (5, B, T, U)
    whole = by_reader.sum(0)
    prompts = lambda x: _per_prompt(x, len(batch))  # noqa: E731
    direct = prompts(by_reader[-1].sum(1))
    size = jnp.abs(prompts(sum(x.sum(1) for x in found)))  # type: ignore[union-attr]
    change = shift(model, batch)
    least = _ROUNDING * jnp.abs(change).mean()
    sums = {
        "readers": jnp.einsum("rnu,n->ur", jnp.abs(jax.vmap(prompts)(by_reader.sum(2))), weight),
        "spans": jnp.einsum("btu,bts,b->us", jnp.abs(whole), spans, rows),
        "direct": direct.T @ weight,
        "agreement": jnp.sign(jnp.where(jnp.abs(direct) > least, direct, 0)).T @ weight,
        "size": size.T @ weight,
        "change": jnp.abs(change) @ weight,
        "reads": _attended(ends.clean["attn_pattern"], batch, rows),
    }
    return replicate(sums, model.mesh)


def _no_reads(model: LanguageModel, shape: tuple[int, ...]) -> AddToReads:
    """Zeros to add to what is read, the same for all heads of a layer."""
    c = model.config
    stream = jnp.zeros((c.n_layers, *shape, c.d_model))
    heads = stream[:, :, :, None]
    return AddToReads(heads, heads, heads, stream, stream[0])


def _readers(model: LanguageModel, grads: AddToReads) -> list[tuple[jax.Array, jax.Array]]:
    """For each kind of reader what heads and MLPs of each layer write to, (L, B, T, D) twice."""
    found = []
    for name in ("q", "k", "v"):
        later = _later(getattr(grads, name)[:, :, :, 0])
        found.append((later, later))
    above = _later(grads.mlp)
    own = above if model.config.parallel_residual else above + grads.mlp
    found.append((own, above))
    final = jnp.broadcast_to(grads.final, grads.mlp.shape)
    return [*found, (final, final)]


def _later(x: jax.Array) -> jax.Array:
    """Sums over the layers above each."""
    return jnp.flip(jnp.cumsum(jnp.flip(x, 0), 0), 0) - x


def _written(model: LanguageModel, ends: Any, reader: tuple[jax.Array, jax.Array]) -> jax.Array:
    """(B, T, N) how what each leaf writes differs, times what reads it."""
    blocks = model.params["blocks"]
    out = blocks["attn"]["o"]["kernel"].astype(jnp.float32)
    down = blocks["mlp"]["out"]["kernel"].astype(jnp.float32)
    heads, mlps = reader
    heads = heads * write_gain(model, ends.clean, "attn_out").astype(jnp.float32)
    mlps = mlps * write_gain(model, ends.clean, "mlp_out").astype(jnp.float32)
    moved = {site: (ends.clean[site] - ends.other[site]).astype(jnp.float32)
             for site in ("head_out", "neuron")}  # fmt: skip
    pulled = jnp.einsum("lbtd,lhkd->lbthk", heads, out)
    by_head = jnp.sum(pulled * moved["head_out"], -1)
    by_neuron = jnp.einsum("lbtd,lmd->lbtm", mlps, down) * moved["neuron"]
    flat = [x.transpose(1, 2, 0, 3).reshape(*x.shape[1:3], -1) for x in (by_head, by_neuron)]
    return jnp.concatenate(flat, -1)


def _to_units(leaves: jax.Array, owner: jax.Array, count: int) -> jax.Array:
    """(B, T, N) → (B, T, U), sums over the leaves of each unit."""
    sums = jax.ops.segment_sum(jnp.moveaxis(leaves, -1, 0), owner, count + 1)
    return jnp.moveaxis(sums[:count], 0, -1)


def _per_prompt(rows: jax.Array, prompts: int) -> jax.Array:
    """(R, ...) → (N, ...), sums over the rows of each prompt."""
    return rows.reshape(prompts, -1, *rows.shape[1:]).sum(1)


def _spans(batch: Prompts) -> jax.Array:
    """(R, T, 3) which span each position is of: read, changed or the rest."""
    length = batch.inputs().shape[-1]
    read = jax.nn.one_hot(batch.reads, length).max(1)
    changed = (batch.inputs() != batch.inputs("corrupted")).astype(jnp.float32) * (1 - read)
    return jnp.stack([read, changed, 1 - read - changed], -1)


def _attended(pattern: jax.Array, batch: Prompts, weight: jax.Array) -> jax.Array:
    """(L · H, 3) attention from where the answer is read to three kinds of positions."""
    tokens = batch.inputs()
    changed = tokens != batch.inputs("corrupted")
    kinds = [jnp.zeros_like(changed)] * 2
    if not isinstance(batch, Choices):  # whose answer is a number, no token
        kinds = [
            (tokens[:, :, None] == columns(said)[:, None]).any(-1)
            for said in (batch.answer, batch.distractor)
        ]
    there = jnp.stack([*kinds, changed], -1).astype(jnp.float32)
    read = jax.nn.one_hot(batch.reads, tokens.shape[-1])
    read = read / jnp.maximum(read.sum((1, 2), keepdims=True), 1)
    found = jnp.einsum("lbhts,bsk,brt,b->lhk", pattern.astype(jnp.float32), there, read, weight)
    return found.reshape(-1, 3)
