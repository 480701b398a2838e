"""One self-contained HTML page about two circuits that were compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from hagd_jax.report.compared import plan_of, words_of
from hagd_jax.report.html import render
from hagd_jax.report.words import percent, probability
from hagd_jax.transfer import Comparison
from hagd_jax.transfer.compare import OTHERS, PERMUTED, RANDOM, SHUFFLED

_MEANING = {
    OTHERS: "Circuits of other tasks in the second model: what any two circuits have in common.",
    RANDOM: "Random circuits of the second model, of the second circuit's kinds, sizes and layers; "
    "whole blocks stay what they are.",
    PERMUTED: "The second circuit's units in the second model with its weights permuted.",
    SHUFFLED: "The second circuit, in which signatures change places within a third of the depth.",
}


def transfer_page(
    found: Comparison,
    facts: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Render a comparison as one self-contained HTML page.

    Args:
        found: Of `transfer.compare`.
        facts: Name → value, shown as provenance; `command` is shown as code.
        config: How circuits were measured and matched, as JSON has it.

    Returns:
        The page; write it as UTF-8.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3", "head 1.2"])
        >>> "Who corresponds" in transfer_page(hagd.transfer.compare(own, own))
        True
    """
    match = found.match
    heads = [words_of(own) for own in (match.first, match.second)]
    claim = (f"The two circuits are {match.similarity:.2f} alike, of 1; "
             f"{percent(match.matched, 0)} of their units are matched.")  # fmt: skip
    return render(
        "transfer", title=f"{heads[0]} and {heads[1]}", claim=claim, heads=heads,
        structure=match.weight > 0, left_over=match.left_over(),
        plan=plan_of(match), rows=rows(found), partners=match.partners(), islands={}, facts=facts,
        config=json.dumps(config or {}, indent=2),
    )  # fmt: skip


def rows(found: Comparison) -> list[tuple[str, str, str, str]]:
    """List what the similarity is compared with: name, meaning, similarity, p-value.

    Args:
        found: The comparison.

    Returns:
        The two circuits first, then the nulls, then the ceiling.
    """
    made = [("the other circuit", "The two circuits.", f"{found.match.similarity:.2f}", "")]
    for name, values in found.nulls.items():
        if values:
            count = f"{len(values)} of them, the most similar {max(values):.2f}."
            made.append((name, f"{_MEANING.get(name, '')} {count}", f"{np.mean(values):.2f}",
                         probability(found.p_value(name))))  # fmt: skip
    if found.ceiling:
        made.append(("found twice", "Circuits of one task in one model: the most to expect.",
                     f"{np.mean(found.ceiling):.2f}", ""))  # fmt: skip
    if found.normalised is not None:
        made.append(("between both", "Other tasks count 0, and found twice counts 1.",
                     f"{found.normalised:.2f}", ""))  # fmt: skip
    return made
