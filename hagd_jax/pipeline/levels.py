"""Stage 3: clusters of nodes, from a graph of the task; and where masks begin."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import meta
from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.graph import GraphSize, choose, clusters, graph_size, membership
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.scoring import discovering
from hagd_jax.pipeline.starts import chooses
from hagd_jax.scores.flow import Directions, Flow, directions, flow
from hagd_jax.scores.flow_edges import chosen_edges
from hagd_jax.search import Tree
from hagd_jax.tasks import Seen
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.units import Scores, Space, directed

FILE = "hierarchy.npz"
_MEND = "Remove it; it is made again."


class Coarse(NamedTuple):
    """A coarse view has levels above the nodes, and the prior of the masks.

    Attributes:
        tree: Clusters of nodes, level by level; it may have none.
        prior: Membership scores of all nodes: their scores, or the meta-learner's.
    """

    tree: Tree
    prior: Scores

    __repr__ = one_line


def needs_graph(context: Context, space: Space) -> bool:
    """Tell whether the search needs the graph of the task."""
    config = context.config
    if config.search == "top" or config.size(space.nodes) == space.nodes:
        return False
    return config.prior == "learner" or bool(graph_size(config, space).levels)


def looks(context: Context, left: Left) -> Seen:
    """Record the discover split, if a graph is built."""
    needed = needs_graph(context, left["features"].nodes.space)
    return discovering(context, left) if needed else Seen.nothing()


def hierarchy(context: Context, left: Left) -> Coarse:
    """Cluster nodes by the graph of the task, so that masks can be trained coarse to fine.

    Returns:
        The finest levels, coarsest first, and the prior.
    """
    config, scores, nodes = context.config, left["score"], left["features"].nodes
    if not needs_graph(context, nodes.space):
        return Coarse(Tree((), seen=Seen.nothing()), scores)
    nodes = directed(context.model, nodes)
    along = directions(context.model, nodes.bare())
    size = graph_size(config, nodes.space)
    learner = meta.load() if config.prior == "learner" else None
    context.progress("graph", 0, min(config.graph_prompts, len(context.discover)))
    flows = _flows(context, left)
    context.progress("coarsen", 0, 1)
    tree, prior = _coarse(
        along, flows, learner, jnp.asarray(scores.flat()),
        jax.random.key(config.seed), size=size, config=config.hierarchy,
        parallel=context.model.config.parallel_residual,
    )  # fmt: skip
    context.progress("coarsen", 1, 1)
    context.log_once("hierarchy", nodes=size.nodes, counts=list(size.counts))
    tree = Tree(tuple(map(np.asarray, tree.clusters)), tree.counts, left.seen)
    return Coarse(tree, scores.after(left.seen).like(np.asarray(prior)))


def _flows(context: Context, left: Left) -> list[Flow]:
    """What nodes do on the graph's prompts, batch by batch."""
    config, model = context.config, context.model
    prompts = context.discover[: config.graph_prompts]
    nodes = directed(model, left["features"].nodes).bare()
    steps, found = jnp.asarray(config.graph_steps, jnp.float32), []
    for batch, weight in padded_batches(model, prompts, config.gradient.batch_size):
        found.append(
            flow(model.bare(), nodes, batch, weight, steps, metric=logit_difference,
                 remat=config.gradient.remat)
        )  # fmt: skip
        done = min(len(found) * config.gradient.batch_size, len(prompts))
        context.progress("graph", done, len(prompts))
    return found


@functools.partial(jax.jit, static_argnames=("size", "config", "parallel"))
def _coarse(
    along: Directions,
    flows: list[Flow],
    learner: meta.Learner | None,
    scores: jax.Array,
    key: jax.Array,
    *,
    size: GraphSize,
    config: HierarchyConfig,
    parallel: bool,
) -> tuple[Tree, jax.Array]:
    """The tree and the prior, from what nodes do on all batches."""
    firsts = functools.reduce(jnp.add, [found.score for found in flows])
    chosen = choose(firsts, size)
    edges = functools.reduce(
        jnp.add, [chosen_edges(along, found, chosen, parallel=parallel) for found in flows]
    )
    tree = clusters(edges, chosen, size, key, config)
    if learner is None:
        return tree, scores
    return tree, membership(learner, edges, chosen, firsts, scores, size)


def keep(run: RunFolder, coarse: Coarse) -> None:
    """Write the levels and the prior, if there was a graph."""
    if coarse.tree.clusters or coarse.tree.seen != Seen.nothing():
        levels = {f"level{i}": level for i, level in enumerate(coarse.tree.clusters)}
        run.keep(FILE, prior=coarse.prior.flat(), **levels)


def kept(context: Context, left: Left) -> Coarse | None:
    """Read the levels that the run's folder holds."""
    scores = left["score"]
    size = graph_size(context.config, scores.space)
    if context.run is None or not needs_graph(context, scores.space):
        return None
    shapes = {f"level{i}": (scores.space.nodes,) for i in range(len(size.counts))}
    found = context.run.kept(FILE, prior=(scores.space.nodes,), **shapes)
    if found is None:
        return None
    _require_clusters(context.run.path / FILE, found, dict(zip(shapes, size.counts, strict=True)))
    prior = scores.after(left.seen)
    # A search of another size may have chosen other scores since.
    prior = prior if chooses(context.config) else prior.like(found["prior"])
    return Coarse(Tree(tuple(found[name] for name in shapes), size.counts, left.seen), prior)


def _require_clusters(path: Path, found: dict[str, np.ndarray], counts: dict[str, int]) -> None:
    """Refuse numbers that are no clusters: compiled programs would take the nearest that are."""
    for name, count in counts.items():
        level = found[name]
        if level.dtype != np.int32 or level.min() < 0 or level.max() >= count:
            raise CheckpointError(
                f"{path}: {name}", got=f"{level.dtype} from {level.min()} to {level.max()}",
                expected=f"int32 from 0 to {count - 1}", mend=_MEND,
            )  # fmt: skip
    if found["prior"].dtype.kind != "f" or not np.isfinite(found["prior"]).all():
        expected = "finite floating-point numbers"
        raise CheckpointError(f"{path}: prior", got="others", expected=expected, mend=_MEND)
