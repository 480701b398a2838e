"""What a search over units finds, and how it lies in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.pipeline.context import Left
from hagd_jax.pipeline.masks import FILE as SEARCH_FILE
from hagd_jax.pipeline.repairing import FILE as REPAIR_FILE
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.trees import keep_tree
from hagd_jax.pipeline.unit_choice import chosen_of
from hagd_jax.search import UnitCircuit
from hagd_jax.tasks import Seen
from hagd_jax.units import Unit, UnitTree

# Units, and what each was chosen by.
Chain = tuple[tuple[Unit, ...], tuple[float, ...]]
_MEND = "Remove it; it is made again."


class FoundUnits(NamedTuple):
    """The result of a search over units holds a circuit of each size.

    Attributes:
        circuits: Largest first. Losses are not measured.
        tree: The tree that their units are of.
        gates: What is known of the gates of each, if they choose the size, see `unit_choice`.
    """

    circuits: tuple[UnitCircuit, ...]
    tree: UnitTree
    gates: tuple[int, ...] = ()

    @property
    def circuit(self) -> UnitCircuit:
        """Return the circuit of the requested size, or of the one that was chosen."""
        return self.circuits[chosen_of(self.gates)]

    @property
    def others(self) -> tuple[UnitCircuit, ...]:
        """Return the circuits of other sizes."""
        place = chosen_of(self.gates) % len(self.circuits)
        return (*self.circuits[:place], *self.circuits[place + 1 :])

    __repr__ = one_line


class MendedUnits(NamedTuple):
    """The repaired and pruned circuit of units comes with the losses on the way.

    Attributes:
        circuit: The circuit.
        worst: Largest loss as a share of the empty circuit's: before, and after each round that
            found a better circuit; none without repair.
        pruned: Mean loss as such a share: before, and after each round that left units out; none
            without pruning.
        tree: The tree that its units are of.
    """

    circuit: UnitCircuit
    worst: tuple[float, ...]
    pruned: tuple[float, ...]
    tree: UnitTree

    @property
    def seen(self) -> Seen:
        """Return the data that decided it."""
        return self.circuit.seen

    __repr__ = one_line


def found_units(
    left: Left, sizes: Sequence[tuple[int, int]], tree: UnitTree, chains: Sequence[Chain]
) -> FoundUnits:
    """Make the result of the search from the (units, ranks) of each size."""
    pairs = zip(sizes, chains, strict=True)
    return FoundUnits(
        tuple(UnitCircuit(units, ranks, size, {}, left.seen) for size, (units, ranks) in pairs),
        tree,
    )


def keep_search(run: RunFolder, found: FoundUnits) -> None:
    """Write the tree, and the circuits of all sizes."""
    keep_tree(run, found.tree)
    numbers, ranks = zip(*(numbers_of(found.tree, each) for each in found.circuits), strict=True)
    counts = np.array([len(row) for row in numbers])
    more = {"gates": np.array(found.gates)} if found.gates else {}
    run.keep(SEARCH_FILE, counts=counts, units=np.concatenate(numbers),
             ranks=np.concatenate(ranks), **more)  # fmt: skip


def keep_repair(run: RunFolder, mended: MendedUnits) -> None:
    """Write the repaired or pruned circuit, if there is one."""
    if mended.worst or mended.pruned:
        numbers, ranks = numbers_of(mended.tree, mended.circuit)
        run.keep(REPAIR_FILE, units=numbers, ranks=ranks, worst=np.array(mended.worst),
                 pruned=np.array(mended.pruned))  # fmt: skip


def numbers_of(tree: UnitTree, circuit: UnitCircuit) -> tuple[np.ndarray, np.ndarray]:
    """Return units as numbers of the tree's layout, or -1 - place for leaves; and their ranks."""
    numbers = [-1 - unit.ranges[0][0] if unit.leaf else tree.layout.names[unit.name]
               for unit in circuit.units]  # fmt: skip
    return np.array(numbers, np.int64), np.array(circuit.ranks, np.float64)


def chain_of(tree: UnitTree, numbers: np.ndarray, ranks: np.ndarray, path: Path) -> Chain:
    """Return the units and ranks that a file says.

    Args:
        tree: The tree.
        numbers: Of the units, see `numbers_of`.
        ranks: Of the units.
        path: The file, for the message.

    Raises:
        CheckpointError: If they are no antichain of the tree.
    """
    try:
        units = tree.antichain(
            tree.inner(n) if n >= 0 else tree.leaf(-1 - n) for n in numbers.tolist()
        )
        if len(units) != len(ranks) or not np.isfinite(ranks).all():
            raise InputError("ranks", got="others", expected="a finite number for each unit")
    except InputError as error:
        raise CheckpointError(f"{path}, {error}", mend=_MEND) from error
    return units, tuple(ranks.tolist())
