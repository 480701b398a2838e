"""A claim about a circuit, and the runs that claims are read off."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import Behaviour
from hagd_jax.causal.metrics import Estimate
from hagd_jax.causal.trials import Trials

HOLDS, FAILS, UNKNOWN = "holds", "fails", "not enough data"
# How a claim without a verdict reads whose trials were not run: more prompts would not tell.
UNTESTED = "not tested"
# The claims that decide whether a circuit is accepted; the others are told beside them.
CORE = ("size", "sufficiency", "necessity", "minimality")
# The claim that decides, too, where the configuration asks for it.
ROBUST = "robustness to supersets"
# A distance from the model has changed if it moved by more than rounding does: by this much in
# nats, and by this share of what the empty circuit's is on average.
ROUNDING, ROUNDING_SHARE = 1e-6, 1e-5
# So many prompts must be informative: of fewer no signed-rank test reaches 0.05.
LEAST_INFORMATIVE = 5


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim is one statement about a circuit under one ablation.

    Attributes:
        name: Such as `sufficiency`.
        verdict: `holds`, `fails` or `not enough data`.
        effect: What was measured, with its interval where it has one.
        p_value: Of the data if the claim were false; for independence and additivity, if it were
            true. NaN where there is no test.
        ablation: What the ablated nodes were set to; empty where nothing was ablated.
        split: Which prompts.
        says: What that means, in a sentence.
        decides: Whether the circuit's acceptance depends on it.
        untested: Why its trials were not run, if they were not; the verdict then is
            `not enough data`, but more data would not help.
    """

    name: str
    verdict: str
    effect: Estimate
    p_value: float
    ablation: str
    split: str
    says: str
    decides: bool = False
    untested: str = ""

    @property
    def standing(self) -> str:
        """Return the verdict in words: `not tested` where the trials were not run."""
        return UNTESTED if self.untested else self.verdict

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for what is not a number."""
        record = dataclasses.asdict(self) | {"effect": self.effect._asdict()}
        return plain(record)


def plain(value: Any) -> Any:
    """Convert values to JSON: arrays become lists, and what is not a number becomes None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nothing() -> Estimate:
    """Return an estimate of NaNs for an effect that was not measured."""
    return Estimate(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs give the rows of a `Behaviour` their meaning, under one ablation on distinct prompts.

    Attributes:
        found: (K, N) of the trials that were run: all of them, or only the first.
        trials: What the rows are.
        members: How many members the circuit has; those tested may be fewer.
        alpha: Level of every test.
        ablation: Which.
        split: Which.
        seed: Of bootstraps and permutations.
        clusters: (N,) which prompts resemble each other; None if each stands for itself.
        decides: Whether core claims under this ablation decide.
        greedy: (S, 2) metric of circuit and model without the parts that tell them apart most.
        skipped: Why only the first trials were run, where that is so.
        robust: Whether robustness to supersets decides as core claims do.
        once: The same as `found` on the first draw of partners alone, if that averages several:
            random circuits, which are many, are run and compared on that draw.
    """

    found: Behaviour
    trials: Trials
    members: int
    alpha: float
    ablation: str
    split: str
    seed: int
    clusters: np.ndarray | None = None
    decides: bool = False
    greedy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    skipped: str = "only the circuit and its complement were run"
    robust: bool = False
    once: Behaviour | None = None

    __repr__ = one_line

    @property
    def single(self) -> Runs:
        """Return the runs on one draw of partners, on which random circuits are compared."""
        return self if self.once is None else dataclasses.replace(self, found=self.once, once=None)

    def metric(self, rows: Any) -> np.ndarray:
        """Return the task's metric of some rows."""
        return np.asarray(self.found.metric[rows], np.float64)

    def kl(self, rows: Any) -> np.ndarray:
        """Return the distances of some rows from the model."""
        return np.asarray(self.found.kl[rows], np.float64)

    def right(self, rows: Any) -> np.ndarray:
        """Return how often the answer of some rows was right."""
        return np.asarray(self.found.correct[rows], np.float64)

    def ran(self, rows: slice) -> bool:
        """Tell whether a group of trials was run; an empty group counts as run."""
        return rows.stop <= len(self.found.kl)

    @property
    def span(self) -> np.ndarray:
        """Return (N,) m(M) − m(∅)."""
        return self.metric(Trials.FULL) - self.metric(Trials.EMPTY)

    @property
    def scale(self) -> float:
        """Return the scale of the metric; a denominator far below it says nothing."""
        return float(np.abs(self.metric(slice(0, 2))).max())

    @property
    def empty(self) -> float:
        """Return the mean distance of the empty circuit, the unit of other distances."""
        return float(self.kl(Trials.EMPTY).mean())

    @property
    def rounding(self) -> float:
        """Return the largest change of a distance that can be rounding."""
        return max(ROUNDING, ROUNDING_SHARE * self.empty)

    @property
    def informative(self) -> int:
        """Count the prompts on which ablating everything moves the model's prediction."""
        return int((self.kl(Trials.EMPTY) > self.rounding).sum())

    @property
    def bootstrap(self) -> dict[str, Any]:
        """Return the options of every bootstrap interval."""
        return {"seed": self.seed, "clusters": self.clusters}

    def claim(self, name: str, good: bool | None, effect: Estimate, p: float, says: str) -> Claim:
        """Make a claim; `None` is no verdict."""
        verdict = UNKNOWN if good is None else HOLDS if good else FAILS
        decides = self.decides and (name in CORE or (name == ROBUST and self.robust))
        return Claim(name, verdict, effect, p, self.ablation, self.split, says, decides)

    def cut_short(
        self, name: str, good: bool | None, effect: Estimate, says: str, rest: str
    ) -> Claim:
        """Make a claim of which only the gates were measured, and not the rest of its trials.

        Args:
            name: Of the claim.
            good: What the gates say; they can reject it, or leave it open for lack of data.
            effect: What was measured.
            says: What that means, in a sentence; it may be empty.
            rest: What was not run.

        Returns:
            The claim, which reads `not tested` if its gates are passed.
        """
        if good is False:
            return self.claim(name, False, effect, math.nan, says)
        words = "; ".join(part for part in (says, f"{rest} not tested: {self.skipped}") if part)
        made = self.claim(name, None, effect, math.nan, words)
        return dataclasses.replace(made, untested=self.skipped) if good else made


def beats(good: bool | None, p: float, controls: int, alpha: float) -> bool | None:
    """Tell whether a circuit is good and better than controls; None with too few controls."""
    if good is not True:
        return good
    return p <= alpha if 1 / (1 + controls) <= alpha else None
