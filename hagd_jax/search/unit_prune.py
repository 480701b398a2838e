"""Pruning: units that a circuit does as well without are left out, until each one is needed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run
from hagd_jax.search.parts import looked
from hagd_jax.search.unit_circuit import UnitCircuit, dictionary_of, unit_losses
from hagd_jax.search.unit_config import UnitPruneConfig, UnitRepairConfig
from hagd_jax.search.unit_proposals import Chain
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Dictionary, Source, Unit, UnitTree

_Shares = Callable[[Sequence[Chain]], np.ndarray]
_Progress = Callable[[int, int], None]
# Circuits measured between two calls of `progress`.
_AT_ONCE = 8
# Units worth so many times the least are not measured again when others have left.
_NEAR = 4


class PrunedUnits(NamedTuple):
    """The result of pruning holds the circuit that is left, and what each of its units is worth.

    Attributes:
        circuit: The circuit; its units keep their ranks.
        worth: For each of its units the loss that leaving it out adds, as a share of the empty
            circuit's: the mean over the ablations, when it was last measured.
        loss: Loss of the circuit as such a share: before, and after each round.
        evaluations: Number of circuits measured.
    """

    circuit: UnitCircuit
    worth: tuple[float, ...]
    loss: tuple[float, ...]
    evaluations: int

    __repr__ = one_line


def prune_units(
    model: LanguageModel,
    prompts: Prompts,
    tree: UnitTree,
    circuit: UnitCircuit,
    config: UnitPruneConfig = UnitPruneConfig(),
    *,
    dictionary: Source | None = None,
    progress: _Progress = lambda done, total: None,
) -> PrunedUnits:
    """Leave out the units of a circuit that add too little, until each is worth enough.

    The circuit is measured without each of its units in turn. Those worth less than `config.least`
    leave together: all of them, or the half that is worth least, and so on, until those that leave
    are together worth less than `config.least` each. Units that make up for each other are
    therefore not all left out. Then it is measured again without each of those worth less than four
    times the least, until each is worth enough.

    Args:
        model: The model.
        prompts: Prompts to measure on, of which the first `config.prompts` are used: those that the
            search saw, not those that test it. Means and partners are taken from all of them.
        tree: The tree of units.
        circuit: From `search_units` or `repair_units`.
        config: How it is pruned.
        dictionary: As in `search_units`.
        progress: Called with how many units were measured in a round, and how many there are.

    Returns:
        A circuit of some of the units, at least one. It has seen these prompts and ablations beside
        what it had seen before.

    Raises:
        InputError: If the circuit is none of this tree or empty, or prompts or dictionary do not
            fit.

    Example:
        >>> from hagd_jax.tasks import Seen
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree = hagd.units.tree(case.model)
        >>> units = tree.antichain(["head 0.0", "head 0.2", "neuron 0.1"])
        >>> start = UnitCircuit(units, (1.0, 2.0, 0.0), (3, 3), {}, Seen.nothing())
        >>> config = UnitPruneConfig(ablations=("mean",))
        >>> less = prune_units(case.model, case.prompts, tree, start, config)
        >>> [unit.name for unit in less.circuit.units]
        ['head 0.2']
    """
    nodes = dictionary_of(model, tree, dictionary)
    require_run(model, prompts, config, UnitPruneConfig)
    require_is("circuit", circuit, UnitCircuit, mend="search_units returns some.")
    now = tree.antichain(circuit.units)
    if not now:
        raise InputError("circuit", got="one without units", expected="at least one unit")
    bench = _Bench(model, prompts, tree, nodes, config)
    path, known = [float(bench.shares([now])[0])], dict[Unit, float]()
    while True:
        near = tuple(unit for unit in now if known.get(unit, 0.0) < _NEAR * config.least)
        known |= dict(zip(near, bench.worth(now, near, path[-1], progress), strict=True))
        worth = np.array([known[unit] for unit in now])
        left, loss = _less(now, worth, path[-1], bench.shares, config.least)
        if len(left) == len(now):
            break
        now = left
        path.append(loss)
    ranks = dict(zip((unit.name for unit in circuit.units), circuit.ranks, strict=True))
    seen = circuit.seen | tree.seen | looked(model, prompts, nodes, bench.how.ablations)
    made = circuit._replace(
        units=now, ranks=tuple(ranks[unit.name] for unit in now), losses={}, seen=seen
    )
    return PrunedUnits(made, tuple(worth.tolist()), tuple(path), bench.spent)


class _Bench:
    """Losses of circuits of units as shares of the empty circuit's, means over the ablations."""

    def __init__(
        self, model: LanguageModel, prompts: Prompts, tree: UnitTree, nodes: Dictionary,
        config: UnitPruneConfig,
    ):  # fmt: skip
        how = UnitRepairConfig(batch_size=config.batch_size, metric=config.metric)
        if config.ablations is not None:
            how = dataclasses.replace(how, ablations=config.ablations)
        self.how, self.spent, some = how, 0, prompts[: config.prompts]
        self._losses = functools.partial(
            unit_losses, model, some, tree, config=how, dictionary=nodes, reference=prompts
        )
        empty = self._losses([()])
        self._scale = {name: max(abs(float(empty[name][0])), 1e-6) for name in how.ablations}

    def shares(self, chains: Sequence[Chain]) -> np.ndarray:
        """(K,) losses of circuits."""
        self.spent += len(chains)
        found = self._losses(chains)
        return np.mean([found[name] / scale for name, scale in self._scale.items()], 0)

    def worth(self, units: Chain, some: Chain, loss: float, progress: _Progress) -> list[float]:
        """What leaving out each of some units adds to the loss."""
        found: list[float] = []
        while len(found) < len(some):
            progress(len(found), len(some))
            turn = some[len(found) : len(found) + _AT_ONCE]
            found += (self.shares([_without(units, (unit,)) for unit in turn]) - loss).tolist()
        progress(len(some), len(some))
        return found


def _less(
    units: Chain, worth: np.ndarray, loss: float, shares: _Shares, least: float
) -> tuple[Chain, float]:
    """The circuit without as many units as are together worth less than `least` each; its loss."""
    few = min(int((worth < least).sum()), len(units) - 1)
    while few:
        out = [units[i] for i in np.argsort(worth, kind="stable")[:few]]
        left = _without(units, out)
        found = float(shares([left])[0])
        if found - loss < least * few:
            return left, found
        few //= 2
    return units, loss


def _without(units: Chain, out: Sequence[Unit]) -> Chain:
    return tuple(unit for unit in units if unit not in out)
