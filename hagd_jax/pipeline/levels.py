"""The levels above the nodes, a graph of the task coarsened; and what the learner makes of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hagd_jax import meta
from hagd_jax.errors import CheckpointError
from hagd_jax.hierarchy import clusters_of
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import agree
from hagd_jax.pipeline.config import ExtractConfig, Progress
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.scores import GradientConfig, node_graph
from hagd_jax.search import Tree
from hagd_jax.tasks import Task
from hagd_jax.units import Dictionary, Nodes

_FILE = "hierarchy.npz"


class Coarse(NamedTuple):
    """What the graph of a task says.

    Attributes:
        tree: Its levels; none if there are too few nodes for one, or none were asked for.
        prior: Membership scores of all nodes: those given, or the meta-learner's.
    """

    tree: Tree
    prior: Nodes


def levels(
    model: LanguageModel,
    task: Task,
    scores: Nodes,
    config: ExtractConfig,
    *,
    dictionary: Dictionary,
    run: RunFolder | None = None,
    progress: Progress | None = None,
) -> Coarse:
    """Clusters of nodes that do the same in a task, for masks to open from above; and a prior.

    Args:
        model: The model.
        task: The behaviour; its discover split is read.
        scores: Signed integrated gradients of all nodes.
        config: Which prompts the graph is made of, and how coarse levels are.
        dictionary: Whose nodes.
        run: Where the levels are kept; found there, they are not made again.
        progress: Called with ("graph", layers, layers in all) and ("coarsen", 1, 1).

    Returns:
        The finest `config.levels` levels, coarsest first, and the prior.
    """
    few = dictionary.space.nodes * config.hierarchy.ratio < config.hierarchy.least
    wanted, learnt = 0 if few else config.levels, config.prior == "learner"
    if not wanted and not learnt:
        return Coarse(Tree(()), scores)
    path = run.path / _FILE if run else None
    if path is not None and agree(path.exists()):
        return _load(path, scores)
    tell = progress or (lambda stage, done, total: None)
    graph = node_graph(
        model,
        task.splits["discover"][: config.graph_prompts],
        GradientConfig(config.graph_steps, config.gradient.batch_size, config.gradient.remat),
        dictionary=dictionary,
        candidates=config.candidates,
        on_layer=lambda done, total: tell("graph", done, total),
    )
    clusters = clusters_of(graph, config.hierarchy, seed=config.seed)[-wanted:] if wanted else []
    tell("coarsen", 1, 1)
    prior = scores.flat()
    if learnt:
        prior = meta.score(meta.load(), meta.describe(graph, scores)).flat()
    if run is not None:
        run.log(
            "hierarchy",
            edges=len(graph.weights),
            counts=[int(level.max()) + 1 for level in clusters],
        )
        held = io.BytesIO()
        np.savez_compressed(held, *clusters, prior=prior)
        run.write(_FILE, held.getvalue())
    return Coarse(Tree.of(clusters), scores.like(prior))


def _load(path: Path, scores: Nodes) -> Coarse:
    """What an earlier call wrote."""
    total = scores.space.nodes
    try:
        with np.load(path, allow_pickle=False) as held:
            clusters = [held[f"arr_{i}"] for i in range(len(held.files) - 1)]
            prior = held["prior"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            str(path), got=f"a broken file ({error})", mend="Remove it; it is made again."
        ) from error
    if any(len(row) != total for row in (prior, *clusters)):
        raise CheckpointError(
            str(path), got="clusters of another model's nodes", expected=f"{total} nodes",
            mend="Remove it; it is made again.",
        )  # fmt: skip
    return Coarse(Tree.of(clusters), scores.like(prior))
