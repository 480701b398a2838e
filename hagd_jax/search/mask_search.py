"""Differentiable masks: which nodes keep the model's behaviour, found by gradient descent.

Every node has a logit; masks are drawn from it at an expected size that shrinks from most of the
model to the size asked for. The loss is how far the masked model is from the model, in KL of its
next token and in the task's metric. With a tree of clusters a node is open if all clusters above it
are, and levels join one after the other, coarsest first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from hagd_jax.errors import InputError
from hagd_jax.interventions import Nodes
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.search.schedule import MaskConfig, schedule
from hagd_jax.search.tree import Tree, draw, ranks, shifted
from hagd_jax.tasks.base import Prompts
from hagd_jax.tasks.batching import batch_rows, padded_batches
from hagd_jax.transcoders import Dictionary, Transcoder, as_dictionary

OnSteps = Callable[[int, int, dict[str, float]], None]


class Target(NamedTuple):
    """What the model does on the discovery prompts, and what replaces its nodes; all on device."""

    prompts: Prompts
    at: jax.Array  # (R, S, V) logits where answers are read
    metric: jax.Array  # (N,)
    other: dict[str, jax.Array]  # values of nodes on the counterfactuals


@struct.dataclass
class MaskState:
    """Everything that a search goes on from.

    Attributes:
        logits: One array a level of the tree, coarsest first; the nodes' own last.
        opt_state: Of Adam.
        key: Of batches and noise.
        step: How many steps were taken.
    """

    logits: list[jax.Array]
    opt_state: Any
    key: jax.Array
    step: jax.Array


def start_logits(scores: np.ndarray) -> np.ndarray:
    """Logits from scores: clip(½ · logit(rank) + 1, −2, 3), rank being a share of all.

    Args:
        scores: (N,) higher is likelier; only their order counts.

    Returns:
        (N,) float32.

    Raises:
        InputError: If a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        raise InputError("scores", got="none, or some that are not finite", expected="numbers")
    rank = (np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 0.5) / len(scores)
    return np.clip(0.5 * np.log(rank / (1 - rank)) + 1, -2, 3).astype(np.float32)


def init(key: jax.Array, scores: Nodes, tree: Tree, config: MaskConfig) -> MaskState:
    """A search that has not begun.

    Args:
        key: PRNG key.
        scores: Membership scores of all nodes; clusters begin with their members' mean logit.
        tree: Clusters of nodes; `Tree(())` for none.
        config: How masks are trained.

    Returns:
        The state.
    """
    own = start_logits(scores.flat())
    # A node's openness is shared out among the levels above it.
    above = [
        np.bincount(level, own, count) / np.maximum(np.bincount(level, minlength=count), 1)
        for level, count in zip(tree.clusters, tree.counts, strict=True)
    ]
    logits = [jnp.asarray(level, jnp.float32) for level in (*above, own)]
    return MaskState(logits, _optimizer(config).init(logits), key, jnp.int32(0))


def search(
    model: LanguageModel,
    prompts: Prompts,
    scores: Nodes,
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    tree: Tree | None = None,
    dictionary: Dictionary | Transcoder | None = None,
    seed: int = 0,
    state: MaskState | None = None,
    on_steps: OnSteps | None = None,
    on_state: Callable[[MaskState], None] | None = None,
) -> tuple[dict[int, Nodes], MaskState]:
    """Train masks down to the least size, and read circuits of all sizes on the way.

    Args:
        model: The model.
        prompts: To discover on.
        scores: Membership scores of all nodes: where the search begins.
        sizes: How many nodes circuits shall have.
        config: How masks are trained.
        tree: Clusters of nodes; none if None.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        seed: Of batches and noise: same seed, same circuits.
        state: To go on from, as returned before; its sizes that were passed are not read again.
        on_steps: Called as on_steps(step, steps, metrics) after each scan.
        on_state: Called before that with the state, to save it; it is the caller's to keep.

    Returns:
        Size → `Nodes` of bool with as many members, and the last state.

    Raises:
        InputError: If a size is not from 1 to the number of nodes, or prompts, scores or tree do
            not fit.

    Example:
        >>> scores = attribution.mean_scores(model, task.splits["discover"])
        >>> circuits, _ = search(model, task.splits["discover"], scores, [64, 32])
        >>> int(circuits[32].flat().sum())
        32
    """
    nodes, tree = as_dictionary(model, dictionary).bare(), tree or Tree(())
    total = nodes.space.nodes
    _require_sizes(sizes, total, tree)
    now = init(jax.random.key(seed), scores, tree, config) if state is None else state
    least = min(sizes)
    plan = schedule(config, total, least, len(tree.clusters))
    target = _target(model, nodes, prompts, config.batch_size)
    read: dict[int, np.ndarray] = {}
    done = int(now.step)
    while done < config.steps:
        count = min(config.check_every, config.steps - done)
        now, metrics, kept = _scan(
            model.bare(), nodes, target, tree, now, plan.size[done : done + count],
            plan.opened[done : done + count], config,
        )  # fmt: skip
        _read(read, sizes, plan.size[done : done + count], np.asarray(kept))
        done += count
        if on_state is not None:
            # The next scan takes the state's memory for its own.
            on_state(jax.tree.map(jnp.copy, now))
        if on_steps is not None:
            on_steps(done, config.steps, {k: float(v[-1]) for k, v in metrics.items()})
    last = np.asarray(ranks(tree, now.logits, jnp.ones(len(tree.clusters) + 1, bool)))
    for size in sizes:
        read.setdefault(size, last)
    return {size: _top(read[size], size, nodes) for size in sizes}, now


def _require_sizes(sizes: Sequence[int], total: int, tree: Tree) -> None:
    bad = [size for size in sizes if not 1 <= size <= total]
    if bad or not len(sizes):
        raise InputError("sizes", got=list(sizes), expected=f"some, from 1 to {total}")
    for level in tree.clusters:
        if len(level) != total:
            raise InputError("tree", got=f"{len(level)} nodes", expected=f"{total}, as the model")


def _target(model: LanguageModel, nodes: Dictionary, prompts: Prompts, batch_size: int) -> Target:
    """Run the model on all prompts once, clean and corrupted."""
    rows = batch_rows(len(prompts), batch_size, model.mesh)
    parts = [
        (batch, *_ends(model.bare(), nodes, batch))
        for batch, _ in padded_batches(model, prompts, rows)
    ]
    batches, ats, metrics, others = zip(*parts, strict=True)
    stack = lambda *x: jnp.stack(x)  # noqa: E731
    return Target(
        jax.tree.map(stack, *batches), jnp.stack(ats), jnp.stack(metrics),
        jax.tree.map(stack, *others),
    )  # fmt: skip


@jax.jit
def _ends(
    model: LanguageModel, nodes: Dictionary, batch: Prompts
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    at = forward(model, batch.inputs(), read=batch.reads).logits
    trace = forward(model, batch.inputs("corrupted"), capture=nodes.capture).trace
    return at, batch.metric(at), nodes.values(trace)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def _scan(
    model: LanguageModel,
    nodes: Dictionary,
    target: Target,
    tree: Tree,
    state: MaskState,
    sizes: jax.Array,
    opened: jax.Array,
    config: MaskConfig,
) -> tuple[MaskState, dict[str, jax.Array], jax.Array]:
    """Some steps in one program; the ranks of all nodes after each of them."""
    scale = jnp.mean(target.metric)
    scale = jnp.where(jnp.abs(scale) > 1e-3, scale, 1.0)

    def step(state: MaskState, asked: tuple) -> tuple[MaskState, tuple]:
        size, on = asked
        key, of_batch, of_noise = jax.random.split(state.key, 3)
        chosen = jax.random.randint(of_batch, (), 0, len(target.metric))
        batch, at, metric, other = jax.tree.map(lambda x: x[chosen], target)

        def loss(logits: list[jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
            own = shifted(tree, logits, on, size)
            flat = draw(tree, own, on, of_noise, len(metric))
            found = forward(
                model, batch.inputs(), nodes.mask(_rows(nodes, batch, flat), other),
                read=batch.reads,
            ).logits  # fmt: skip
            kl = batch.kl(at, found).mean()
            off = jnp.mean(((batch.metric(found) - metric) / scale) ** 2)
            return kl + config.metric * off, {"kl": kl, "metric_error": off}

        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.logits)
        updates, opt_state = _optimizer(config).update(gradient, state.opt_state)
        logits: Any = optax.apply_updates(state.logits, updates)
        after = MaskState(logits, opt_state, key, state.step + 1)
        return after, (metrics | {"loss": value, "size": size}, ranks(tree, logits, on))

    state, (metrics, kept) = jax.lax.scan(step, state, (sizes, opened))
    return replicate((state, metrics, kept), model.mesh)


def _rows(nodes: Dictionary, batch: Prompts, flat: jax.Array) -> Nodes:
    """(B, N) masks as `Nodes` with a row axis after the layers."""
    flat = batch.per_row(flat)
    space = nodes.space
    cut = space.layers * space.heads
    heads = flat[:, :cut].reshape(-1, space.layers, space.heads)
    features = flat[:, cut:].reshape(-1, space.layers, space.features)
    return Nodes(heads.swapaxes(0, 1), features.swapaxes(0, 1))


def _optimizer(config: MaskConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)


def _read(
    read: dict[int, np.ndarray], sizes: Sequence[int], asked: np.ndarray, kept: np.ndarray
) -> None:
    """Keep the ranks of the last step at which more nodes than a size were asked for."""
    for step, now in enumerate(asked):
        for size in sizes:
            if now >= size * 0.999:
                read[size] = kept[step]


def _top(values: np.ndarray, size: int, nodes: Dictionary) -> Nodes:
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(-values, kind="stable")[:size]] = True
    return Nodes.from_flat(nodes.space, chosen)
