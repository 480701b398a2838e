"""What stands behind the claims: the numbers that a reader follows from claim to verdict."""

from __future__ import annotations

import dataclasses

import numpy as np

from hagd_jax.causal.claims import Runs, member_p_values
from hagd_jax.causal.metrics import mean_ratio
from hagd_jax.causal.trials import AnyCircuit, Trials


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was measured under one ablation; means over prompts.

    Attributes:
        ablation: Which.
        metric: Of model, empty circuit, circuit, and model without it.
        kl: KL from the model of the same.
        accuracy: Of the same.
        controls: KL of random circuits of the same size.
        others: Share of the metric lost by taking out as many other members.
        members: Names of the members left out one by one.
        without: KL of the circuit without each of them.
        p_values: Holm-corrected, of its being no further from the model than the circuit.
        subsets: (S, 2) metric of circuit and model, without the same random part.
        greedy: The same without parts chosen to tell them apart.
        sizes: (P, 4) members, faithfulness, KL and accuracy of the best members alone.
    """

    ablation: str
    metric: tuple[float, ...]
    kl: tuple[float, ...]
    accuracy: tuple[float, ...]
    controls: tuple[float, ...]
    others: tuple[float, ...]
    members: tuple[str, ...]
    without: tuple[float, ...]
    p_values: tuple[float, ...]
    subsets: tuple[tuple[float, float], ...]
    greedy: tuple[tuple[float, float], ...]
    sizes: tuple[tuple[float, float, float, float], ...]


def evidence(runs: Runs, circuit: AnyCircuit) -> Evidence:
    """Gather it.

    Args:
        runs: All runs under one ablation.
        circuit: The circuit, for the names of its members.

    Returns:
        The evidence.
    """
    trials, ends = runs.trials, slice(0, 4)
    named = dict(zip(circuit.places().tolist(), circuit.names(), strict=True))
    full, empty = runs.metric(Trials.FULL), runs.metric(Trials.EMPTY)

    def share(row: np.ndarray) -> float:
        return mean_ratio(row, full - empty, runs.scale)

    right = np.asarray(runs.found.correct, np.float64)
    rows = range(trials.sizes.start, trials.sizes.stop)
    sizes = tuple(
        (
            float(size),
            share(runs.metric(row) - empty),
            float(runs.kl(row).mean()),
            float(right[row].mean()),
        )
        for size, row in zip(trials.size_of, rows, strict=True)
    )
    pairs = np.stack([runs.metric(part).mean(1) for part in trials.subsets], 1)
    return Evidence(
        ablation=runs.ablation,
        metric=_means(runs.metric(ends)),
        kl=_means(runs.kl(ends)),
        accuracy=_means(right[ends]),
        controls=_means(runs.kl(trials.controls)),
        others=tuple(share(full - row) for row in runs.metric(trials.without_others)),
        members=tuple(named[place] for place in trials.tested.tolist()),
        without=_means(runs.kl(trials.without_member)),
        p_values=tuple(member_p_values(runs).tolist()),
        subsets=tuple((float(a), float(b)) for a, b in pairs),
        greedy=tuple((float(a), float(b)) for a, b in runs.greedy),
        sizes=sizes,
    )


def _means(rows: np.ndarray) -> tuple[float, ...]:
    return tuple(np.asarray(rows, np.float64).mean(1).tolist())
