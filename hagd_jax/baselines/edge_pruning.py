"""Edge Pruning: hard-concrete masks over edges, whose sparsity a Lagrangian pulls to a target."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hagd_jax.baselines.edge_order import edges_backwards
from hagd_jax.brief import one_line
from hagd_jax.errors import require_number
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.search.checks import require_run, require_sizes
from hagd_jax.search.hard_concrete import log_open_probability, open_probability, sample
from hagd_jax.search.objective import Target, counterfactual, distances, target_of
from hagd_jax.search.parts import best
from hagd_jax.tasks.batching import batch_rows
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import look
from hagd_jax.units import Components, Selection, components

# The learning rates rise in one of so many parts of the steps.
_RISE = 15


@dataclasses.dataclass(frozen=True)
class EdgePruningConfig:
    """Configure Edge Pruning; the defaults are those of the authors' IOI runs.

    Attributes:
        steps: Number of Adam steps of each training.
        warmup: Share of the steps in which the target sparsity rises linearly from 0.
        learning_rate: AdamW's learning rate, on logits. It rises linearly in the first fifteenth
            of the steps, and then falls linearly to 0.
        multiplier_rate: That of the Lagrange multipliers, which ascend.
        decay: Weight decay. Logits begin where masks are open for sure and gradients vanish; the
            decay is what brings them to where masks are drawn.
        batch_size: Prompts in a step; all of them have the mask of that step.
        start: Logit of every mask before the first step.
        spread: Standard deviation of these logits.
        write_sparsity: Target share of writers whose stream is closed; None for no such target, as
            in the authors' sweeps, where writers are pruned only as far as it lowers the loss.
        check_every: Number of steps that run as one compiled scan.
    """

    steps: int = 3000
    warmup: float = 5 / 6
    learning_rate: float = 0.8
    multiplier_rate: float = 0.8
    decay: float = 0.01
    batch_size: int = 32
    start: float = 10.0
    spread: float = 0.01
    write_sparsity: float | None = None
    check_every: int = 50

    def __post_init__(self):
        for field in ("steps", "batch_size", "check_every"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("learning_rate", "multiplier_rate"):
            require_number(field, getattr(self, field), above=0)
        require_number("warmup", self.warmup, above=0, most=1)
        require_number("start", self.start, least=-30, most=30)
        for field in ("spread", "decay"):
            require_number(field, getattr(self, field), least=0)
        if self.write_sparsity is not None:
            require_number("write_sparsity", self.write_sparsity, least=0, below=1)


class Pruned(NamedTuple):
    """The result of one training for one size.

    Attributes:
        circuit: The edges most likely to be open, as many as were asked for.
        sparsity: Expected share of closed read masks after the last step; training aimed at
            1 − size / edges.
        target: That share.
        kl: Mean KL(model ‖ masked model) of the last step, in nats.
    """

    circuit: Selection
    sparsity: float
    target: float
    kl: float

    __repr__ = one_line


def edge_pruning(
    model: LanguageModel,
    prompts: Prompts,
    sizes: Sequence[int],
    config: EdgePruningConfig = EdgePruningConfig(),
    *,
    seed: int = 0,
) -> dict[int, Pruned]:
    """Find circuits of edges by Edge Pruning, one training for each size.

    Bhaskar et al., 2024 (arXiv:2406.16778). Every reader has a read mask over the writers before
    it, and every writer a write mask; an edge is open as far as the product z = z_read · z_write,
    and its reader sees z · own + (1 − z) · counterfactual. With s the share of closed read masks
    and t its target, the masks minimise, and the multipliers maximise,
    KL(model ‖ masked) + λ₁ (s − t) + λ₂ (s − t)². In the end the edges with the largest product of
    open probabilities are kept: the authors choose a threshold that gives the sparsity, this gives
    the size exactly. Heads that share a key or a value share its edges.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        sizes: Numbers of edges.
        config: How masks are trained.
        seed: Seed of logits, batches and noise.

    Returns:
        Size → what training came to.

    Raises:
        InputError: If a size is not from 1 to the number of edges, or the prompts do not fit.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> short = EdgePruningConfig(steps=20, check_every=20, batch_size=8)
        >>> found = edge_pruning(case.model, case.prompts, [9], short)
        >>> len(found[9].circuit), round(found[9].target, 2)
        (9, 0.61)
    """
    require_run(model, prompts, config, EdgePruningConfig, seed=seed)
    parts = components(model)
    order = edges_backwards(model.config)
    writer = order.writer[np.argsort(order.places)]
    total = len(writer)
    target = target_of(model, prompts, config.batch_size)
    seen = look(prompts, ablation="counterfactual", model=model)
    found = {}
    for size in require_sizes(sizes, total):
        aim = 1 - size / total
        state, kl = _trained(model, parts, writer, target, aim, config, seed)
        likely = log_open_probability(state.trained.masks.read)
        likely = np.asarray(likely + log_open_probability(state.trained.masks.write)[writer])
        sparsity = float(1 - open_probability(state.trained.masks.read).mean())
        circuit = Selection(best(parts, likely, size), seen)
        found[size] = Pruned(circuit, sparsity, aim, kl)
    return found


class _Masks(NamedTuple):
    read: Any  # (E,) logits
    write: Any  # (W,) logits


class _Trained(NamedTuple):
    masks: _Masks
    multipliers: Any  # (2, 2): of read and of write masks; linear and quadratic


class _State(NamedTuple):
    trained: _Trained
    opt_state: Any
    key: Any


class _Fixed(NamedTuple):
    """What all steps share, as data."""

    parts: Components
    writer: Any
    target: Target
    aims: Any  # (2,) targets of read and of write masks
    wanted: Any  # (2,) whether there are such


def _trained(
    model: LanguageModel, parts: Components, writer: np.ndarray, target: Target, aim: float,
    config: EdgePruningConfig, seed: int,
) -> tuple[_State, float]:  # fmt: skip
    key, one, two = jax.random.split(jax.random.key(seed), 3)
    writers = len(parts.space.final)
    masks = _Masks(*(config.start + config.spread * jax.random.normal(k, (n,))
                     for k, n in ((one, len(writer)), (two, writers))))  # fmt: skip
    trained = _Trained(masks, jnp.zeros((2, 2)))
    state = _State(trained, _adamw(config).init(trained), key)
    closed = config.write_sparsity
    fixed = _Fixed(parts, jnp.asarray(writer), target, jnp.array([aim, closed or 0.0]),
                   jnp.array([True, closed is not None]))  # fmt: skip
    plan = _plan(config)
    rows = batch_rows(len(target.metric), config.batch_size, model.mesh)
    names = ("learning_rate", "multiplier_rate", "decay")
    inside = EdgePruningConfig(**{name: getattr(config, name) for name in names})
    kl = jnp.zeros(1)
    for start in range(0, config.steps, config.check_every):
        some = jnp.asarray(plan[start : start + config.check_every])
        state, kl = _steps(model.bare(), fixed, state, some, inside, rows)
    return state, float(kl[-1])


def _plan(config: EdgePruningConfig) -> np.ndarray:
    """(steps, 2) shares of the target and of the learning rates."""
    step = np.arange(config.steps)
    target = np.minimum(step / max(1, round(config.warmup * config.steps)), 1)
    rises = max(1, config.steps // _RISE)
    falls = (config.steps - step) / max(1, config.steps - rises)
    return np.stack([target, np.minimum((step + 1) / rises, falls).clip(0, 1)], 1).astype("f4")


def _adamw(config: EdgePruningConfig) -> optax.GradientTransformation:
    """AdamW of gradients cut off at a norm of 1, as the authors' trainer has it."""
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.decay),
    )


@functools.partial(jax.jit, static_argnames=("config", "rows"))
def _steps(
    model: LanguageModel,
    fixed: _Fixed,
    state: _State,
    plan: jax.Array,
    config: EdgePruningConfig,
    rows: int,
) -> tuple[_State, jax.Array]:
    """Take some steps, each at its shares of target and rates; return the KL of each."""
    scale, count = fixed.target.scale(), len(fixed.target.metric)

    def step(state: _State, shares: jax.Array) -> tuple[_State, jax.Array]:
        key, of_batch, of_noise = jax.random.split(state.key, 3)
        batch = fixed.target.take(jax.random.randint(of_batch, (rows,), 0, count), model.mesh)
        other = counterfactual(model, fixed.parts, batch.prompts)

        def of(trained: _Trained) -> tuple[jax.Array, jax.Array]:
            read, write = (
                sample(logits, jax.random.uniform(k, logits.shape))
                for k, logits in zip(jax.random.split(of_noise), trained.masks, strict=True)
            )
            row = jnp.broadcast_to(read * write[fixed.writer], (rows, len(read)))
            kl = distances(model, fixed.parts, batch, other, row, scale)[0].mean()
            off = 1 - jnp.stack([read.mean(), write.mean()]) - shares[0] * fixed.aims
            held = (trained.multipliers * jnp.stack([off, off**2], 1)).sum(1)
            return kl + jnp.where(fixed.wanted, held, 0).sum(), kl

        gradient, kl = jax.grad(of, has_aux=True)(state.trained)
        # Masks descend, multipliers ascend.
        gradient = gradient._replace(multipliers=-gradient.multipliers)
        by: Any
        by, opt_state = _adamw(config).update(gradient, state.opt_state, state.trained)
        by = _Trained(*(
            jax.tree.map(lambda x, r=rate: -r * shares[1] * x, part)
            for rate, part in zip((config.learning_rate, config.multiplier_rate), by, strict=True)
        ))  # fmt: skip
        # As in the mask search: of a batch that is not finite nothing is kept.
        finite = jnp.isfinite(kl) & jnp.isfinite(optax.tree.norm(gradient))
        after, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.trained, by), opt_state), (state.trained, state.opt_state),
        )  # fmt: skip
        return _State(after, opt_state, key), kl

    return replicate(jax.lax.scan(step, state, plan), model.mesh)
