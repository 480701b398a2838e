"""Between the state of the fused executor and the results of stages, in both directions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.fused.searching import tree_of
from hagd_jax.pipeline.fused.state import State
from hagd_jax.pipeline.levels import Coarse, needs_graph
from hagd_jax.pipeline.masks import Ranked, ranked, top_of
from hagd_jax.pipeline.repairing import Repaired
from hagd_jax.pipeline.scoring import Scored
from hagd_jax.pipeline.selecting import Selected, selected
from hagd_jax.search import Tree, mask_ranks
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Scores, Selection


def score(context: Context, left: Left, state: State) -> Scored:
    """Read the scores of all nodes from the state."""
    mean = np.asarray(state.score) / len(context.scored)
    return Scored(Nodes.from_flat(state.setting.space, mean), left.seen)


def with_score(state: State, scores: Scores) -> State:
    """Put scores into the state."""
    return state.replace(score=jnp.asarray(scores.flat()))


def hierarchy(context: Context, left: Left, state: State) -> Coarse:
    """Read the levels and the prior of the masks from the state."""
    scores = left["score"]
    if not needs_graph(context, state.setting.space):
        return Coarse(Tree((), seen=Seen.nothing()), scores)
    size = state.setting.size
    context.log_once("hierarchy", nodes=size.nodes, counts=list(size.counts))
    tree = Tree(tuple(map(np.asarray, state.clusters)), size.counts, left.seen)
    learnt = context.config.prior == "learner"
    prior = scores.after(left.seen)
    return Coarse(tree, prior.like(np.asarray(state.prior)) if learnt else prior)


def with_hierarchy(state: State, found: Coarse) -> State:
    """Put levels and a prior into the state."""
    clusters = tuple(map(jnp.asarray, found.tree.clusters))
    return state.replace(clusters=clusters, prior=jnp.asarray(found.prior.flat()))


def search(context: Context, left: Left, state: State) -> Ranked:
    """Read the ranks of all nodes at each size from the state."""
    setting = state.setting
    if not setting.masks:
        return top_of(context, left["score"])
    sizes = list(setting.sizes)
    return ranked(left, sizes, mask_ranks(state.masks, sizes, tree_of(state)))


def with_search(state: State, found: Ranked) -> State:
    """Put the circuit that was searched for into the state."""
    return state.replace(mask=jnp.asarray(found.circuits()[state.setting.asked].flat()))


def repair(context: Context, left: Left, state: State) -> Repaired:
    """Read the repaired circuit from the state."""
    space = state.setting.space
    mask = Nodes.from_flat(space, np.asarray(state.mask))
    if state.setting.repairs is None:
        return Repaired(Selection(mask, left.seen))
    losses = np.asarray(state.losses)
    found = tuple(losses[np.isfinite(losses)].tolist())
    context.log_once("repair", losses=found)
    return Repaired(Selection(mask, left.seen), found)


def with_repair(state: State, repaired: Repaired) -> State:
    """Put a repaired circuit into the state."""
    return state.replace(mask=jnp.asarray(repaired.circuit.flat()))


def select(context: Context, left: Left, state: State) -> Selected:
    """Read the chosen circuit from the state.

    Raises:
        NoCircuitError: If it takes away hardly any of the empty circuit's loss.
    """
    ours, theirs = np.asarray(state.kl).tolist()
    if state.setting.masks and "select" in context.task.splits:
        context.log_once("select", masks_kl=ours, top_kl=theirs)
    return selected(context, left, bool(state.keeps), np.asarray(state.found))


def unchanged(state: State, value: object) -> State:
    """Return the state of a stage after which no step follows."""
    return state
