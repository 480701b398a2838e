"""Stage 3: clusters of nodes, from a graph of the task; and where masks begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax import meta
from hagd_jax.errors import CheckpointError
from hagd_jax.hierarchy import clusters_of
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.scoring import discovering
from hagd_jax.scores import GradientConfig, node_graph
from hagd_jax.search import Tree
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Space

_FILE = "hierarchy.npz"
# Levels of clusters where the configuration leaves the number open.
_USUAL = 2


class Coarse(NamedTuple):
    """The levels above the nodes.

    Attributes:
        tree: Clusters of nodes, level by level; it may have none.
        prior: Membership scores of all nodes: their scores, or the meta-learner's.
    """

    tree: Tree
    prior: Nodes


def needs_graph(context: Context, left: Left) -> bool:
    """Whether the search needs the graph of the task."""
    config, space = context.config, left["features"].nodes.space
    whole = config.search == "top" or config.size(space.nodes) == space.nodes
    return not whole and (config.prior == "learner" or wanted(context, space) > 0)


def wanted(context: Context, space: Space) -> int:
    """How many levels of clusters the search opens."""
    config = context.config
    possible = len(counts(context, space))
    return min(_USUAL, possible) if config.levels is None else config.levels


def counts(context: Context, space: Space) -> list[int]:
    """Clusters of graph nodes at each level that the graph is large enough for, finest first."""
    config = context.config
    own = config.hierarchy
    now = space.layers * (space.heads + space.features)
    if now * own.ratio < own.least:
        return []
    now = space.layers * space.heads + min(config.candidates, space.layers * space.features)
    found = []
    while (fewer := max(int(np.ceil(own.ratio * now)), min(own.least, now))) < now:
        found.append(now := fewer)
    return found


def looks(context: Context, left: Left) -> Seen:
    """The discover split, if there is a graph."""
    return discovering(context, left) if needs_graph(context, left) else Seen.nothing()


def hierarchy(context: Context, left: Left) -> Coarse:
    """Cluster nodes that play the same part in the task, for masks to open from above.

    Returns:
        The finest levels, coarsest first, and the prior.

    Raises:
        CheckpointError: If the run's levels are broken, or of another model.
    """
    scores, run = left["score"], context.run
    if not needs_graph(context, left):
        return Coarse(Tree(()), scores)
    found = run.kept(_FILE) if run else None
    if found is None:
        found = _made(context, left)
        if run is not None:
            run.keep(_FILE, **found)
    return _coarse(found, scores, context)


def _made(context: Context, left: Left) -> dict[str, np.ndarray]:
    config, scores, nodes = context.config, left["score"], left["features"].nodes
    levels = wanted(context, nodes.space)
    graph = node_graph(
        context.model,
        context.discover[: config.graph_prompts],
        GradientConfig(config.graph_steps, config.gradient.batch_size, config.gradient.remat),
        dictionary=nodes,
        candidates=config.candidates,
        on_layer=lambda done, total: context.progress("graph", done, total),
    )
    clusters = clusters_of(graph, config.hierarchy, seed=config.seed)[-levels:] if levels else []
    context.progress("coarsen", 1, 1)
    prior = scores.flat()
    if config.prior == "learner":
        prior = meta.score(meta.load(), meta.describe(graph, scores))
    sizes = [int(level.max()) + 1 for level in clusters]
    if context.run is not None:
        context.run.rewind("hierarchy", -1)
    context.log("hierarchy", edges=len(graph.weights), counts=sizes)
    arrays = {f"level{number}": level for number, level in enumerate(clusters)}
    return arrays | {"prior": np.asarray(prior)}


def _coarse(found: dict[str, np.ndarray], scores: Nodes, context: Context) -> Coarse:
    names = [f"level{number}" for number in range(len(found) - 1)]
    total = scores.space.nodes
    if set(found) != {*names, "prior"} or any(len(row) != total for row in found.values()):
        raise CheckpointError(
            str(context.run.path / _FILE if context.run else _FILE),
            got="levels of another model's nodes", expected=f"{total} nodes in each",
            mend="Remove it; it is made again.",
        )  # fmt: skip
    return Coarse(Tree.of([found[name] for name in names]), scores.like(found["prior"]))
