"""The page of a validation: every claim in its place, and nothing foreign that acts."""

import dataclasses

import numpy as np
import pytest

from hagd_jax.causal import Circuit, Claim, Estimate, Node, ValidationReport
from hagd_jax.causal.claim import CORE
from hagd_jax.report.validation_page import rows, validation_page
from hagd_jax.tasks import look
from tests.report.made_up import make_evidence
from tests.report.test_page import HOSTILE, URLS, Read, column, figures

NAN = float("nan")
NODES = tuple(Node("head", 0, i) for i in range(3))


def claim(name, verdict="holds", ablation="mean", **changes):
    made = Claim(name, verdict, Estimate(0.9, 0.8, 1.1), 0.02, ablation, "test", f"{name} seen",
                 name in CORE)  # fmt: skip
    return dataclasses.replace(made, **changes)


def evidence(ablation="mean", **changes):
    rng = np.random.default_rng(0)
    made = make_evidence(
        ablation,
        metric=(4.0, 0.5, 3.8, 0.6),
        kl=(0.0, 2.0, 0.1, 1.9),
        controls=tuple(rng.uniform(0.5, 2, 20)),
        others=(*rng.uniform(0, 0.3, 20), NAN),
        members=tuple(f"head 0.{i}" for i in range(3)),
        without=(0.5, 1.5, 0.1),
        p_values=(0.01, 0.001, 0.6),
        standing=("needed", "needed", "idle"),
        subsets=((3.0, 3.1), (1.0, 2.0)),
        greedy=((0.5, 3.5),),
        sizes=((1.0, 0.3, 1.5, 0.6), (3.0, 0.95, 0.1, 0.97)),
    )
    return dataclasses.replace(made, **changes)


def report(**changes):
    circuit = Circuit(NODES, (1.0, 2.0, 3.0), (1, 4, 5), model="small", task="t",
                      seen=look(ablation="zero"))  # fmt: skip
    claims = [claim(name, ablation=a) for a in ("mean", "counterfactual")
              for name in ("sufficiency", "necessity", "minimality", "completeness")]  # fmt: skip
    claims += [claim("size", ablation=""), claim("stability", ablation="")]
    made = ValidationReport(
        circuit, tuple(claims), 40, "test", 9, (evidence(), evidence("counterfactual"))
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def read():
    return Read(validation_page(report(), {"command": "hagd validate", "date": "today"}))


def test_the_verdict_comes_first(read):
    assert "33.3% of the model (3 of 9 nodes) carries t in small." in read.text
    assert "Accepted" in read.text
    failed = [claim("sufficiency", "fails"), claim("necessity"), claim("minimality")]
    text = Read(validation_page(report(claims=tuple(failed)))).text
    assert "does not, by itself, carry" in text
    assert "Rejected" in text
    assert "✗ Sufficiency under mean ablation fails: sufficiency seen." in text
    few = [claim("sufficiency", "not enough data")]
    text = Read(validation_page(report(claims=tuple(few)))).text
    assert "may carry" in text
    assert "Not enough data" in text


def test_every_claim_has_its_cell(read):
    cells = [attrs for tag, attrs in read.tags if tag == "td"]
    assert len(cells) == 10
    assert {cell["data-verdict"] for cell in cells} == {"holds"}
    assert [c["colspan"] for c in cells if "colspan" in c] == ["2", "2"]
    assert "✓ 90%" in read.text
    assert "80% to 110%; p = 0.020" in read.text
    assert "○ not tested: settled otherwise" in read.text
    bare = claim("minimality", "not enough data", effect=Estimate(NAN, NAN, NAN), untested="why")
    (row,) = rows(report(claims=(bare,)), ["mean"])
    assert (row.cells[0].mark, row.cells[0].value) == ("○", "not tested")
    assert "p: probability that a random circuit of its size is as close" in read.text
    # Of several of one kind the one that fails speaks; what was not asked is left empty.
    several = [claim("negative control"), claim("negative control", "fails", says="passed")]
    made = rows(report(claims=(*several, claim("sufficiency"))), ["mean", "zero"])
    assert [cell.verdict for cell in made[0].cells] == ["fails", ""]


def test_plots_show_what_was_measured(read):
    found = figures(read)
    assert set(found) == {
        "alone", "needed", "members", "parts", "size-faithfulness", "size-kl",
    }  # fmt: skip
    np.testing.assert_allclose(np.sort(column(found["alone"], "x")), np.sort(evidence().controls))
    # What is not defined is not drawn.
    assert len(column(found["needed"], "x")) == 20
    np.testing.assert_allclose(column(found["members"], "top"), [1.4, 0.4, 0.0])
    np.testing.assert_allclose(column(found["members"], "alpha"), [1, 1, 0.15])
    np.testing.assert_allclose(column(found["size-faithfulness"], "y"), [0.3, 0.95])


@pytest.mark.parametrize("ran", [True, False])
def test_the_page_names_failing_gates_and_random_circuits_only_if_they_were_run(ran):
    found = evidence() if ran else evidence(controls=(), chance=(), others=())
    passed = {"kl": True, "faithfulness": False, "accuracy": False, "spread": None}
    found = dataclasses.replace(found, alone=found.alone._replace(passed=passed))
    text = " ".join(Read(validation_page(report(evidence=(found,)))).text.split())
    plot = text[text.index("Is it enough?") : text.index("Is it needed?")]
    assert "passes the other gates, which this plot does not show" in plot
    assert "Under mean ablation it fails on mean faithfulness, accuracy; undecided is" in plot
    assert ("random circuit" in plot) == ran
    assert ("without others" in text) == ran


def test_a_page_without_evidence_has_no_plots():
    read = Read(validation_page(report(evidence=())))
    assert figures(read) == {}
    empty = evidence(
        members=(), without=(), p_values=(), standing=(), subsets=(), greedy=(), sizes=()
    )
    assert set(figures(Read(validation_page(report(evidence=(empty,)))))) == {"alone", "needed"}


def test_hostile_text_changes_no_tag():
    def page(word):
        written = word.replace("\ud800", "")
        circuit = dataclasses.replace(
            report().circuit, model=word, task=word, seen=look(ablation=word),
            config={written: [written]},
        )  # fmt: skip
        claims = [claim(word, ablation=word, says=word), claim("sufficiency", says=word)]
        seen = (evidence(word, members=(word,) * 3),)
        made = report(circuit=circuit, claims=tuple(claims), split=word, evidence=seen)
        return Read(validation_page(made, {word: word, "command": word}))

    attacked, calm = page(HOSTILE), page("x" * len(HOSTILE))
    shape = [(tag, sorted(attrs)) for tag, attrs in attacked.tags]
    assert shape == [(tag, sorted(attrs)) for tag, attrs in calm.tags]
    assert not [name for _, attrs in attacked.tags for name in attrs if name.startswith("on")]
    links = [value for _, attrs in attacked.tags for name, value in attrs.items() if name in URLS]
    assert set(links) <= {"data:,"}
    assert "\u202e" not in attacked.text
    assert len(attacked.scripts) == 3
