"""The tree of units that is searched over: how it is made, and its file in the run's folder."""

from __future__ import annotations

from pathlib import Path

from hagd_jax import units
from hagd_jax.errors import CheckpointError, DamagedError
from hagd_jax.parallel import is_main
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.search import Tree
from hagd_jax.tasks import Seen
from hagd_jax.units import Dictionary, UnitTree
from hagd_jax.units.tree import BANDWIDTH, tree_of

# As `hagd validate --tree` reads it.
FILE = "tree.safetensors"


def unit_tree(nodes: Dictionary, found: Tree) -> UnitTree:
    """Make the tree of units from the clusters of the task's graph.

    Both executors make it here and nowhere else.

    Args:
        nodes: The dictionary whose nodes are the leaves.
        found: Clusters, coarsest level first, with the data that decided them; there may be none.

    Returns:
        The tree: bands of layers, blocks, clusters that are cut at blocks, and leaves.
    """
    seen = Seen.unknown() if found.seen is None else found.seen
    return tree_of(nodes.space, nodes.label, found.clusters, BANDWIDTH, seen)


def keep_tree(run: RunFolder, tree: UnitTree) -> None:
    """Write the tree into the run's folder, unless it is there.

    Args:
        run: The run's folder.
        tree: The tree.
    """
    there = run.whole(FILE, lambda: _read(run.path / FILE)) if run.has(FILE) else None
    if there is not None and (there.digest, there.seen) == (tree.digest, tree.seen):
        return
    if is_main():
        units.save_tree(tree, run.path / FILE)


def _read(path: Path) -> UnitTree:
    try:
        return units.load_tree(path)
    except DamagedError:
        raise
    except CheckpointError as error:
        raise DamagedError(str(error)) from error
