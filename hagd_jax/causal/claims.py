"""The claims that decide: is it a part, is it enough, is it needed, is nothing idle?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.claim import (
    LEAST_INFORMATIVE,
    Claim,
    Runs,
    beats,
    nothing,
)
from hagd_jax.causal.gates import NECESSITY_GATE, alone, in_words, share, within, worst
from hagd_jax.causal.metrics import (
    Estimate,
    accuracy,
    mean_ratio,
    permutation_p,
    ratio_of_means,
)
from hagd_jax.causal.statistics import below, holm, worsens
from hagd_jax.causal.trials import Trials

# A circuit of a larger share of the model than this is the model without some of it: its
# complement has to have half as many units as it has.
MOST = 2 / 3
# A member counts if leaving it out costs so much of what ablating everything costs: a thousandth,
# or in circuits of more than a hundred members a tenth of an equal share.
MEMBER_SHARE, EQUAL_SHARE = 0.001, 0.1
# A member that never did anything is idle if there were so many prompts that one which matters on
# this share of them would have shown.
RARE = 0.1
NEEDED, IDLE, UNDECIDED = "needed", "idle", "undecided"


def size(
    members: int,
    units: int,
    split: str,
    *,
    decides: bool,
    parts: int | None = None,
    what: str = "nodes",
) -> Claim:
    """Test that the circuit is a proper part: at most two thirds of the model at its finest.

    Args:
        members: Nodes or edges of the circuit.
        units: Nodes or edges of the model.
        split: Of the report.
        decides: Whether any claim decides.
        parts: Units of the circuit, where some hold several nodes.
        what: What is counted: `nodes`, `edges`, or `edges between its units`.

    Returns:
        The claim; its effect is the circuit's share of the model.
    """
    part = members / max(units, 1)
    counted = f"{members:,} of {units:,} {what}"
    if parts is not None and parts < members:
        own = "1 unit holds" if parts == 1 else f"{parts:,} units hold"
        counted = f"its {own} {members:,} of {units:,} nodes"
    says = (
        f"it is {part:.1%} of the model: {counted}, and "
        f"{units - members:,} are outside it (gate {MOST:.0%})"
    )
    verdict = "holds" if part <= MOST else "fails"
    return Claim("size", verdict, Estimate(part, math.nan, math.nan), math.nan, "", split, says,
                 decides)  # fmt: skip


def sufficiency(runs: Runs) -> Claim:
    """Test that the circuit alone behaves as the model, and random circuits of its size do not."""
    found = alone(runs)
    effect, says = found.faithfulness.ratio_of_means, in_words(found, runs)
    if found.good is False or not runs.ran(runs.trials.controls):
        return runs.cut_short("sufficiency", found.good, effect, says, "random circuits")
    # By the distance from the model: a control that overshoots the metric is not faithful.
    single = runs.single
    controls = -single.kl(runs.trials.controls).mean(1)
    p = permutation_p(-float(single.kl(Trials.CIRCUIT).mean()), controls)
    good = beats(found.good, p, len(controls), runs.alpha)
    return runs.claim("sufficiency", good, effect, p, says)


def necessity(runs: Runs) -> Claim:
    """Test that the model loses the behaviour without the circuit, but not without other nodes."""
    effect = lost(runs)
    good = worst([within(effect, NECESSITY_GATE), _informative(runs)])
    says = f"ablating it costs {share(effect)} of the metric (gate {NECESSITY_GATE:.0%})"
    if good is False or not runs.ran(runs.trials.without_others):
        return runs.cut_short("necessity", good, effect, says, "random other members")
    single = runs.single
    own, *others = (
        mean_ratio(single.metric(Trials.FULL) - row, single.span, single.scale)
        for rows in (slice(Trials.COMPLEMENT, Trials.COMPLEMENT + 1), runs.trials.without_others)
        for row in single.metric(rows)
    )
    p = permutation_p(own, np.array(others))
    return runs.claim("necessity", beats(good, p, len(others), runs.alpha), effect, p, says)


def lost(runs: Runs) -> Estimate:
    """Compute (m(M) − m(M∖C)) / (m(M) − m(∅)), the share of the metric lost without the circuit."""
    gone = runs.metric(Trials.FULL) - runs.metric(Trials.COMPLEMENT)
    return ratio_of_means(gone, runs.span, scale=runs.scale, **runs.bootstrap)


class Members(NamedTuple):
    """Each entry is the result of leaving out one member.

    Attributes:
        effect: KL added on average, as a share of the empty circuit's.
        p_value: Of "the circuit is no further from the model without it", not corrected.
        standing: `needed`, `idle` or `undecided`.
    """

    effect: np.ndarray
    p_value: np.ndarray
    standing: tuple[str, ...]

    __repr__ = one_line


def members(runs: Runs) -> Members:
    """Tell which members are needed, which are idle, and which the prompts leave undecided.

    A member is needed if the circuit is further from the model without it, by a signed-rank test
    at α and by the least share that counts (`least_share`). That all of them are needed is then
    claimed at α, too: a union of nulls is rejected only if each one is.

    It is idle if what it adds is less than that share, by a t-test with Holm's correction, since
    one idle member is enough to reject a circuit. If leaving it out changed nothing on any prompt,
    it is idle only if the prompts on which ablation changes anything are so many that a member
    which matters on a tenth of them would have shown, with the same correction.

    Args:
        runs: Under one ablation, with members left out.

    Returns:
        Their effects, p-values and standings.
    """
    base = runs.kl(Trials.CIRCUIT)
    added = runs.kl(runs.trials.without_member) - base
    bound = least_share(runs.members)
    if not runs.empty > runs.rounding:
        blank = np.full(len(added), math.nan)
        return Members(blank, np.ones(len(added)), (UNDECIDED,) * len(added))
    effect = added.mean(1) / runs.empty
    p_values = np.array([worsens(row, 0 * row, least=runs.rounding) for row in added])
    idle = holm([_idle(row, bound * runs.empty, runs) for row in added])
    standing = tuple(
        NEEDED if e >= bound and p <= runs.alpha else
        IDLE if e < bound and q <= runs.alpha else UNDECIDED
        for e, p, q in zip(effect, p_values, idle, strict=True)
    )  # fmt: skip
    return Members(effect, p_values, standing)


def least_share(members: int) -> float:
    """Return the least share of the empty circuit's KL that a needed member adds.

    Example:
        >>> least_share(5), least_share(1000)
        (0.001, 0.0001)
    """
    return min(MEMBER_SHARE, EQUAL_SHARE / max(members, 1))


def minimality(runs: Runs) -> Claim:
    """Test that every member is needed: without it the circuit is further from the model."""
    if not runs.ran(runs.trials.without_member):
        return runs.cut_short("minimality", True, nothing(), "", "members")
    found = members(runs)
    tested = len(found.standing)
    if not tested:
        return runs.claim("minimality", None, nothing(), math.nan, "it has no members")
    count = {word: found.standing.count(word) for word in (NEEDED, IDLE, UNDECIDED)}
    effect = Estimate(count[IDLE] / tested, math.nan, math.nan)
    if tested < runs.members:
        effect = accuracy(np.array([word == IDLE for word in found.standing]))
    says = (
        f"of {tested} members tested of {runs.members:,}, {count[NEEDED]} are needed, "
        f"{count[IDLE]} could be left out, and {count[UNDECIDED]} are undecided on these prompts; "
        "a member is needed if leaving it out adds at least "
        f"{100 * least_share(runs.members):.2g}% of the empty circuit's KL"
    )
    good = False if count[IDLE] else True if count[NEEDED] == tested else None
    return runs.claim("minimality", good, effect, float(found.p_value.max()), says)


def _idle(added: np.ndarray, bound: float, runs: Runs) -> float:
    """The p-value of "leaving this member out adds as much as counts, or more"."""
    changed = int((np.abs(added) > runs.rounding).sum())
    if changed >= LEAST_INFORMATIVE:
        return below(added, bound)
    return (1 - RARE) ** runs.informative if not changed else 1.0


def _informative(runs: Runs) -> bool | None:
    """True, or None if ablation changes too few prompts."""
    return True if runs.informative >= LEAST_INFORMATIVE else None


# Of each ablation; `size` is of none.
TESTS = (sufficiency, necessity, minimality)
