"""Steps of the search over heads and supernodes: the state, and one step of Adam on all gates."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import require_key
from hagd_jax.parallel import replicate
from hagd_jax.search.objective import Target, distances
from hagd_jax.search.parts import read_row
from hagd_jax.search.several import Partners, loss_weights, replaced
from hagd_jax.search.unit_config import UnitMaskConfig
from hagd_jax.search.unit_gates import (
    UnitGates,
    draw,
    held_shifts,
    leaves_at,
    start_gates,
    units_at,
)
from hagd_jax.units import Parts, Scores, Space


class UnitState(struct.PyTreeNode):
    """The state of a search over heads and supernodes holds everything needed to continue it.

    Attributes:
        logits: Of all gates.
        mean: Mean of the logits over the later part of the current plateau, or the last ones.
        kept: Those means after the plateau of each size, (K, ...) arrays, or the last ones so far.
        running: (A,) running loss of each ablation; 0 before the first step.
        opt_state: Adam's state.
        key: PRNG key of batches and noise.
        step: () int32 number of steps taken.
    """

    logits: UnitGates
    mean: UnitGates
    kept: UnitGates
    running: jax.Array
    opt_state: Any
    key: jax.Array
    step: jax.Array

    __repr__ = one_line


class UnitSearch(NamedTuple):
    """What is searched over, as arrays.

    Attributes:
        parts: What the model consists of.
        partners: What prompts are resampled from; or None.
    """

    parts: Parts
    partners: Partners | None

    __repr__ = one_line


def init_units(
    key: jax.Array,
    scores: np.ndarray | Scores,
    space: Space,
    config: UnitMaskConfig = UnitMaskConfig(),
    *,
    sizes: int = 1,
) -> UnitState:
    """Make the state of a search before its first step.

    Args:
        key: PRNG key.
        scores: (N,) scores of the leaves, see `UnitMaskConfig.signed`.
        space: Numbers of layers, heads and features.
        config: How masks are trained.
        sizes: Number of sizes that circuits are read of.

    Returns:
        The state.

    Raises:
        InputError: If a score is not finite, or scores are of another number of leaves.

    Example:
        >>> from hagd_jax.units import Space
        >>> state = init_units(jax.random.key(0), np.arange(10), Space(1, 2, 8), sizes=2)
        >>> state.kept.inside.shape, int(state.step)
        ((2, 1, 8), 0)
    """
    require_key(key)
    require_is("space", space, Space)
    require_is("config", config, UnitMaskConfig)
    row, sizes = read_row("scores", scores), require_index("sizes", sizes, 1 << 16)
    if len(row) != space.nodes:
        raise InputError("scores", got=f"{len(row)} values",
                         expected=f"{space.nodes}, one for each leaf")  # fmt: skip
    logits = start_gates(space, row if config.signed else np.abs(row))
    return UnitState(
        logits,
        jax.tree.map(jnp.copy, logits),
        jax.tree.map(lambda x: jnp.repeat(x[None], sizes, 0), logits),
        jnp.zeros(len(config.ablations), jnp.float32),
        _optimizer(config).init(logits),
        key,
        jnp.int32(0),
    )


def require_fit(state: UnitState, space: Space, sizes: int, config: UnitMaskConfig) -> None:
    """Refuse the state of a search over another model, other sizes or other ablations.

    Raises:
        InputError: If it is one.
    """
    layers, heads, features = space
    own = (*(row.shape for row in state.kept), state.running.shape)
    expected = ((sizes, layers, heads), (sizes, layers), (sizes, layers, features),
                (len(config.ablations),))  # fmt: skip
    if own != expected:
        mend = "Go on with the sizes, model and ablations it began with."
        raise InputError("state", got=f"gates of {own}", expected=f"{expected}", mend=mend)


def traced(config: UnitMaskConfig) -> UnitMaskConfig:
    """Keep the fields that a program depends on, so that other schedules do not recompile it."""
    names = ("learning_rate", "batch_size", "ablations", "temperature", "memory", "superset",
             "opened", "metric", "heads_each")  # fmt: skip
    return UnitMaskConfig(**{name: getattr(config, name) for name in names})


@functools.partial(jax.jit, static_argnames=("config", "rows"), donate_argnames="state")
def scan_units(
    model: LanguageModel,
    search: UnitSearch,
    target: Target,
    state: UnitState,
    plan: tuple[jax.Array, ...],
    config: UnitMaskConfig,
    rows: int,
) -> tuple[UnitState, dict[str, jax.Array]]:
    """Take steps on batches drawn from all prompts, as one program.

    Args:
        model: The model.
        search: What is searched over.
        target: All prompts, and what the model does on them.
        state: Before; its memory is reused.
        plan: (S, ...) arrays, see `unit_plan.Plan`.
        config: How masks are trained.
        rows: Prompts a batch.

    Returns:
        The state after, and (S,) metrics.
    """
    scale = target.scale()

    def step(state: UnitState, asked: tuple) -> tuple[UnitState, dict[str, jax.Array]]:
        key, of_batch, of_draw, of_noise = jax.random.split(state.key, 4)
        chosen = jax.random.randint(of_batch, (rows,), 0, len(target.metric))
        batch, drawn = target.take(chosen, model.mesh), None
        if search.partners is not None:
            one = jax.random.randint(of_draw, (), 0, len(search.partners.tokens))
            drawn = search.partners.take(one, chosen, model.mesh)
        which = jnp.arange(rows) % len(config.ablations)
        other = replaced(model, search.parts, batch, drawn, which, config.ablations)
        state = state.replace(key=key)
        return update(model, search, (batch, other, scale), which, state, (of_noise, asked), config)

    return replicate(jax.lax.scan(step, state, plan), model.mesh)


def update(
    model: LanguageModel,
    search: UnitSearch,
    given: tuple[Target, dict[str, jax.Array], jax.Array],
    which: jax.Array,
    state: UnitState,
    asked: tuple[jax.Array, tuple[jax.Array, ...]],
    config: UnitMaskConfig,
) -> tuple[UnitState, dict[str, jax.Array]]:
    """Take one step of Adam on the logits; of a batch that is not finite nothing is kept.

    Args:
        model: The model.
        search: What is searched over.
        given: B prompts and what the model does on them, what closed leaves are set to, and the
            scale of the metric.
        which: (B,) ablation of each prompt.
        state: Before.
        asked: PRNG key of the noise, and the step's part of the plan.
        config: How masks are trained.

    Returns:
        The state after, and metrics.
    """
    batch, other, scale = given
    of_noise, (units, leaves, rate, sharp, averaged, reading) = asked
    of_masks, of_more = jax.random.split(of_noise)
    weights = loss_weights(state.running, config.temperature)
    shares = (which == jnp.arange(len(config.ablations))[:, None]).astype(jnp.float32)
    shares = shares / shares.sum(1, keepdims=True)
    counted = functools.partial(units_at, heads_each=config.heads_each)

    def of(logits: UnitGates) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        own = jax.tree.map(lambda x: sharp * x, logits)
        shifts = held_shifts(own, units, leaves, config.heads_each)
        mask = beside(draw(own, shifts, of_masks, len(which)), of_more, config)
        kl, off = distances(model, search.parts, batch, other, mask, scale)
        each = shares @ (kl + config.metric * off)
        return weights @ each, (each, (counted(own, shifts.units), leaves_at(own, shifts)))

    (value, (each, (held_units, held_leaves))), gradient = jax.value_and_grad(of, has_aux=True)(
        state.logits
    )
    updates, opt_state = _optimizer(config).update(gradient, state.opt_state)
    updates = jax.tree.map(lambda x: rate * x, updates)
    running = config.memory * state.running + (1 - config.memory) * each
    running = jnp.where(state.running > 0, running, each)
    finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
    logits, opt_state, running = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (optax.apply_updates(state.logits, updates), opt_state, running),
        (state.logits, state.opt_state, state.running),
    )
    mean = jax.tree.map(lambda old, new: old + (new - old) / jnp.maximum(averaged, 1),
                        state.mean, logits)  # fmt: skip
    kept = jax.tree.map(
        lambda new, old: jnp.where(reading.reshape(-1, *[1] * new.ndim), new, old),
        mean, state.kept,
    )  # fmt: skip
    metrics = {"loss": value, "units": held_units, "leaves": held_leaves}
    for i, name in enumerate(config.ablations):
        metrics |= {f"loss_{name}": each[i], f"weight_{name}": weights[i]}
    after = state.replace(logits=logits, mean=mean, kept=kept, running=running, opt_state=opt_state)
    return after.replace(step=state.step + 1), metrics


def beside(mask: jax.Array, key: jax.Array, config: UnitMaskConfig) -> jax.Array:
    """Open closed leaves at random on a share of the prompts, see `UnitMaskConfig.superset`."""
    if not config.superset or not config.opened:
        return mask
    of_rows, of_leaves = jax.random.split(key)
    rows = jax.random.bernoulli(of_rows, config.superset, (len(mask), 1))
    more = jax.random.bernoulli(of_leaves, config.opened, mask.shape) & rows
    return jnp.where(more, 1.0, mask)


def _optimizer(config: UnitMaskConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)
