"""Repair of circuits of units: merges, splits, swaps, additions and drops that measurably help."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import require_is
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.search.checks import require_run
from hagd_jax.search.objective import Target, loss, target_of
from hagd_jax.search.parts import looked
from hagd_jax.search.several import partners_of, replaced
from hagd_jax.search.unit_circuit import UnitCircuit, dictionary_of, mask_row, unit_losses
from hagd_jax.search.unit_config import UnitRepairConfig
from hagd_jax.search.unit_proposals import Chain, proposals
from hagd_jax.search.unit_sizes import limits_of
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Parts, Source, UnitTree


class RepairedUnits(NamedTuple):
    """The result of a repair holds the circuit, and what was measured on the way.

    Attributes:
        circuit: The circuit; units that it had before keep their ranks, others have the least.
        worst: Largest loss over the ablations, as a share of the empty circuit's: before, and after
            each round that found a better one.
        evaluations: Number of circuits measured; gradients are not counted.
        empty: Ablation → loss of the empty circuit.
    """

    circuit: UnitCircuit
    worst: tuple[float, ...]
    evaluations: int
    empty: dict[str, float]

    __repr__ = one_line


def repair_units(
    model: LanguageModel,
    prompts: Prompts,
    tree: UnitTree,
    circuit: UnitCircuit,
    config: UnitRepairConfig = UnitRepairConfig(),
    *,
    dictionary: Source | None = None,
) -> RepairedUnits:
    """Change units of a circuit while that lowers its worst loss, within the size asked for.

    The gradient of the loss at the circuit proposes changes (`proposals`); first-order effects
    mislead, so each is measured under every ablation, and the best is taken.

    Args:
        model: The model.
        prompts: Prompts to measure on: those that the search saw, not those that test it.
        tree: The tree of units.
        circuit: From `search_units`.
        config: How it is repaired.
        dictionary: As in `search_units`.

    Returns:
        A circuit of no higher cost than its size, whose worst loss is no higher. It has seen these
        prompts and ablations beside what it had seen before.

    Raises:
        InputError: If the circuit is none of this tree, or prompts or dictionary do not fit.

    Example:
        >>> from hagd_jax.tasks import Seen
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree = hagd.units.tree(case.model)
        >>> start = UnitCircuit(tree.antichain(["head 0.2"]), (1.0,), (2, 8), {}, Seen.nothing())
        >>> config = UnitRepairConfig(rounds=1, ablations=("mean",))
        >>> better = repair_units(case.model, case.prompts, tree, start, config)
        >>> better.worst[-1] <= better.worst[0], len(better.circuit.units) <= 2
        (True, True)
    """
    nodes = dictionary_of(model, tree, dictionary)
    require_run(model, prompts, config, UnitRepairConfig)
    require_is("circuit", circuit, UnitCircuit, mend="search_units returns some.")
    now = tree.antichain(circuit.units)
    (limit,) = limits_of([circuit.size], tree.space.nodes, config.leaf_weight)

    def measured(chains: Sequence[Chain]) -> dict[str, np.ndarray]:
        return unit_losses(model, prompts, tree, chains, config, dictionary=nodes)

    first = measured([(), now])
    empty = {name: float(row[0]) for name, row in first.items()}
    losses = {name: float(row[1]) for name, row in first.items()}
    worst, spent = [float(_worst(losses, empty))], 1
    slope_at = _slopes(model, prompts, nodes.bare(), config)
    for _ in range(config.rounds):
        slope = sum(slope_at(name, mask_row(tree, now)) / max(abs(empty[name]), 1e-6)
                    for name in _near_worst(losses, empty))  # fmt: skip
        tried = proposals(tree, now, np.asarray(slope), limit, config.proposals)
        if not tried:
            break
        found = measured(tried)
        spent += len(tried)
        each = _worst(found, empty)
        best = int(np.argmin(each))
        if not each[best] < worst[-1] * (1 - config.least):
            break
        now, losses = tried[best], {name: float(row[best]) for name, row in found.items()}
        worst.append(float(each[best]))
    ranks = dict(zip((unit.name for unit in circuit.units), circuit.ranks, strict=True))
    least = min(ranks.values(), default=0.0)
    seen = circuit.seen | tree.seen | looked(model, prompts, nodes, config.ablations)
    made = UnitCircuit(now, tuple(ranks.get(unit.name, least) for unit in now), circuit.size,
                       losses, seen)  # fmt: skip
    return RepairedUnits(made, tuple(worst), spent, empty)


def _worst(losses: dict, empty: dict[str, float]) -> np.ndarray:
    """The largest loss over ablations, each as a share of the empty circuit's."""
    return np.max([np.asarray(row) / max(empty[n], 1e-6) for n, row in losses.items()], axis=0)


def _near_worst(losses: dict[str, float], empty: dict[str, float]) -> list[str]:
    """Ablations whose loss is within a fifth of the worst, whose gradients propose."""
    share = {name: value / max(empty[name], 1e-6) for name, value in losses.items()}
    most = max(share.values())
    return [name for name, value in share.items() if value >= most - 0.2 * abs(most)]


def _slopes(
    model: LanguageModel, prompts: Prompts, parts: Parts, config: UnitRepairConfig
) -> Callable[[str, np.ndarray], np.ndarray]:
    """A function of an ablation and a circuit: the (N,) gradient of its loss over all prompts."""
    names = config.ablations
    target = target_of(
        model, prompts, config.batch_size, means=parts if "mean" in names else None
    )  # fmt: skip
    every = jnp.arange(len(prompts))
    drawn = None
    if "resample" in names:
        drawn = partners_of(model, prompts, 1).take(jnp.int32(0), every, model.mesh)

    def slope(name: str, row: np.ndarray) -> np.ndarray:
        pairs = drawn if name == "resample" else None
        own = jnp.asarray(row, jnp.float32)
        return np.asarray(_slope(model.bare(), parts, target, pairs, own, config.metric, name))

    return slope


@functools.partial(jax.jit, static_argnames=("weight", "ablation"))
def _slope(
    model: LanguageModel,
    parts: Parts,
    target: Target,
    drawn: tuple[jax.Array, jax.Array | None] | None,
    now: jax.Array,
    weight: float,
    ablation: str,
) -> jax.Array:
    """(N,) gradient of the loss under one ablation, where the mask is 0 or 1."""
    count = len(target.metric)
    batch = target.take(jnp.arange(count), model.mesh)
    which = jnp.zeros(count, jnp.int32)
    other = replaced(model, parts, batch, drawn, which, (ablation,))

    def of(row: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(row, (count, len(row)))
        return loss(model, parts, batch, other, rows, weight, target.scale())[0]

    return replicate(jax.grad(of)(now), model.mesh)
