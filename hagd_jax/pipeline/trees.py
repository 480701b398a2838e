"""The tree of units that circuits are of, as a file in the run's folder."""

from __future__ import annotations

from pathlib import Path

from hagd_jax import units
from hagd_jax.errors import CheckpointError, DamagedError
from hagd_jax.parallel import is_main
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.units import UnitTree

# As `hagd validate --tree` reads it.
FILE = "tree.safetensors"


def keep_tree(run: RunFolder, tree: UnitTree) -> None:
    """Write the tree into the run's folder, unless it is there.

    Args:
        run: The run's folder.
        tree: The tree.
    """
    there = kept_tree(run)
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


def kept_tree(run: RunFolder) -> UnitTree | None:
    """Read the tree of the run's folder; None if there is none, or a damaged one."""
    return run.whole(FILE, lambda: _read(run.path / FILE)) if run.has(FILE) else None
