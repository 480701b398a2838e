"""What a report says in words: the same on every page and in every table."""

import dataclasses

import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.report.verdict_words import badge, findings, verdict_sentence
from hagd_jax.units import Nodes
from tests.report.made_up import make_claims, make_report


def test_scores_of_another_model_are_refused(report):
    with pytest.raises(InputError, match=r"scores: got shapes \(2, 4\)"):
        dataclasses.replace(report, scores=Nodes(np.zeros((2, 4)), np.zeros((2, 40))))


def changed(report, verdicts):
    """The report with other verdicts of its decisive claims, in turn."""
    said = report.validation
    turn = iter(verdicts)
    claims = tuple(
        dataclasses.replace(c, verdict=next(turn, "holds")) if c.decides else c for c in said.claims
    )
    return dataclasses.replace(said, claims=claims)


@pytest.mark.parametrize(
    ("verdicts", "word", "verb", "reason"),
    [
        ((), "Accepted", "carries", ""),
        (("not enough data",), "Not enough data", "may carry", ""),
        (("fails", "fails"), "Rejected", "does not, by itself, carry", ""),
        (("not enough data", "fails"), "Rejected", "is not a circuit of",
         ": the model does the same without it"),
        (("holds", "holds", "fails"), "Rejected", "is not a circuit of",
         ": some of its members could be left out"),
    ],
)  # fmt: skip
def test_a_verdict_has_one_meaning_everywhere(report, verdicts, word, verb, reason):
    said = changed(report, verdicts)
    assert badge(said)[2] == word
    assert said.verdict == word.lower()
    sentence = verdict_sentence(said.circuit, said, said.units)
    assert sentence == f"8.1% of the model (7 of 86 nodes) {verb} sums in small{reason}."
    assert said.headline == f"{word.lower()} on 64 test prompts under mean"


def test_nothing_that_decides_is_no_verdict():
    """Judged under nothing but what it was found with, however well."""
    said = make_report(ablations=("counterfactual",)).validation
    assert (said.verdict, said.decisive) == ("not enough data", ())
    assert "nothing on the test split can decide" in said.headline
    assert "test split" in said.headline
    assert findings(said)[0].words == "No claim was left that could decide."


def test_what_was_not_judged_says_so():
    bare = make_report(evidence=())
    assert badge(bare.validation)[2] == "Not tested"
    assert "is proposed to carry" in verdict_sentence(bare.circuit, None, bare.total)
    assert findings(None) == []


def test_findings_are_the_decisive_claims_and_what_was_set_aside(report):
    found = findings(changed(report, ("holds", "fails", "not enough data")))
    assert [f.mark for f in found] == ["✓", "✗", "?", "·"]
    assert found[0].words == "Sufficiency under mean ablation holds: sufficiency was seen."
    assert found[2].words.startswith("Minimality under mean ablation has not enough data:")
    bare = [dataclasses.replace(c, verdict="not enough data", untested="it fails")
            for c in report.validation.decisive]  # fmt: skip
    bare = findings(dataclasses.replace(report.validation, claims=tuple(bare)))
    assert [f.mark for f in bare] == ["○", "○", "○", "·"]
    assert bare[0].words.startswith("Sufficiency under mean ablation was not tested:")
    assert found[3].words.startswith("Set aside: ablation counterfactual")


@pytest.mark.parametrize(("size", "part"), [(0, "0.0%"), (86, "100.0%"), (1, "1.2%")])
def test_the_share_of_the_model_comes_first(size, part):
    made = make_report(size=size)
    sentence = verdict_sentence(made.circuit, made.validation, made.total)
    assert sentence.startswith(f"{part} of the model ({size} of 86 nodes)")


def test_only_core_claims_of_new_ablations_decide():
    assert [c.decides for c in make_claims(("counterfactual", "mean"))] == [False] * 3 + [True] * 3
