import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from hagd_jax.report import circuit_table, verdict_table
from hagd_jax.report.words import node_name
from hagd_jax.tasks import Seen
from hagd_jax.units import Scores
from tests.report.made_up import make_claims, make_evidence, make_report

ALL = ("counterfactual", "mean", "zero", "resample")


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fits_a_terminal(count):
    report = make_report(ablations=ALL[:count])
    text = printed(verdict_table(report))
    assert max(map(len, text.splitlines())) <= 80
    for found in report.evidence:
        assert found.ablation in text
        assert f"{100 * found.alone.faithfulness.ratio_of_means.value:.1f}%" in text
        assert f"{100 * found.necessity.value:.1f}%" in text
        _, low, high = found.alone.kept
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    assert "…" not in text


def test_ticks_and_crosses():
    good, bad, few = (
        make_claims(["a"], "holds"), make_claims(["b"], "fails"),
        make_claims(["c"], "not enough data"),
    )  # fmt: skip
    report = make_report(evidence=[make_evidence(a) for a in "abc"], claims=(*good, *bad, *few))
    text = printed(verdict_table(report))
    (line,) = [line.split() for line in text.splitlines() if "Necessity  " in line and "✓" in line]
    assert line == ["Necessity", "✓", "holds", "✗", "fails", "?", "too", "little"]
    assert "✗ Rejected: 8.1% of the model" in " ".join(text.split())


def test_what_was_not_run_says_so():
    bare = make_evidence("mean", controls=(), chance=())
    untested = [dataclasses.replace(c, verdict="not enough data", untested="it fails")
                for c in make_claims(["mean"])]  # fmt: skip
    text = printed(verdict_table(make_report(evidence=[bare], claims=tuple(untested))))
    assert text.count("not run") == 2
    assert text.count("○ not tested") == 3 + 1  # and in the legend
    assert "○ not tested: settled otherwise" in " ".join(text.split())


def test_names_are_no_markup_and_no_control_codes():
    circuit = dataclasses.replace(make_report().circuit, model="[red]m[/red]\x1b[2J")
    report = make_report(circuit=circuit, evidence=[make_evidence("[b]x[/b]")])
    text = printed(verdict_table(report))
    assert "[red]m[/red]\\x1b[2J" in " ".join(text.split())
    assert "[b]x[/b]" in text
    assert "\x1b" not in text


def test_strongest_nodes():
    circuit = make_report().circuit
    text = printed(circuit_table(circuit, n=3))
    assert "Strongest 3 of 7 nodes" in text
    best = max(circuit.scores)
    first = next(line.split() for line in text.splitlines() if line.split()[:1] == ["1"])
    assert first[-1] == f"{best:.3g}"
    assert len([line for line in text.splitlines() if ".H" in line or ".N" in line]) == 3


def test_empty_circuit():
    assert "Strongest 0 of 0 nodes" in printed(circuit_table(make_report(size=0).circuit))
    assert "0.0% of the model" in printed(verdict_table(make_report(size=0)))


def test_members_are_listed_by_the_scores_of_a_runs_page():
    circuit = make_report().circuit
    other = np.zeros(circuit.space.nodes)
    other[circuit.places()] = np.arange(len(circuit), dtype=float)  # the last member is strongest
    scores = Scores(circuit.mask().like(other), Seen.nothing())
    lines = printed(circuit_table(circuit, n=1, scores=scores)).splitlines()
    (row,) = [line for line in lines if line.strip().startswith("1 ")]
    assert node_name(circuit.nodes[-1]) in row
