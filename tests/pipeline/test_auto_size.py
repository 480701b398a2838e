"""The size of a circuit of units that its gates on the select split choose."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.causal import ValidateConfig, keeps
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.pipeline import ExtractConfig, extract, open_run, run_fused, run_staged
from hagd_jax.pipeline.unit_choice import (
    FAILS,
    HOLDS,
    OPEN,
    UNKNOWN,
    as_circuit,
    choice_words,
    chosen_of,
)
from tests.pipeline.copier import make_copier, make_task
from tests.pipeline.test_units import CONFIG, SEARCH, killed, prepare, run

AUTO = dataclasses.replace(
    CONFIG, units=3, nodes="auto", unit_masks=dataclasses.replace(SEARCH, steps=40)
)


@pytest.fixture(scope="module")
def copier():
    return make_copier()


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def whole(copier, task, tmp_path_factory):
    folder = open_run(tmp_path_factory.mktemp("whole"), {})
    return folder, run(run_staged, copier, task, AUTO, folder)


@given(st.lists(st.sampled_from([HOLDS, OPEN, FAILS, UNKNOWN]), min_size=1, max_size=6))
def test_the_smallest_that_passes_is_chosen(gates):
    """Against a list of all that would do, the best first."""
    place = chosen_of(tuple(gates))
    best = max(gates)
    if best in (HOLDS, OPEN):
        assert gates[place] == best
        assert best not in gates[place + 1 :]
    else:
        assert place == 0


def test_the_planted_head_alone_is_enough(copier, task, whole):
    """Of the sizes the smallest has one node, which is the circuit that was planted."""
    _, left = whole
    found = left["search"]
    assert found.gates[-1] == HOLDS
    assert set(found.gates[:-1]) == {UNKNOWN}
    assert left["select"].circuit.names() == ("head 0.1",)
    sizes = sorted(left["select"].circuits)
    assert sizes[0] == 1
    assert len(sizes) > 1
    # The select split was looked at under what masks were trained under, and nothing else.
    seen = left["select"].circuit.seen
    assert seen.ablations == ("counterfactual", "mean")
    looked = (set(task.look(split).prompts) for split in ("discover", "select"))
    assert set(seen.prompts) == set.union(*looked)


def test_gates_are_those_of_the_judge_on_the_select_split(copier, task, whole):
    _, left = whole
    context, _ = prepare(copier, task, AUTO)
    circuit = as_circuit(context, left, left["search"].tree, left["search"].circuit)
    how = ValidateConfig(split="select", ablations=SEARCH.ablations, draws=2, batch_size=24)
    found = keeps(copier, circuit, task, how)
    assert [each.good for each in found.values()] == [True, True]


def test_larger_circuits_are_measured_where_small_ones_fail(copier, task, monkeypatch):
    """With gates that nothing passes the largest is taken, and the user is told."""
    from hagd_jax.causal import gates

    monkeypatch.setattr(gates, "KL_GATE", -1.0)
    left = run(run_staged, copier, task, AUTO)
    assert set(left["search"].gates) == {FAILS}
    assert left["select"].circuit.leaves == max(left["select"].circuits)
    words = choice_words(left["search"].circuits, left["search"].gates)
    assert "the largest, since all fail the judge's gates" in words


@pytest.mark.parametrize("where", [("masks", 20), ("sizes", 0), ("select", 0)])
def test_a_killed_run_ends_with_the_same_choice(copier, task, whole, tmp_path, where):
    folder, first = whole
    killed(where, copier, task, AUTO, tmp_path)
    left = run(run_staged, copier, task, AUTO, open_run(tmp_path, {}))
    assert left["search"].gates == first["search"].gates
    assert left["select"].circuit == first["select"].circuit
    again = run(run_staged, copier, task, AUTO, open_run(tmp_path, {}))
    assert again["search"].gates == first["search"].gates
    assert again["select"].units == first["select"].units
    for name in ("search.npz", "circuit.json"):
        assert (tmp_path / name).read_bytes() == (folder.path / name).read_bytes()


def test_both_executors_choose_the_same(copier, task, whole):
    left = run(run_fused, copier, task, AUTO)
    assert left["search"].gates == whole[1]["search"].gates
    assert left["select"].circuit.names() == whole[1]["select"].circuit.names()


def test_the_choice_is_told_and_judged(copier, task):
    result = extract(copier, task, AUTO)
    (note,) = [note for note in result.notes if note.startswith("nodes:")]
    assert "1 of " in note
    assert "the smallest that passes the judge's gates on the select split" in note
    assert {c.ablation for c in result.report.decisive} - {""} == {"resample"}
    assert np.isfinite([point.kl for point in result.curve]).all()


def test_bad_requests_are_refused(copier, task, tmp_path):
    for search in ("masks", "top"):
        with pytest.raises(ConfigError, match=f"auto beside search '{search}'"):
            ExtractConfig(search=search, nodes="auto")
    with pytest.raises(ConfigError, match='such as "64"'):
        ExtractConfig(nodes="automatic")
    splits = {name: own for name, own in task.splits.items() if name != "select"}
    texts = {name: own for name, own in task.texts.items() if name != "select"}
    with pytest.raises(InputError, match="'select', which chooses the size"):
        extract(copier, dataclasses.replace(task, splits=splits, texts=texts), AUTO,
                out=tmp_path / "no")  # fmt: skip
    assert not (tmp_path / "no").exists()
