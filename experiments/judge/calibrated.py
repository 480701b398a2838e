"""Are the judge's p-values and intervals calibrated? A test on simulated circuits.

    python -m experiments.judge.calibrated

Takes some four minutes on two CPU cores. Expected: if a claim is false by construction, p-values
are uniform (Kolmogorov–Smirnov over 1,000 circuits, p > 0.01) and at most 5% to 6.5% of them are
below 0.05; 95% intervals cover the true value in 93% to 97% of 1,000 simulations, Clopper–Pearson
intervals in 95% or more, since they are exact for the worst case. Writes
results/judge_calibrated.json.

A simulated circuit is a set of numbers per prompt, drawn so that the claim is false: its distance
is distributed like that of random circuits, a member changes nothing on average, or another task
loses as much. Distributions are skewed (gamma), like real distances. Discrete p-values get a
uniform jitter of one step, because a test for uniformity needs a continuous distribution.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.causal.metrics import accuracy, permutation_p, ratio_of_means
from hagd_jax.causal.statistics import equivalence, holm, independence_p, stability, worsens

PROMPTS, CONTROLS = 64, 99
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for calibrating p-values and intervals on simulated circuits.

    Attributes:
        circuits: Simulated circuits of each kind; more circuits give more precise rates.
    """

    circuits: int = 1000


def main(config: Config) -> None:
    """Simulate each kind of p-value, error rate and interval, and record the results."""
    began, rows = time.monotonic(), []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)

    for name, (draw, step) in NULLS.items():
        rng = np.random.default_rng(0)
        p = np.array([draw(rng) for _ in range(config.circuits)])
        smooth = p - rng.random(len(p)) * step
        found: Any = stats.kstest(smooth, "uniform")
        add({"what": name, "kind": "p-value", "ks_p": round(float(found.pvalue), 4),
             "below_0.05": float((p <= 0.05).mean())})  # fmt: skip
    for kind, column, draws in (
        ("error", "below_0.05", FAMILIES),
        ("interval", "covers", INTERVALS),
    ):
        for name, draw in draws.items():
            rng = np.random.default_rng(0)
            share = np.mean([draw(rng) for _ in range(config.circuits)])
            add({"what": name, "kind": kind, column: float(share)})
    record(
        config.results / "judge_calibrated.json", rows, seconds=time.monotonic() - began, seed=0,
        circuits=config.circuits, prompts=PROMPTS, packages=("scipy", "numpy"),
    )  # fmt: skip


def sufficiency(rng: Rng) -> float:
    """Return the p-value of sufficiency for a circuit as distant as random circuits."""
    distance = rng.gamma(2, size=(1 + CONTROLS, PROMPTS)).mean(1)
    return permutation_p(-distance[0], -distance[1:])


def necessity(rng: Rng) -> float:
    """Return the p-value of necessity if removing random nodes costs as much as the circuit."""
    lost = rng.normal(1, 1, (1 + CONTROLS, PROMPTS)).mean(1)
    return permutation_p(lost[0], lost[1:])


def minimality(rng: Rng) -> float:
    """Return the p-value of minimality if removing a member helps as often as it hurts."""
    base, change = rng.gamma(2, size=PROMPTS), rng.laplace(size=PROMPTS)
    return worsens(base + change, base)


def independence(rng: Rng) -> float:
    """Return the p-value of independence if the complement is independent of the model."""
    return independence_p(rng.gamma(2, size=PROMPTS), rng.normal(size=PROMPTS), draws=CONTROLS,
                          seed=int(rng.integers(1 << 30)))  # fmt: skip


def specificity(rng: Rng) -> float:
    """Return the p-value of specificity if another task loses as much as the circuit's own."""
    found: Any = stats.mannwhitneyu(*rng.gamma(2, size=(2, PROMPTS)), alternative="greater")
    return float(found.pvalue)


def stable(rng: Rng) -> float:
    """Return the p-value of stability for random sets of one size."""
    null = [stability([set(rng.choice(400, 40, replace=False)) for _ in range(3)]).value
            for _ in range(1 + CONTROLS)]  # fmt: skip
    return permutation_p(null[0], np.array(null[1:]))


STEP = 1 / (1 + CONTROLS)
NULLS: dict[str, tuple[Callable[[Rng], float], float]] = {
    "sufficiency": (sufficiency, STEP),
    "necessity": (necessity, STEP),
    "minimality, one member": (minimality, 0.0),
    "independence": (independence, STEP),
    "specificity": (specificity, 0.0),
    "stability": (stable, STEP),
}


def minimality_of_many(rng: Rng) -> bool:
    """Return whether any of 20 idle members is called needed (Holm, level 5%)."""
    return bool((holm([minimality(rng) for _ in range(20)]) <= 0.05).any())


def equivalence_at_the_edge(rng: Rng) -> bool:
    """Return whether a circuit at the margin, which wins on 70% of prompts, is accepted."""
    wins = np.where(rng.random(PROMPTS) < 0.7, 1.0, -1.0)
    return equivalence(wins, np.zeros(PROMPTS)).p_value <= 0.05


FAMILIES: dict[str, Callable[[Rng], bool]] = {
    "minimality, any of 20 members": minimality_of_many,
    "equivalence, at its margin": equivalence_at_the_edge,
}


def faithfulness_interval(prompts: int) -> Callable[[Rng], bool]:
    """Return a simulation of whether the interval of a ratio of means covers the true 0.8."""

    def draw(rng: Rng) -> bool:
        span = rng.gamma(4, 1, prompts)
        kept = span * 0.8 + rng.normal(0, 1, prompts)
        found = ratio_of_means(kept, span, seed=int(rng.integers(1 << 30)))
        return found.low <= 0.8 <= found.high

    return draw


def accuracy_interval(rng: Rng) -> bool:
    """Return whether the interval of an accuracy covers the true 0.9."""
    found = accuracy(rng.random(PROMPTS) < 0.9)
    return found.low <= 0.9 <= found.high


def wins_interval(rng: Rng) -> bool:
    """Return whether the interval of the share of wins covers the true 0.5."""
    found = equivalence(rng.normal(size=PROMPTS), np.zeros(PROMPTS)).wins
    return found.low <= 0.5 <= found.high


INTERVALS: dict[str, Callable[[Rng], bool]] = {
    "faithfulness, 32 prompts": faithfulness_interval(32),
    "faithfulness, 64 prompts": faithfulness_interval(64),
    "faithfulness, 256 prompts": faithfulness_interval(256),
    "accuracy (exact)": accuracy_interval,
    "wins (exact)": wins_interval,
}


if __name__ == "__main__":
    run(main, Config, __doc__)
