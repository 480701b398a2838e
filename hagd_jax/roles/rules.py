"""The rules that name roles: conditions on the columns of a signature, and how often they err.

Definitions, in the order in which they are tried; the first that holds names the role.

Heads: `suppressor` attends to the answer and lowers its logit; `previous token`, `duplicate token`
and `induction` attend to the position before, to the query's token elsewhere, and to what followed
it; `positional` attends by positions alone, neither to the first one only nor to all alike;
`mover of the answer` attends, by content, from where the answer is read to the answer or to what
decides it, and raises the right logit; `first token` rests on the first position; `token finder`
attends to some tokens wherever they are; `averaging` attends to all alike, and that matters.

MLPs, their clusters and neurons: `token lookup` and `positional` write a function of the current
token, or of the position; `subject lookup` acts where the counterfactual differs, by more than the
current token, and is read by others; `writer of the answer` raises the right logit where the
answer is read.

Both: `inert` units change the metric of no prompt when they alone are ablated.

Thresholds were chosen on the tuning models of `experiments/judge/roles.py`, which are the `plain`
and `neox` styles of `testbeds.role_case` and the programs of `testbeds.PROGRAMS`. The counts are
theirs. The same script measures the error on models of other styles and programs, which nobody
looked at while choosing.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats

from hagd_jax.roles.signature import NAMES

UNNAMED = "unnamed"
_INF = float("inf")


class Within(NamedTuple):
    """A condition asks that a column lies from `least` to `most`."""

    column: str
    least: float
    most: float


def at_least(column: str, least: float) -> Within:
    """Ask for a value of a column or more.

    Example:
        >>> at_least("direct", 0.1)
        Within(column='direct', least=0.1, most=inf)
    """
    return Within(column, least, _INF)


def at_most(column: str, most: float) -> Within:
    """Ask for a value of a column or less.

    Example:
        >>> at_most("direct", 0.1)
        Within(column='direct', least=-inf, most=0.1)
    """
    return Within(column, -_INF, most)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule names a role where all of its conditions hold.

    Attributes:
        name: Of the rule.
        role: What it says.
        conditions: All must hold.
        fired: Units of the tuning models that it named.
        wrong: Those that it named wrongly, heads of weight-permuted models among them.
    """

    name: str
    role: str
    conditions: tuple[Within, ...]
    fired: int = 0
    wrong: int = 0

    @property
    def confidence(self) -> float:
        """Return the lower end of the 95% Clopper-Pearson interval of the share of right names."""
        right = self.fired - self.wrong
        return float(stats.beta.ppf(0.05, right, self.wrong + 1)) if right > 0 else 0.0

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Tell for each row of a signature table whether the rule holds.

        Args:
            values: (U, K) of `Signatures`.

        Returns:
            (U,) bool.
        """
        found = np.ones(len(values), bool)
        for column, least, most in self.conditions:
            own = values[:, NAMES.index(column)]
            found &= (own >= least) & (own <= most)
        return found


_HEAD = (at_least("attention", 1), at_most("mlp", 0))
_MLP = (at_most("attention", 0),)
_MOVES = (
    at_least("direct", 0.05),
    at_least("agreement", 0.6),
    at_least("to_logits", 0.5),
    at_least("at_read", 0.8),
)
_MATTERS = at_least("touched", 0.05)
_ELSEWHERE = tuple(
    at_most(name, 0.3) for name in ("reads_answer", "reads_distractor", "reads_changed")
)


def _rule(name: str, role: str, *conditions: Within, fired: int = 0, wrong: int = 0) -> Rule:
    return Rule(name, role, conditions, fired, wrong)


RULES: tuple[Rule, ...] = (
    _rule(
        "negative copy",
        "suppressor",
        *_HEAD,
        at_most("direct", -0.03),
        at_most("agreement", -0.6),
        at_most("copying", -0.4),
        at_least("reads_answer", 0.3),
        at_least("to_logits", 0.5),
        fired=5,
    ),
    _rule(
        "one back",
        "previous token",
        *_HEAD,
        at_least("previous", 0.8),
        fired=12,
    ),
    _rule(
        "after the same",
        "induction",
        *_HEAD,
        at_least("induction", 0.5),
        fired=4,
    ),
    _rule(
        "same elsewhere",
        "duplicate token",
        *_HEAD,
        at_least("duplicate", 0.5),
        fired=4,
    ),
    _rule(
        "often same elsewhere",
        "duplicate token",
        *_HEAD,
        at_least("duplicate", 0.25),
        _MATTERS,
        fired=3,
    ),
    _rule(
        "by place",
        "positional",
        *_HEAD,
        at_least("place", 0.85),
        at_most("first", 0.6),
        at_most("entropy", 0.9),
        at_least("necessity", 0.2),
        fired=11,
        wrong=2,
    ),
    _rule(
        "moves the answer",
        "mover of the answer",
        *_HEAD,
        *_MOVES,
        at_least("reads_answer", 0.3),
        at_least("copying", 0.4),
        fired=5,
    ),
    _rule(
        "moves what decides",
        "mover of the answer",
        *_HEAD,
        *_MOVES,
        at_least("reads_changed", 0.5),
        fired=4,
    ),
    _rule(
        "rests on the first",
        "first token",
        *_HEAD,
        at_least("first", 0.8),
        *_ELSEWHERE,
        fired=28,
    ),
    _rule(
        "by token",
        "token finder",
        *_HEAD,
        at_least("content", 0.4),
        at_most("place", 0.7),
        at_most("entropy", 0.8),
        _MATTERS,
        fired=5,
    ),
    _rule(
        "to all alike",
        "averaging",
        *_HEAD,
        at_least("entropy", 0.99),
        at_least("necessity", 0.6),
        fired=4,
    ),
    _rule(
        "of the token",
        "token lookup",
        *_MLP,
        at_least("on_token", 0.8),
        fired=8,
    ),
    _rule(
        "of the place",
        "positional",
        *_MLP,
        at_least("on_place", 0.8),
        fired=2,
    ),
    _rule(
        "at the subject",
        "subject lookup",
        *_MLP,
        at_least("at_changed", 0.7),
        at_most("to_logits", 0.3),
        _MATTERS,
        fired=5,
    ),
    _rule(
        "writes the answer",
        "writer of the answer",
        *_MLP,
        at_least("direct", 0.1),
        at_least("agreement", 0.6),
        at_least("to_logits", 0.6),
        at_least("at_read", 0.7),
        fired=17,
    ),
    _rule(
        "changes nothing",
        "inert",
        at_most("touched", 0.005),
        Within("ablated", -0.005, 0.005),
        Within("direct", -0.005, 0.005),
        fired=86,
    ),
)
ROLES = (*dict.fromkeys(rule.role for rule in RULES), UNNAMED)
