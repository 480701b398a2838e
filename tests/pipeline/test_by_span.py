"""Circuits of units that `extract` splits by span: planted heads, resuming, pages, bad input."""

import dataclasses

import numpy as np
import pytest

from hagd_jax.causal import Circuit, ValidateConfig
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.pipeline import (
    DescribeConfig,
    ExtractConfig,
    extract,
    open_run,
    run_fused,
    run_staged,
)
from hagd_jax.scores import GradientConfig
from hagd_jax.search import SpanConfig, UnitMaskConfig
from hagd_jax.units import load_tree
from tests.pipeline.test_units import killed, run
from tests.units.spans import SPANS, as_task, induction, without_spans

UNDER = ("counterfactual", "mean")
CONFIG = ExtractConfig(
    units=3, nodes="3", gradient=GradientConfig(batch_size=8), by_span=True,
    unit_masks=UnitMaskConfig(steps=60, check_every=30, batch_size=8, ablations=UNDER),
    unit_spans=SpanConfig(ablations=UNDER, prompts=16),
    judge=ValidateConfig(claims="core", controls=19, draws=2, batch_size=24, alpha=0.1),
    describe=DescribeConfig(prompts=8, ablated=4, subsets=50, kept=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    model, prompts, names = induction()
    return model, as_task(prompts), names


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    """A whole extraction, and its folder."""
    model, task, _ = planted
    folder = tmp_path_factory.mktemp("whole")
    return extract(model, task, CONFIG, out=folder), folder


def test_planted_heads_stay_where_they_are_needed(planted, found):
    _, task, (before, after) = planted
    result, folder = found
    circuit = result.circuit
    assert circuit.spans == SPANS == task.spans
    assert {unit.name for unit in circuit.units} == {f"{before} at next", f"{after} at end"}
    assert circuit.config["spans"]["pairs"] == 12
    assert circuit.seen.ablations == UNDER
    told = {unit.name: about for unit, about in zip(circuit.units, circuit.about, strict=True)}
    assert told[f"{before} at next"].role == "previous token"
    assert told[f"{after} at end"].role == "induction"
    # With no other counterfactual the induction head alone moves the answer.
    assert told[f"{after} at end"].necessity == pytest.approx(1, abs=1e-3)
    assert Circuit.load(folder / "circuit.json", load_tree(folder / "tree.safetensors")) == circuit


def test_what_is_measured_after_the_split_is_of_its_nodes(planted, found):
    result, folder = found
    size = result.circuit.space.nodes
    assert result.report.units == size
    sizes = [(point.units, point.nodes) for point in result.curve]
    assert sizes[0] == (2, 2)
    # Whole units of three nodes, at four spans each.
    assert sizes[1] == (3, 12)
    scores = result.page.scores.flat()
    assert len(scores) == size
    assert f"{planted[2][1].removeprefix('head ')} at end" in (folder / "report.html").read_text()
    # The score of a node is the sum of those at its spans, up to rounding in float32.
    heads, spans = np.asarray(result.page.scores.heads), len(SPANS)
    summed = heads.reshape(len(heads), spans, -1).sum(1)
    np.testing.assert_allclose(summed, result.scores.values.heads, atol=1e-4)
    assert np.abs(summed).max() > 0.1


def test_a_finished_run_is_read_back(planted, found):
    model, task, _ = planted
    result, folder = found
    stages = []
    again = extract(model, task, CONFIG, out=folder, progress=lambda *now: stages.append(now[0]))
    assert not {"masks", "select", "spans", "describe"} & set(stages)
    assert again.circuit == result.circuit
    assert again.circuit.grouping.tree is not None
    assert again.curve == result.curve


@pytest.mark.parametrize("where", [("spans", 0), ("spans", 12), ("describe", 0)])
def test_a_run_killed_in_the_split_ends_with_the_same_circuit(planted, found, tmp_path, where):
    model, task, _ = planted
    killed(where, model, task, CONFIG, tmp_path)
    left = run(run_staged, model, task, CONFIG, open_run(tmp_path, {}))
    assert left["select"].circuit == found[0].circuit
    assert (tmp_path / "circuit.json").read_bytes() == (found[1] / "circuit.json").read_bytes()


def test_both_executors_end_with_the_same_circuit(planted, found):
    model, task, _ = planted
    left = run(run_fused, model, task, dataclasses.replace(CONFIG, executor="fused"))
    assert left["select"].circuit.names() == found[0].circuit.names()


def test_a_split_under_further_ablations_has_seen_them(planted):
    model, task, _ = planted
    own = dataclasses.replace(CONFIG, unit_spans=SpanConfig(ablations=("zero",), prompts=4),
                              describe=DescribeConfig(prompts=0))  # fmt: skip
    assert run(run_staged, model, task, own)["select"].circuit.seen.ablations == (*UNDER, "zero")


def test_bad_requests_are_refused_before_any_work(planted, tmp_path):
    model, task, _ = planted
    bare = {name: without_spans(prompts) for name, prompts in task.splits.items()}
    with pytest.raises(InputError, match=r"'induction': got prompts without spans.*--by-span"):
        extract(model, dataclasses.replace(task, splits=bare), CONFIG, out=tmp_path / "no")
    few = dataclasses.replace(CONFIG, unit_spans=SpanConfig(most=3))
    with pytest.raises(InputError, match="at most 3"):
        extract(model, task, few, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match="by_span: got 'yes'"):
        ExtractConfig(by_span="yes")
    with pytest.raises(ConfigError, match=r"which is off.*Add --by-span"):
        ExtractConfig(unit_spans=SpanConfig(most=3))
    with pytest.raises(ConfigError, match="Leave out --by-span"):
        ExtractConfig(search="masks", by_span=True)
    assert not {"by_span", "unit_spans"} & set(ExtractConfig().record())
    assert {"by_span", "unit_spans"} <= set(CONFIG.record())
