"""Differentiable masks: which nodes keep the model's behaviour, found by gradient descent.

Every node has a logit; masks are drawn from it at an expected size that shrinks from most of the
model to the size asked for. The loss is how far the masked model is from the model, in KL of its
next token and in the task's metric. With a tree of clusters a node is open if all clusters above it
are, and levels join one after the other, coarsest first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.search.objective import Target, counterfactual, loss, mixed, target_of
from hagd_jax.search.parts import Parts, best, count, flat
from hagd_jax.search.schedule import MaskConfig, schedule
from hagd_jax.search.tree import Tree, draw, ranks, shifted
from hagd_jax.tasks.batching import batch_rows
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Edges, Nodes, parts_of

OnSteps = Callable[[int, int, dict[str, float]], None]


class MaskState(struct.PyTreeNode):
    """Everything that a search goes on from.

    Attributes:
        logits: One array a level of the tree, coarsest first; the nodes' own last.
        kept: (sizes, N) ranks of all nodes when each size was passed.
        opt_state: Of Adam.
        key: Of batches and noise.
        step: How many steps were taken.
    """

    logits: list[jax.Array]
    kept: jax.Array
    opt_state: Any
    key: jax.Array
    step: jax.Array

    __repr__ = one_line


def start_logits(scores: jax.Array, tree: Tree) -> list[jax.Array]:
    """Logits of every level from scores: clip(½ · logit(rank) + 1, −2, 3), rank a share of all.

    Args:
        scores: (N,) higher is likelier; only their order counts.
        tree: Clusters of nodes, which begin with their members' mean logit.

    Returns:
        One array a level, coarsest first; the nodes' own, (N,) float32, last.
    """
    rank = (jnp.argsort(jnp.argsort(scores)) + 0.5) / len(scores)
    own = jnp.clip(0.5 * (jnp.log(rank) - jnp.log1p(-rank)) + 1, -2, 3)
    # A node's openness is shared out among the levels above it.
    above = [
        jax.ops.segment_sum(own, level, count)
        / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(own), level, count), 1)
        for level, count in zip(tree.clusters, tree.counts, strict=True)
    ]
    return [*above, own]


def init_masks(
    key: jax.Array,
    scores: np.ndarray,
    config: MaskConfig,
    *,
    tree: Tree | None = None,
    sizes: int = 1,
) -> MaskState:
    """A search that has not begun.

    Args:
        key: PRNG key.
        scores: (N,) membership scores; clusters begin with their members' mean logit.
        config: How masks are trained.
        tree: Clusters of nodes; none if None.
        sizes: How many sizes are asked for.

    Returns:
        The state.

    Raises:
        InputError: If a score is not finite.
    """
    scores = np.asarray(scores, np.float32)
    if not len(scores) or not np.isfinite(scores).all():
        raise InputError("scores", got="none, or some that are not finite", expected="numbers")
    logits = start_logits(jnp.asarray(scores), tree or Tree(()))
    return start(key, logits, jnp.zeros((sizes, len(scores)), jnp.float32), config)


def start(
    key: jax.Array, logits: list[jax.Array], kept: jax.Array, config: MaskConfig
) -> MaskState:
    """A state from logits of every level, before the first step."""
    return MaskState(logits, kept, _optimizer(config).init(logits), key, jnp.int32(0))


def search_masks(
    model: LanguageModel,
    prompts: Prompts,
    scores: Nodes | Edges,
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    least: int | None = None,
    tree: Tree | None = None,
    dictionary: Parts | Transcoder | None = None,
    seed: int = 0,
    state: MaskState | None = None,
    on_steps: OnSteps | None = None,
    on_state: Callable[[MaskState], None] | None = None,
) -> tuple[dict[int, Any], MaskState]:
    """Train masks down to the least size, and read circuits of all sizes on the way.

    Args:
        model: The model.
        prompts: To discover on.
        scores: Membership scores of all nodes: where the search begins.
        sizes: How many nodes circuits shall have.
        config: How masks are trained.
        least: Where the training ends; the least of the sizes if None. Smaller circuits are the
            best nodes of the last masks.
        tree: Clusters of nodes; none if None.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`, between which edges are searched for.
        seed: Of batches and noise: same seed, same circuits.
        state: To go on from, as `on_state` got it, of the same sizes and configuration.
        on_steps: Called as on_steps(step, steps, metrics) after each scan.
        on_state: Called after that with the state, to save it; it is the caller's to keep.

    Returns:
        Size → `Nodes` or `Edges` of bool with as many members, and the last state.

    Raises:
        InputError: If a size is not from 1 to the number of nodes, or prompts, scores or tree do
            not fit.

    Example:
        >>> scores = scores.mean_scores(model, task.splits["discover"])
        >>> circuits, _ = search_masks(model, task.splits["discover"], scores, [64, 32])
        >>> int(circuits[32].flat().sum())
        32
    """
    nodes, tree = parts_of(model, dictionary), tree or Tree(())
    total = count(nodes)
    require_sizes(sizes, total, tree)
    now = state
    if now is None:
        own = flat(nodes, scores)
        now = init_masks(jax.random.key(seed), own, config, tree=tree, sizes=len(sizes))
    plan = schedule(config, total, least or min(sizes), len(tree.clusters))
    means = nodes if config.mean else None
    target = target_of(model, prompts, config.batch_size, means=means)
    asked = jnp.asarray(sizes, jnp.float32)
    rows = batch_rows(len(prompts), config.batch_size, model.mesh)
    done = int(now.step)
    while done < config.steps:
        some = slice(done, min(done + config.check_every, config.steps))
        now, metrics = _scan(
            model.bare(), nodes, target, tree, now, (plan.size[some], plan.opened[some]), asked,
            config, rows,
        )  # fmt: skip
        done = some.stop
        if on_steps is not None:
            on_steps(done, config.steps, {k: float(v[-1]) for k, v in metrics.items()})
        if on_state is not None:
            # The next scan takes the state's memory for its own.
            on_state(jax.tree.map(jnp.copy, now))
    kept = zip(sizes, np.asarray(now.kept), strict=True)
    return {size: best(nodes, row, size) for size, row in kept}, now


def require_sizes(sizes: Sequence[int], total: int, tree: Tree) -> None:
    """Refuse sizes and trees that do not fit so many nodes.

    Raises:
        InputError: If they do not.
    """
    bad = [size for size in sizes if not 1 <= size <= total]
    if bad or not len(sizes):
        raise InputError("sizes", got=list(sizes), expected=f"some, from 1 to {total}")
    for level in tree.clusters:
        if len(level) != total:
            raise InputError("tree", got=f"{len(level)} nodes", expected=f"{total}, as the model")


@functools.partial(jax.jit, static_argnames=("config", "rows"), donate_argnames="state")
def _scan(
    model: LanguageModel,
    nodes: Parts,
    target: Target,
    tree: Tree,
    state: MaskState,
    plan: tuple[jax.Array, jax.Array],
    sizes: jax.Array,
    config: MaskConfig,
    rows: int,
) -> tuple[MaskState, dict[str, jax.Array]]:
    """Some steps in one program."""
    found = scan_steps(model, nodes, target, tree, state, plan, sizes, config, rows)
    return replicate(found, model.mesh)


def scan_steps(
    model: LanguageModel,
    nodes: Parts,
    target: Target,
    tree: Tree,
    state: MaskState,
    plan: tuple[jax.Array, jax.Array],
    sizes: jax.Array,
    config: MaskConfig,
    rows: int,
) -> tuple[MaskState, dict[str, jax.Array]]:
    """Steps on batches that are drawn from all prompts.

    Args:
        model: The model.
        nodes: What it consists of.
        target: All prompts, and what the model does on them.
        tree: Clusters of nodes.
        state: Before.
        plan: (S,) expected sizes, and (S, levels + 1) which levels decide.
        sizes: (K,) sizes that circuits are kept of.
        config: How masks are trained.
        rows: Prompts a batch.

    Returns:
        The state after, and (S,) metrics.
    """
    scale = target.scale()

    def step(state: MaskState, asked: tuple) -> tuple[MaskState, dict[str, jax.Array]]:
        of_batch = jax.random.split(state.key, 3)[1]  # `update` uses the other two
        chosen = jax.random.randint(of_batch, (rows,), 0, len(target.metric))
        batch = target.take(chosen, model.mesh)
        return update(model, nodes, batch, scale, tree, state, asked, sizes, config)

    return jax.lax.scan(step, state, plan)


def update(
    model: LanguageModel,
    nodes: Parts,
    batch: Target,
    scale: jax.Array,
    tree: Tree,
    state: MaskState,
    asked: tuple[jax.Array, jax.Array],
    sizes: jax.Array,
    config: MaskConfig,
) -> tuple[MaskState, dict[str, jax.Array]]:
    """One step of Adam on the logits.

    Args:
        model: The model.
        nodes: What it consists of.
        batch: Prompts, and what the model does on them.
        scale: What errors of the metric are measured in.
        tree: Clusters of nodes.
        state: Before.
        asked: Expected size, and (levels + 1,) which levels decide.
        sizes: (K,) sizes that circuits are kept of.
        config: How masks are trained.

    Returns:
        The state after, and metrics.
    """
    size, on = asked
    key, _, of_noise = jax.random.split(state.key, 3)
    other = counterfactual(model, nodes, batch.prompts)
    other = mixed(batch, other, config.mean, jax.random.fold_in(of_noise, 1))
    rows = len(batch.metric)

    def of(logits: list[jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        own = shifted(tree, logits, on, size)
        mask = draw(tree, own, on, of_noise, rows)
        return loss(model, nodes, batch, other, mask, config.metric, scale)

    (value, metrics), gradient = jax.value_and_grad(of, has_aux=True)(state.logits)
    updates, opt_state = _optimizer(config).update(gradient, state.opt_state)
    logits: Any = optax.apply_updates(state.logits, updates)
    passing = (size >= 0.999 * sizes)[:, None]
    kept = jnp.where(passing, ranks(tree, logits, on), state.kept)
    after = MaskState(logits, kept, opt_state, key, state.step + 1)
    return after, metrics | {"loss": value, "size": size}


def _optimizer(config: MaskConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)
