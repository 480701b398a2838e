"""What stands behind the claims: the numbers that a reader follows from claim to verdict."""

from __future__ import annotations

import dataclasses

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.claim import Runs
from hagd_jax.causal.claims import lost, members
from hagd_jax.causal.gates import Alone, alone
from hagd_jax.causal.metrics import Estimate, accuracy, mean_ratio
from hagd_jax.causal.trials import AnyCircuit, Trials


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence is what was measured under one ablation, as means over distinct prompts.

    The tuples are empty for trials that were not run.

    Attributes:
        ablation: Which.
        decides: Whether core claims under it decide.
        reference: Where the values that replace others come from, in a sentence.
        alone: What the circuit alone keeps, and which gates it passes.
        metric: Of model, empty circuit, circuit, and model without it.
        kl: KL from the model of the same, in nats.
        accuracy: Of the same, as means over prompts and over draws of partners, with
            Clopper–Pearson intervals.
        necessity: Share of the metric lost without the circuit.
        controls: KL of random circuits of the same size.
        chance: Faithfulness of the same.
        others: Share of the metric lost by taking out as many other members.
        members: Names of the members left out one by one.
        without: KL of the circuit without each of them.
        p_values: Of its being no further from the model than the circuit.
        standing: Whether each is `needed`, `idle` or `undecided`.
        subsets: (S, 2) metric of circuit and model, without the same random part.
        greedy: The same without parts chosen to tell them apart.
        sizes: (P, 4) members, faithfulness, KL and accuracy of the best members alone.
        supersets: KL of the circuit with a random part of the nodes outside it.
    """

    ablation: str
    decides: bool
    reference: str
    alone: Alone
    metric: tuple[float, ...]
    kl: tuple[float, ...]
    accuracy: tuple[Estimate, ...]
    necessity: Estimate
    controls: tuple[float, ...] = ()
    chance: tuple[float, ...] = ()
    others: tuple[float, ...] = ()
    members: tuple[str, ...] = ()
    without: tuple[float, ...] = ()
    p_values: tuple[float, ...] = ()
    standing: tuple[str, ...] = ()
    subsets: tuple[tuple[float, float], ...] = ()
    greedy: tuple[tuple[float, float], ...] = ()
    sizes: tuple[tuple[float, float, float, float], ...] = ()
    supersets: tuple[float, ...] = ()

    __repr__ = one_line


def evidence(runs: Runs, circuit: AnyCircuit, reference: str) -> Evidence:
    """Collect the evidence under one ablation.

    Args:
        runs: The runs under it.
        circuit: The circuit, for the names of its members.
        reference: Where reference values come from, in a sentence.

    Returns:
        The evidence.
    """
    ends = slice(0, 4)
    found = Evidence(
        ablation=runs.ablation,
        decides=runs.decides,
        reference=reference,
        alone=alone(runs),
        metric=_means(runs.metric(ends)),
        kl=_means(runs.kl(ends)),
        accuracy=tuple(accuracy(row) for row in runs.right(ends)),
        necessity=lost(runs),
    )
    trials = runs.trials
    if not runs.ran(trials.without_member):
        return found
    # Random circuits are run on the first draw of partners alone.
    single, empty = runs.single, runs.metric(Trials.EMPTY)
    full, nothing = single.metric(Trials.FULL), single.metric(Trials.EMPTY)

    def share(row: np.ndarray, of: Runs) -> float:
        return mean_ratio(row, of.span, of.scale)

    own = circuit.parts()
    named = dict(zip(own.first.tolist(), own.names, strict=True))
    tested = members(runs)
    core = dataclasses.replace(
        found,
        controls=_means(single.kl(trials.controls)),
        chance=tuple(share(row - nothing, single) for row in single.metric(trials.controls)),
        others=tuple(share(full - row, single) for row in single.metric(trials.without_others)),
        members=tuple(named[place] for place in trials.tested.tolist()),
        without=_means(runs.kl(trials.without_member)),
        p_values=tuple(tested.p_value.tolist()),
        standing=tested.standing,
    )
    if runs.ran(trials.supersets):
        core = dataclasses.replace(core, supersets=_means(runs.kl(trials.supersets)))
    if not runs.ran(trials.sizes):
        return core
    rows = range(trials.sizes.start, trials.sizes.stop)
    pairs = np.stack([runs.metric(part).mean(1) for part in trials.subsets], 1)
    sizes = tuple(
        (
            float(size),
            share(runs.metric(row) - empty, runs),
            float(runs.kl(row).mean()),
            float(runs.right(row).mean()),
        )
        for size, row in zip(trials.size_of, rows, strict=True)
    )
    return dataclasses.replace(
        core,
        subsets=tuple((float(a), float(b)) for a, b in pairs),
        greedy=tuple((float(a), float(b)) for a, b in runs.greedy),
        sizes=sizes,
    )


def _means(rows: np.ndarray) -> tuple[float, ...]:
    return tuple(np.asarray(rows, np.float64).mean(1).tolist()) if len(rows) else ()
