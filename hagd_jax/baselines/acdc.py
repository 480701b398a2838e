"""ACDC: edges are tried one by one from the output back, and dropped if little changes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.baselines.edge_order import edges_backwards
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_choice, require_is, require_list, require_number
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.search.objective import counterfactual
from hagd_jax.search.parts import read_circuit
from hagd_jax.tasks.batching import batch_rows, padded_batches
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import Components, Edges, Selection, components

Loss = Literal["kl", "logit_difference"]
# Edges that one call of the compiled program tries; a stop signal is heard in between.
_AT_ONCE = 256


class Acdc(NamedTuple):
    """The result of one sweep over all edges at one threshold.

    Attributes:
        threshold: τ.
        circuit: The edges that were kept, with what they have seen.
        loss: Mean loss of the circuit over the prompts.
        evaluations: Circuits that were run on all prompts.
    """

    threshold: float
    circuit: Selection
    loss: float
    evaluations: int

    __repr__ = one_line


def acdc(
    model: LanguageModel,
    prompts: Prompts,
    thresholds: Sequence[float],
    *,
    metric: Loss = "kl",
    among: Edges | Selection | None = None,
    batch_size: int = 16,
) -> tuple[Acdc, ...]:
    """Find a circuit of edges at each threshold by automatic circuit discovery.

    Conmy et al., 2023 (arXiv:2304.14997, algorithm 1): the circuit H begins with all edges. Each
    edge e is tried in reverse topological order, from the output back, see `edges_backwards`; it
    is dropped if loss(H ∖ e) − loss(H) < τ. A dropped edge carries its writer's value on the
    counterfactual prompt. Queries, keys and values of a head are readers of their own; heads that
    share a key or a value share its edges, which are dropped for all of them together. Edges into
    components that nothing hears any more change no logit, and are dropped without a run.

    The decisions depend on each other, so edges are tried one after the other inside one compiled
    program; prompts are batched. The mask, the order and the threshold are data.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        thresholds: Values of τ, above 0; each gives a circuit.
        metric: The loss: `kl`, KL(model ‖ circuit) at the answers; or `logit_difference`, the
            negative mean logit difference of answer and distractor.
        among: Edges to begin with; all by default. The others are dropped from the start.
        batch_size: Prompts in one forward pass.

    Returns:
        One result for each threshold, in their order.

    Raises:
        InputError: If there is no threshold, or prompts or edges do not fit the model.
        ConfigError: If a threshold is not above 0, or there is no such metric.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> found = acdc(case.model, case.prompts, [0.001, 0.1])
        >>> [len(each.circuit) for each in found]
        [7, 7]
    """
    require_is("model", model, LanguageModel)
    require_is("prompts", prompts, Prompts, mend="A split of a task has some.")
    require_choice("metric", metric, get_args(Loss))
    taus = require_list("thresholds", thresholds, "numbers above 0")
    if not taus:
        raise InputError("thresholds", got="none", expected="one or more")
    for tau in taus:
        require_number("threshold", tau, above=0)
    parts = components(model)
    start, before = (parts.space, Seen.nothing()) if among is None else (among, Seen.unknown())
    row, history = read_circuit(parts, start)
    first = np.zeros(len(parts.space.flat()), bool)
    first[np.flatnonzero(parts.space.flat())] = row
    before = before if among is None else history
    runs = _runs(model, parts, prompts, batch_size)
    seen = before | look(prompts, ablation="counterfactual", model=model)
    return tuple(_swept(model, parts, runs, first, float(tau), metric, seen) for tau in taus)


class _Runs(NamedTuple):
    """All prompts in S batches of B rows, with what is needed to run a circuit on them."""

    batches: Prompts
    weight: Any  # (S, B) 1 / N for prompts, 0 for rows that fill up the last batch
    clean: Any  # (S, ...) logits of the model where answers are read
    other: Any  # (S, ...) values of the writers on the counterfactual prompts


class _State(NamedTuple):
    """A sweep between two edges."""

    mask: Any  # (F,) bool
    out: Any  # (W + 1,) kept edges of each writer; 1 for the logits
    loss: Any
    evaluations: Any


def _runs(model: LanguageModel, parts: Components, prompts: Prompts, batch_size: int) -> _Runs:
    require_number("batch_size", batch_size, least=1, whole=True)
    rows = batch_rows(len(prompts), batch_size, model.mesh)
    every = [
        _Runs(batch, weight / len(prompts), *_ends(model.bare(), parts, batch))
        for batch, weight in padded_batches(model, prompts, rows)
    ]
    return _stacked(every)


@jax.jit
def _stacked(every: list[_Runs]) -> _Runs:
    return jax.tree.map(lambda *x: jnp.stack(x), *every)


@jax.jit
def _ends(model: LanguageModel, parts: Components, batch: Prompts) -> tuple[jax.Array, Any]:
    clean = forward(model, batch.inputs(), read=batch.reads).logits
    return replicate((clean, counterfactual(model, parts, batch)), model.mesh)


def _swept(
    model: LanguageModel, parts: Components, runs: _Runs, first: np.ndarray, tau: float,
    metric: Loss, seen: Seen,
) -> Acdc:  # fmt: skip
    order, bare = edges_backwards(model.config), model.bare()
    asked = first[order.places]
    # In front stands an edge that is none: dropping it measures the circuit that the sweep begins
    # with, against an infinite loss. Its indices lie behind the arrays, where nothing is written.
    none = len(first), order.writers + 1, order.writers
    every = [np.concatenate([np.full((1, *x.shape[1:]), n), x[asked]])
             for n, x in zip(none, order[:3], strict=True)]  # fmt: skip
    out = np.bincount(every[1][1:], minlength=order.writers + 1)
    out[-1] = 1
    state = _State(first, out.astype(np.int32), np.float32(np.inf), np.int32(0))
    for begin in range(0, len(every[0]), _AT_ONCE):
        some = [x[begin : begin + _AT_ONCE] for x in every]
        # Filled up with copies that are passed over.
        chunk = (np.concatenate([x, np.repeat(x[:1], _AT_ONCE - len(x), 0)]) for x in some)
        valid = np.arange(_AT_ONCE) < len(some[0])
        state = _steps(bare, parts, runs, state, (*chunk, valid), np.float32(tau), metric)
    mask = parts.space.like(np.asarray(state.mask))
    return Acdc(tau, Selection(mask, seen), float(state.loss), int(state.evaluations))


def _loss(
    model: LanguageModel, parts: Components, runs: _Runs, mask: jax.Array, metric: Loss
) -> jax.Array:
    """Mean loss of a circuit over all prompts."""
    leaves, structure = jax.tree.flatten(parts.space)
    ends = np.cumsum([np.size(x) for x in leaves])[:-1]
    pieces = zip(jnp.split(mask, ends), leaves, strict=True)
    edges = jax.tree.unflatten(structure, [piece.reshape(x.shape) for piece, x in pieces])

    def one(run: _Runs) -> jax.Array:
        batch = run.batches
        at = forward(model, batch.inputs(), parts.mask(edges, run.other), read=batch.reads).logits
        each = batch.kl(run.clean, at) if metric == "kl" else -batch.metric(at)
        return jnp.sum(jnp.where(run.weight > 0, each * run.weight, 0))

    return jax.lax.map(one, runs).sum()


@functools.partial(jax.jit, static_argnames="metric")
def _steps(
    model: LanguageModel,
    parts: Components,
    runs: _Runs,
    state: _State,
    edges: tuple,
    tau: jax.Array,
    metric: Loss,
) -> _State:
    """Try some edges, one after the other."""

    def step(state: _State, edge: tuple) -> tuple[_State, None]:
        place, writer, listeners, valid = edge
        without = state.mask.at[place].set(False, mode="drop")
        heard = valid & (state.out[listeners] > 0).any()
        loss = jax.lax.cond(
            heard, lambda: _loss(model, parts, runs, without, metric), lambda: state.loss
        )
        # A NaN is no small change.
        drop = valid & (loss - state.loss < tau)
        return _State(
            jnp.where(drop, without, state.mask),
            state.out.at[writer].add(-drop.astype(jnp.int32), mode="drop"),
            jnp.where(drop, loss, state.loss),
            state.evaluations + heard,
        ), None

    return replicate(jax.lax.scan(step, state, edges)[0], model.mesh)
