"""Pruning: units that a circuit does as well without are left out, until each one is needed."""

from __future__ import annotations

import dataclasses
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
from hagd_jax.units import Source, Unit, UnitTree

_Shares = Callable[[Sequence[Chain]], np.ndarray]
_Progress = Callable[[int, int], None]
# Circuits measured between two calls of `progress`.
_AT_ONCE = 8


class PrunedUnits(NamedTuple):
    """The result of pruning holds the circuit that is left, and what each of its units is worth.

    Attributes:
        circuit: The circuit; its units keep their ranks.
        worth: For each of its units the loss that leaving it out adds, as a share of the empty
            circuit's: the mean over the ablations.
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

    A round measures the circuit without each of its units in turn. Those worth less than
    `config.least` leave together: all of them, or the half that is worth least, and so on, until
    those that leave are together worth less than `config.least` each. Units that make up for each
    other are therefore not all left out.

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
    now, some = tree.antichain(circuit.units), prompts[: config.prompts]
    if not now:
        raise InputError("circuit", got="one without units", expected="at least one unit")
    inside = UnitRepairConfig(batch_size=config.batch_size, metric=config.metric)
    if config.ablations is not None:
        inside = dataclasses.replace(inside, ablations=config.ablations)
    spent, scale = 0, np.ones((len(inside.ablations), 1))

    def shares(chains: Sequence[Chain]) -> np.ndarray:
        nonlocal spent
        spent += len(chains)
        found = unit_losses(model, some, tree, chains, inside, dictionary=nodes, reference=prompts)
        return np.stack([found[name] for name in inside.ablations]) / scale

    ends = shares([(), now])
    scale = np.maximum(np.abs(ends[:, :1]), 1e-6)
    path, left = [float((ends / scale)[:, 1].mean())], now
    while True:
        worth = _worth(now, path[-1], shares, progress)
        left, loss = _less(now, worth, path[-1], shares, config.least)
        if len(left) == len(now):
            break
        now = left
        path.append(loss)
    ranks = dict(zip((unit.name for unit in circuit.units), circuit.ranks, strict=True))
    seen = circuit.seen | tree.seen | looked(model, prompts, nodes, inside.ablations)
    made = circuit._replace(
        units=now, ranks=tuple(ranks[unit.name] for unit in now), losses={}, seen=seen
    )
    return PrunedUnits(made, tuple(worth.tolist()), tuple(path), spent)


def _worth(units: Chain, loss: float, shares: _Shares, progress: _Progress) -> np.ndarray:
    """(K,) what leaving out each unit adds to the mean loss."""
    rows = []
    for first in range(0, len(units), _AT_ONCE):
        progress(first, len(units))
        some = units[first : first + _AT_ONCE]
        rows.append(shares([_without(units, (unit,)) for unit in some]).mean(0) - loss)
    progress(len(units), len(units))
    return np.concatenate(rows)


def _less(
    units: Chain, worth: np.ndarray, loss: float, shares: _Shares, least: float
) -> tuple[Chain, float]:
    """The circuit without as many units as are together worth less than `least` each; its loss."""
    few = min(int((worth < least).sum()), len(units) - 1)
    while few:
        out = [units[i] for i in np.argsort(worth, kind="stable")[:few]]
        left = _without(units, out)
        found = float(shares([left]).mean())
        if found - loss < least * few:
            return left, found
        few //= 2
    return units, loss


def _without(units: Chain, out: Sequence[Unit]) -> Chain:
    return tuple(unit for unit in units if unit not in out)
