"""Pruning of edges between the units of a circuit: the weakest go while the gates hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, Wiring
from hagd_jax.errors import NoCircuitError, require_callable, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run
from hagd_jax.search.unit_edge_config import UnitEdgeConfig
from hagd_jax.search.unit_edge_runs import Bench, Measures
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import look
from hagd_jax.units import Frame, UnitEdges, frame_of, neurons, wired

Tell = Callable[[str], None]


def unit_edges(
    model: LanguageModel,
    prompts: Prompts,
    circuit: Circuit,
    config: UnitEdgeConfig = UnitEdgeConfig(),
    *,
    candidates: tuple[int, ...] | None = None,
    progress: Tell | None = None,
) -> Wiring:
    """Find few edges between the units of a circuit that alone keep the gates.

    It begins with all edges between the units, the embedding and the logits, and closes the weakest
    in growing batches while the gates hold under every ablation; where a batch breaks one, it is
    halved. The first round orders edges by their gradients, the others by path patching: each edge
    is closed alone and the effect measured. A last pass tries every edge that is left by itself.

    Gates, as the judge has them: KL from the model at most 30% of the empty circuit's, 85% of the
    model's accuracy, 70% to 130% of the metric on average, and 50% to 150% of it on 80% of the
    prompts. If the circuit with all edges misses one, edges are closed while it comes no more than
    `margin` further from the gate than that.

    Args:
        model: The model.
        prompts: Prompts to prune on: of the discover or select split.
        circuit: The units, of heads and neurons; see `Circuit.of_units`.
        config: How edges are pruned.
        candidates: Tokens among which the answer must win; the distractor alone if None.
        progress: Called with a sentence after each step.

    Returns:
        The wiring. Its `config` records the measures on these prompts before and after.

    Raises:
        InputError: If circuit or prompts do not fit the model, or it is a mixture of experts.
        NoCircuitError: If the circuit with all edges is no nearer to the model than the empty one.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree = hagd.units.tree(case.model)
        >>> names = ["attention 0", "mlp 0"]
        >>> circuit = Circuit.of_units(tree, names, model=case.model.name, task=case.name)
        >>> config = UnitEdgeConfig(ablations=("counterfactual",), batch_size=81, steps=(1.0,))
        >>> unit_edges(case.model, case.prompts, circuit, config).names()[1:]
        ('embed → attention 0 v', 'attention 0 → mlp 0', 'mlp 0 → logits')
    """
    require_run(model, prompts, config, UnitEdgeConfig)
    require_is("circuit", circuit, Circuit, mend="Make one with Circuit.of_units.")
    circuit.check_model(neurons(model))
    tell = progress or (lambda words: None)
    require_callable("progress", tell, "(sentence)")
    frame = frame_of(circuit.space, circuit.units, model.config.parallel_residual)
    bench = Bench(model, prompts, wired(model, frame), config, candidates)
    pruned = _pruned(bench, frame, tell)
    seen = look(prompts, ablation=config.ablations, model=model, dictionary=neurons(model))
    return Wiring.from_mask(
        circuit, UnitEdges(pruned.row), pruned.weights, parallel=frame.parallel,
        seen=seen | circuit.seen, seed=config.seed,
        config=dataclasses.asdict(config) | pruned.record,
    )  # fmt: skip


class _Pruned(NamedTuple):
    """What pruning came to: (E,) members, weights of the members, and what was measured."""

    row: np.ndarray
    weights: np.ndarray
    record: dict

    __repr__ = one_line


def _pruned(bench: Bench, frame: Frame, tell: Tell) -> _Pruned:
    row = np.ones(len(frame), bool)
    first = bench.measures([row])
    if not first.kl[0] < 1:
        raise NoCircuitError(
            "circuit", got=f"a KL of {first.kl[0]:.0%} of the empty circuit's with all edges",
            expected="less than 100%", mend="Find a circuit first: search.search_units.",
        )  # fmt: skip
    config, own = bench.config, float(first.strain[0])
    # Of a circuit that misses a gate, edges must cost little more.
    limit = 1 - config.margin if own <= 1 - config.margin else own * (1 + config.margin)
    pruner = Pruner(bench, frame, limit)
    tell(f"{len(frame):,} edges use up {own:.0%} of the gates")
    order = np.argsort(np.abs(bench.gradients()), kind="stable")
    row = pruner.swept(row, order, tell)
    for _ in range(config.rounds - 1):
        before = int(row.sum())
        ranked = order[row[order]][: config.exact]
        added = pruner.effect(row, ranked)
        row = pruner.swept(row, ranked[np.argsort(added, kind="stable")], tell)
        if row.sum() == before:
            break
    row = pruner.single(row, tell)
    members = np.flatnonzero(row)
    last = bench.measures([row, *(_closed(row, [place]) for place in members)])
    record = {"edges_at_first": len(frame), "limit": limit, "all_edges": _told(first),
              "kept_edges": _told(last), "gates_hold": bool(last.strain[0] <= 1)}  # fmt: skip
    return _Pruned(row, last.kl[1:] - last.kl[0], record)


def _told(found: Measures) -> dict[str, float]:
    """The measures of the first graph, by name."""
    return {name: float(column[0]) for name, column in found._asdict().items()}


class Pruner(NamedTuple):
    """A pruner closes edges of a mask while the strain stays within a limit.

    Attributes:
        bench: Where graphs are measured.
        frame: All edges.
        limit: The largest strain allowed.
    """

    bench: Bench
    frame: Frame
    limit: float

    __repr__ = one_line

    def holds(self, row: np.ndarray) -> bool:
        """Tell whether a mask is within the limit."""
        return bool(self.bench.measures([row]).strain[0] <= self.limit)

    def effect(self, row: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Measure the strain with each of some edges closed alone."""
        found = self.bench.measures([_closed(row, [place]) for place in places])
        # Gates that are not touched tie: then the distance from the model decides.
        return found.strain + 1e-3 * found.kl

    def swept(self, row: np.ndarray, order: np.ndarray, tell: Tell) -> np.ndarray:
        """Close edges in an order: batches double while the limit holds, and halve where not.

        An edge that cannot go by itself stays, and the next ones are tried.
        """
        waiting, size = [int(place) for place in order if row[place]], max(1, len(order) // 8)
        while waiting:
            batch = waiting[:size]
            tried = _closed(row, batch)
            if self.holds(tried):
                row, waiting, size = tried, waiting[len(batch) :], 2 * size
                # What leads nowhere can go at once.
                row = self.led(row)
                waiting = [place for place in waiting if row[place]]
                tell(f"{int(row.sum()):,} edges left")
            elif len(batch) == 1:
                waiting = waiting[1:]
            else:
                size = max(1, len(batch) // 2)
        return row

    def single(self, row: np.ndarray, tell: Tell) -> np.ndarray:
        """Close edges one at a time, the one that costs least first, until none can go."""
        while row.any():
            places = np.flatnonzero(row)
            cost = self.effect(row, places)
            able = places[np.argsort(cost, kind="stable")]
            able = able[np.sort(cost) <= self.limit]
            gone = next((place for place in able if self.holds(_closed(row, [place]))), None)
            if gone is None:
                break
            row = self.led(_closed(row, [gone]))
            tell(f"{int(row.sum()):,} edges left")
        return row

    def led(self, row: np.ndarray) -> np.ndarray:
        """Close edges into units from which no path leads to the logits, if the limit allows."""
        row, ends = row.copy(), self.frame.ends
        logits = len(self.frame.units) + 1
        tried = row.copy()
        while True:
            read = {logits, *ends[tried, 0].tolist()}
            dead = tried & ~np.isin(ends[:, 1], sorted(read))
            if not dead.any():
                break
            tried &= ~dead
        return tried if (tried == row).all() or self.holds(tried) else row


def _closed(row: np.ndarray, places: Iterable[int | np.integer]) -> np.ndarray:
    changed = row.copy()
    changed[np.array(list(places), int)] = False
    return changed
