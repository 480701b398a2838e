"""Pruning: units that a circuit does as well without are left out, until each one is needed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Ablation
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run
from hagd_jax.search.parts import looked
from hagd_jax.search.unit_circuit import UnitCircuit, dictionary_of, unit_losses
from hagd_jax.search.unit_config import UnitPruneConfig, UnitRepairConfig
from hagd_jax.search.unit_proposals import Chain
from hagd_jax.search.unit_search import MEASURED
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Dictionary, Source, Unit, UnitTree

_Shares = Callable[[Sequence[Chain]], np.ndarray]
_Progress = Callable[[int, int], None]
# Circuits measured between two calls of `progress`.
_AT_ONCE = 16
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

    The circuit is measured without each of its units in turn. Those worth less than the least leave
    together: all of them, or the half that is worth least, and so on, until those that leave are
    together worth less than the least each. The least is a share, `config.least`, of what the
    circuit takes off the empty circuit's loss. Units that make up for each other are
    therefore not all left out. Then it is measured again without each of those worth less than four
    times the least, until each is worth enough. More prompts must agree: if those that left are
    worth more than the least each there, it ends with the last round in which they are not; if
    there is none, units worth less than the least are measured again on more prompts, and leave as
    these allow.

    Args:
        model: The model.
        prompts: Prompts to measure on, of which the first `config.prompts` are used, and the first
            256 at the end: those that the search saw, not those that test it. Means and partners
            are taken from all of them.
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
    units = tree.antichain(circuit.units)
    if not units:
        raise InputError("circuit", got="one without units", expected="at least one unit")
    bench = _Bench(model, prompts, tree, nodes, config)
    rounds = _rounds(units, bench, config, progress)
    # Few prompts choose what leaves; many must agree.
    if len(rounds[-1].units) < len(units) and min(len(prompts), MEASURED) > config.prompts:
        more = _Bench(model, prompts, tree, nodes, dataclasses.replace(config, prompts=MEASURED))
        rounds = _agreed(rounds, bench, more, config)
        bench.spent += more.spent
    kept = rounds[-1].units
    ranks = dict(zip((unit.name for unit in circuit.units), circuit.ranks, strict=True))
    seen = circuit.seen | tree.seen | looked(model, prompts, nodes, bench.how.ablations)
    made = circuit._replace(
        units=kept, ranks=tuple(ranks[unit.name] for unit in kept), losses={}, seen=seen
    )
    losses = tuple(each.loss for each in rounds)
    return PrunedUnits(made, rounds[-1].worth, losses, bench.spent)


class _Round(NamedTuple):
    """A circuit, its loss, and what its units are worth."""

    units: Chain
    loss: float
    worth: tuple[float, ...]


def _rounds(
    units: Chain, bench: _Bench, config: UnitPruneConfig, progress: _Progress
) -> list[_Round]:
    """The circuit, and what is left of it after each round."""
    loss, known = float(bench.shares([units])[0]), dict[Unit, float]()
    least, rounds = _least(config, loss), list[_Round]()
    while not rounds or len(units) < len(rounds[-1].units):
        near = tuple(unit for unit in units if known.get(unit, -np.inf) < _NEAR * least)
        if near:
            known |= dict(zip(near, bench.worth(units, near, loss, progress), strict=True))
        worth = tuple(known[unit] for unit in units)
        rounds.append(_Round(units, loss, worth))
        units, loss = _less(units, np.array(worth), loss, bench.shares, least)
    return rounds


def _agreed(
    rounds: list[_Round], bench: _Bench, more: _Bench, config: UnitPruneConfig
) -> list[_Round]:
    """Rounds up to the last one that more prompts agree to; of a first one as much as they do."""
    first = rounds[0]
    before, *after = more.shares([each.units for each in rounds])
    least = _least(config, before)
    for place in range(len(rounds) - 1, 0, -1):
        if after[place - 1] - before < least * (len(first.units) - len(rounds[place].units)):
            return rounds[: place + 1]
    # None of them does: units that few prompts let go are measured anew on more.
    cheap = [u for u, worth in zip(first.units, first.worth, strict=True) if worth < least]
    units, loss, known = first.units, before, dict(zip(first.units, first.worth, strict=True))
    while cheap:
        known |= dict(zip(cheap, more.worth(units, tuple(cheap), loss), strict=True))
        worth = np.array([known[unit] if unit in cheap else np.inf for unit in units])
        left, loss = _less(units, worth, loss, more.shares, least)
        if left == units:
            break
        units, cheap = left, [unit for unit in cheap if unit in left]
    if units == first.units:
        return [first]
    return [first, _Round(units, float(bench.shares([units])[0]), tuple(known[u] for u in units))]


def _least(config: UnitPruneConfig, loss: float) -> float:
    """What a unit must be worth in a circuit of some loss, which may have little to give away."""
    return config.least * max(1 - loss, 0.0)


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
        # Means over all prompts are summed once.
        known = {
            name: Ablation(name, prompts).knowing(model, some, nodes, config.batch_size)
            for name in how.ablations
        }
        self._losses = functools.partial(
            unit_losses, model, some, tree, config=how, dictionary=nodes, ablations=known
        )
        empty = self._losses([()])
        self._scale = {name: max(abs(float(empty[name][0])), 1e-6) for name in how.ablations}

    def shares(self, chains: Sequence[Chain]) -> np.ndarray:
        """(K,) losses of circuits."""
        self.spent += len(chains)
        found = self._losses(chains)
        return np.mean([found[name] / scale for name, scale in self._scale.items()], 0)

    def worth(
        self,
        units: Chain,
        some: Chain,
        loss: float,
        progress: _Progress = lambda done, total: None,
    ) -> list[float]:
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
