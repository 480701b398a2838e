"""Steps of the mask search: logits, the circuits' logits on the way, and one step of Adam."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import require_index, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import require_key
from hagd_jax.parallel import replicate
from hagd_jax.search.checks import require_sizes, require_state, require_tree
from hagd_jax.search.config import MaskConfig
from hagd_jax.search.objective import Target, counterfactual, loss, mixed
from hagd_jax.search.parts import read_row
from hagd_jax.search.tree import Tree, draw, ranks, shifted
from hagd_jax.units import Parts, Scores


class MaskState(struct.PyTreeNode):
    """The state of a search holds everything needed to continue it.

    Attributes:
        logits: One array for each level of the tree, coarsest first; the nodes' own last.
        kept: For each level the (sizes, C) logits that circuits of each size are read from: those
            after the last step whose expected size was not below it, see `schedule.trained_at`.
        opt_state: Adam's state.
        key: PRNG key of batches and noise.
        step: () int32 number of steps taken.
    """

    logits: list[jax.Array]
    kept: list[jax.Array]
    opt_state: Any
    key: jax.Array
    step: jax.Array

    __repr__ = one_line


class Search(NamedTuple):
    """A search defines the masks and sizes as arrays, so that one program serves all.

    Attributes:
        parts: What the model consists of.
        tree: Clusters of nodes, without their history (`Tree.bare`).
        sizes: (K,) float32 expected sizes down to which logits are kept, from `trained_at`.
    """

    parts: Parts
    tree: Tree
    sizes: Any

    __repr__ = one_line


def start_logits(scores: jax.Array, tree: Tree) -> list[jax.Array]:
    """Convert scores to logits of every level: clip(½ · logit(rank) + 1, −2, 3), rank a share.

    Args:
        scores: (N,) higher is likelier; only their order counts.
        tree: Clusters of nodes, which begin with their members' mean logit.

    Returns:
        One array a level, coarsest first; the nodes' own, (N,) float32, last.
    """
    # From weakly typed logits the steps would be compiled thrice, until types no longer change.
    rank = (jnp.argsort(jnp.argsort(scores)) + jnp.float32(0.5)) / len(scores)
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
    scores: np.ndarray | Scores,
    config: MaskConfig,
    *,
    tree: Tree | None = None,
    sizes: int = 1,
) -> MaskState:
    """Make the state of a search before its first step.

    Args:
        key: PRNG key.
        scores: (N,) membership scores; clusters begin with their members' mean logit.
        config: How masks are trained.
        tree: Clusters of nodes; none if None.
        sizes: Number of sizes that circuits are kept of.

    Returns:
        The state.

    Raises:
        InputError: If a score is not finite, the tree has another number of nodes, or there are too
            many sizes.

    Example:
        >>> import jax, numpy as np
        >>> from hagd_jax.search import MaskConfig, init_masks
        >>> state = init_masks(jax.random.key(0), np.array([0.1, 0.7]), MaskConfig())
        >>> bool(state.logits[0][1] > state.logits[0][0])
        True
    """
    require_key(key)
    require_is("config", config, MaskConfig)
    require_is("tree", tree, Tree, type(None))
    row = read_row("scores", scores)
    tree, sizes = tree or Tree(()), require_index("sizes", sizes, 1 << 16)
    require_tree(tree, len(row))
    return start(key, start_logits(jnp.asarray(row), tree), sizes, config)


def start(key: jax.Array, logits: list[jax.Array], sizes: int, config: MaskConfig) -> MaskState:
    """Make a state from logits of every level, before the first step."""
    kept = [jnp.repeat(level[None], sizes, 0) for level in logits]
    return MaskState(logits, kept, _optimizer(config).init(logits), key, jnp.int32(0))


def mask_ranks(state: MaskState, sizes: Any, tree: Tree | None = None) -> np.ndarray:
    """Rank all nodes for circuits of every size kept, see `tree.ranks`.

    Args:
        state: Of a search over those sizes and that tree.
        sizes: K sizes.
        tree: Clusters of nodes; none if None.

    Returns:
        (K, N) float32 log-probabilities of being open, on the host.

    Raises:
        InputError: If the state is one of another number of sizes or levels.
    """
    require_is("state", state, MaskState, mend="Make one with init_masks.")
    require_is("tree", tree, Tree, type(None))
    tree = Tree(()) if tree is None else tree.bare()
    asked = require_sizes(sizes, state.logits[-1].shape[0])
    require_fit(state, len(asked), tree)
    return np.asarray(_ranks(tree, state.kept, jnp.asarray(asked, jnp.float32)))


def require_fit(state: MaskState, sizes: int, tree: Tree, count: int | None = None) -> None:
    """Refuse the state of a search over other sizes, levels or nodes.

    Raises:
        InputError: If it has others.
    """
    shapes = [level.shape for level in state.kept]
    count = shapes[-1][-1] if count is None else count
    require_state(shapes, [(sizes, n) for n in (*tree.counts, count)])


@jax.jit
def _ranks(tree: Tree, kept: list[jax.Array], sizes: jax.Array) -> jax.Array:
    return jax.vmap(lambda own, size: ranks(tree, own, size))(kept, sizes)


def traced(config: MaskConfig) -> MaskConfig:
    """Keep the fields that a program depends on, so that other schedules do not recompile it."""
    names = ("learning_rate", "mean", "metric")
    return MaskConfig(**{name: getattr(config, name) for name in names})


def scan_steps(
    model: LanguageModel,
    search: Search,
    target: Target,
    state: MaskState,
    plan: tuple[jax.Array, jax.Array],
    config: MaskConfig,
    rows: int,
) -> tuple[MaskState, dict[str, jax.Array]]:
    """Take steps on batches drawn from all prompts.

    Args:
        model: The model.
        search: What masks are searched over.
        target: All prompts, and what the model does on them.
        state: Before.
        plan: (S,) expected sizes, and (S, levels + 1) which levels decide.
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
        return update(model, search, batch, scale, state, asked, config)

    return jax.lax.scan(step, state, plan)


@functools.partial(jax.jit, static_argnames=("config", "rows"), donate_argnames="state")
def scan_jitted(
    model: LanguageModel,
    search: Search,
    target: Target,
    state: MaskState,
    plan: tuple[jax.Array, jax.Array],
    config: MaskConfig,
    rows: int,
) -> tuple[MaskState, dict[str, jax.Array]]:
    """Run `scan_steps` as one program, which reuses the memory of the state."""
    return replicate(scan_steps(model, search, target, state, plan, config, rows), model.mesh)


def update(
    model: LanguageModel,
    search: Search,
    batch: Target,
    scale: jax.Array,
    state: MaskState,
    asked: tuple[jax.Array, jax.Array],
    config: MaskConfig,
) -> tuple[MaskState, dict[str, jax.Array]]:
    """Take one step of Adam on the logits; of a batch that is not finite nothing is kept.

    Args:
        model: The model.
        search: What masks are searched over.
        batch: Prompts, and what the model does on them.
        scale: What errors of the metric are measured in.
        state: Before.
        asked: Expected size, and (levels + 1,) which levels decide.
        config: How masks are trained.

    Returns:
        The state after, and metrics.
    """
    size, on = asked
    key, _, of_noise = jax.random.split(state.key, 3)
    other = counterfactual(model, search.parts, batch.prompts)
    of_means = jax.random.fold_in(of_noise, 1)
    other = mixed(model, search.parts, batch, other, config.mean, of_means)
    rows = len(batch.metric)

    def of(logits: list[jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        own = shifted(search.tree, logits, on, size)
        mask = draw(search.tree, own, on, of_noise, rows)
        return loss(model, search.parts, batch, other, mask, config.metric, scale)

    (value, metrics), gradient = jax.value_and_grad(of, has_aux=True)(state.logits)
    updates, opt_state = _optimizer(config).update(gradient, state.opt_state)
    # A batch on which a masked model overflows would stay in the logits and in Adam's means for
    # good; the schedule goes on, and the next batch is another one.
    finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
    logits, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (optax.apply_updates(state.logits, updates), opt_state),
        (state.logits, state.opt_state),
    )
    after = state.replace(logits=logits, opt_state=opt_state, key=key, step=state.step + 1)
    kept = _kept(state, logits, search.sizes, size)
    return after.replace(kept=kept), metrics | {"loss": value, "size": size}


def _kept(
    state: MaskState, logits: list[jax.Array], sizes: jax.Array, size: jax.Array
) -> list[jax.Array]:
    """Each size's logits, where the expected size has not fallen below it yet."""
    passing = (size >= 0.999 * sizes)[:, None]
    return [jnp.where(passing, new, old) for new, old in zip(logits, state.kept, strict=True)]


def _optimizer(config: MaskConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate)
