import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console

from hagd_jax.causal import About, Circuit, Node
from hagd_jax.causal.circuit_text import share, shown_names
from hagd_jax.report import circuit_table, verdict_table
from hagd_jax.report.words import counted, node_name, number
from hagd_jax.roles import ROLES
from hagd_jax.tasks import Seen
from hagd_jax.units import Scores, Space
from tests.causal.test_circuit_text import large
from tests.report.made_up import (
    MIXED,
    SPACE,
    make_claims,
    make_evidence,
    make_report,
    make_validation,
)

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


def test_units_are_listed_layer_by_layer_with_their_nodes():
    lines = printed(circuit_table(MIXED, n=9)).splitlines()
    assert lines[0].strip() == f"Strongest 5 of 5 units with {MIXED.leaves} of 32 nodes"
    rows = [line.split() for line in lines if re.match(r"\s+\d", line)]
    assert rows == [
        ["4", "0", "to", "1", "layers", "0-1", "band", "of", "layers", "16", "2"],
        ["1", "2", "cluster", "2.0", "cluster", "of", "neurons", "3", "5"],
        ["2", "head", "2.0", "head", "1", "4"], ["3", "neuron", "2.5", "neuron", "1", "3"],
        ["5", "3", "mlp", "3", "MLP", "6", "1"],
    ]  # fmt: skip


def test_a_neuron_of_a_mixture_is_named_within_its_expert_beside_larger_units():
    mixed = dataclasses.replace(MIXED, per_expert=(0, 3, 3, 3))
    assert "neuron L2.E1.N2" in printed(circuit_table(mixed, n=9))


def test_a_large_circuit_is_cut_with_a_sentence_for_the_rest():
    text = printed(circuit_table(MIXED, n=2))
    assert "Strongest 2 of 5 units" in text
    assert "3 more units with 23 nodes of layers 0 to 3 are not shown" in " ".join(text.split())
    circuit = make_report().circuit
    text = " ".join(printed(circuit_table(circuit, n=len(circuit) - 1)).split())
    assert re.search(r"1 more node of layer \d+ is not shown", text)


@pytest.mark.parametrize("height", [24, 40])
def test_a_circuit_fits_the_terminal(monkeypatch, height):
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("COLUMNS", "80")
    nodes = tuple(Node("neuron", layer, index) for layer in range(5) for index in range(40))
    circuit = Circuit(nodes, tuple(range(200)), Space(5, 1, 40), model="m", task="t")
    lines = printed(circuit_table(circuit)).splitlines()
    assert height - 4 <= len(lines) <= height
    assert "Strongest" in lines[0]
    assert "of layers 0 to 4 are not shown" in " ".join(" ".join(lines).split())


def test_what_a_unit_costs_is_shown_where_it_is_known():
    report = make_report(space=tuple(SPACE), circuit=MIXED)
    names = tuple(unit.name for unit in MIXED.units)
    own = dataclasses.replace(
        report.validation, evidence=(make_evidence("mean", members=names, kl=(0.0, 2.0, 0.5, 2.0),
                                                   without=(0.5, 1.5, 0.5, 0.25, 0.5)),),
    )  # fmt: skip
    text = printed(circuit_table(MIXED, n=9, found=own))
    assert "KL added" in text
    cost = dict(zip(names, ("0.0%", "50.0%", "0.0%", "\N{MINUS SIGN}12.5%", "0.0%"), strict=True))
    for name, told in cost.items():
        (line,) = [line for line in text.splitlines() if name in line]
        assert line.split()[-1] == told


def test_sentences_count_units_and_nodes():
    assert counted(MIXED, 32) == "5 units with 27 of 32 nodes"
    assert counted(MIXED.opened("layers 0-1"), 32) == "8 units with 27 of 32 nodes"
    plain = make_report().circuit
    assert counted(plain, 99) == f"{len(plain)} of 99 nodes"
    report = make_report(space=tuple(SPACE), circuit=MIXED)
    text = " ".join(printed(verdict_table(report)).split())
    assert f"{27 / 32:.1%} of the model (5 units with 27 of 32 nodes)" in text


def test_what_is_known_of_64_units_fits_100_columns():
    circuit, *_ = large()
    roles = max(ROLES, key=len), "unnamed", "inert"
    rows = [About(roles[i % 3], -1.234 * (i % 4), [None, 0, 12][i % 3]) for i in range(64)]
    circuit = circuit.described(rows)
    names = tuple(unit.name for unit in circuit.units)
    evidence = make_evidence("mean", members=names, kl=(0.0, 2.0, 0.5, 2.0), without=(0.1,) * 64)
    text = printed(circuit_table(circuit, n=64, found=make_validation(circuit, [evidence])), 100)
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert "…" not in text
    heads = ["layer", "unit", "nodes", "score", "role", "necessity", "radius", "KL", "added"]
    assert lines[2].split() == heads
    for name, row in zip(shown_names(circuit), rows, strict=True):
        (line,) = [line for line in lines if f" {name} " in line]
        shown = line.split(f" {name} ")[1].split()
        radius = "-" if row.radius is None else str(row.radius)
        assert " ".join(shown[2:-1]) == f"{row.role} {share(row.necessity)} {radius}"


def test_single_nodes_have_the_same_columns():
    circuit = make_report().circuit
    circuit = circuit.described([About("[b]", 0.5, i) for i in range(len(circuit))])
    lines = printed(circuit_table(circuit)).splitlines()
    assert lines[2].split() == ["layer", "node", "score", "role", "necessity", "radius"]
    rows = [line.split() for line in lines if ".H" in line or ".N" in line]
    assert {tuple(row[-3:]) for row in rows} == {("[b]", "50.0%", str(i)) for i in range(7)}


@pytest.mark.parametrize("width", [60, 70, 80])
def test_what_is_known_of_units_fits_narrow_terminals(monkeypatch, width):
    """Roles are broken into lines, but never left out, and no number is cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    tree = large()[0].grouping.tree
    names = ["layers 0-3", "cluster 10.14", "head 11.2", "neuron 12.1234"]
    circuit = Circuit.of_units(tree, names, [-12.3] * 4, model="m", task="t", seen=Seen.nothing())
    roles = ["writer of the answer", "unnamed", "induction", "mover of the answer"]
    text = printed(circuit_table(circuit.described(About(r, -1.2345, 12) for r in roles)), width)
    words = text.split()
    for role in roles:
        assert set(role.split()) <= set(words)
    assert [words.count(n) for n in ("-123.4%", number(-12.3), "12")] == [4, 4, 4 + 1]
    assert {"role", "necessity", "radius", "cluster", "6,180"} <= set(words)
    assert "…" not in text
