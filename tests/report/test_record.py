import dataclasses

import numpy as np
import pytest

from hagd_jax.causal import Estimate
from hagd_jax.errors import InputError
from hagd_jax.report import claim, shortfalls, standing
from hagd_jax.report.record import findings
from hagd_jax.units import Nodes
from tests.report.made_up import NAN, make_report, make_verdict


def undefined(verdict):
    recovered = verdict.faithfulness._replace(ratio_of_means=Estimate(NAN, NAN, NAN))
    return dataclasses.replace(verdict, faithfulness=recovered)


def test_scores_of_another_model_are_refused(report):
    with pytest.raises(InputError, match=r"scores: got shapes \(2, 4\)"):
        dataclasses.replace(report, scores=Nodes(np.zeros((2, 4)), np.zeros((2, 40))))


def test_standing():
    good, bad = make_verdict(), make_verdict(gates={"accuracy": True, "kl": False})
    for verdicts, word in [
        ((), "untested"),
        ((good, good), "holds"),
        ((good, bad), "partly"),
        ((bad, bad), "fails"),
    ]:
        assert standing(make_report(verdicts=verdicts)) == word


def test_a_circuit_no_better_than_chance_does_not_hold():
    verdict = make_verdict()
    value = verdict.faithfulness.ratio_of_means.value
    assert verdict.beats_controls
    assert verdict.holds
    for controls in [(0.1, value), (value + 0.1,), (NAN, 0.1), ()]:
        assert not dataclasses.replace(verdict, controls=controls).beats_controls
        assert shortfalls(dataclasses.replace(verdict, controls=controls))
    assert not undefined(verdict).holds


@pytest.mark.parametrize("gates", [{}, {"accuracy": True}, {"accuracy": True, "kl": False}])
def test_absent_gates_count_as_failed(gates):
    verdict = make_verdict(gates=gates)
    assert not verdict.holds
    assert any("KL" in reason for reason in shortfalls(verdict))


def test_claim_is_a_sentence_with_the_numbers(report):
    first, second = (v.faithfulness.ratio_of_means.value for v in report.verdicts)
    assert claim(report) == (
        "7 of 86 nodes (8.1%) carry sums in small: with every other node ablated, what remains "
        f"of the behaviour is {100 * first:.0f}% (counterfactual), {100 * second:.0f}% (mean)."
    )


def test_claim_admits_failure():
    failed = make_verdict(gates={"accuracy": False, "kl": True})
    assert "do not, by themselves, carry" in claim(make_report(verdicts=(failed,)))
    assert claim(make_report(size=1, verdicts=())).endswith("nothing was measured.")
    assert "is not defined (mean)" in claim(
        make_report(verdicts=(undefined(make_verdict("mean")),))
    )


@pytest.mark.parametrize(
    ("size", "start"), [(0, "The empty circuit, 0 of 86"), (86, "All 86 nodes")]
)
def test_claim_of_extremes(size, start):
    assert claim(make_report(size=size)).startswith(start)


def test_findings_join_what_is_the_same(report):
    ((sentence, good),) = findings(report)
    assert good
    assert sentence.startswith("Under all 2 ablations")
    failed = make_verdict(gates={"accuracy": False, "kl": True})
    sentences = findings(dataclasses.replace(report, verdicts=(report.verdicts[1], failed)))
    assert [good for _, good in sentences] == [True, False]
    accuracy = failed.accuracy["circuit"].value
    assert f"accuracy is {100 * accuracy:.1f}%" in sentences[1][0]


def test_shortfall_counts_controls_that_do_as_well():
    verdict = dataclasses.replace(make_verdict(), controls=(2.0, 0.1, 3.0))
    assert shortfalls(verdict) == ["2 of 3 random circuits do as well"]


def test_a_model_that_cannot_do_the_task_is_told():
    from hagd_jax.causal.metrics import accuracy

    good = make_verdict()
    chance = accuracy(np.arange(64) % 2 == 0)
    unable = dataclasses.replace(good, accuracy=good.accuracy | {"model": chance})
    assert good.able
    assert good.holds
    assert not unable.able
    assert not unable.holds
    assert "little to find" in shortfalls(unable)[0]
