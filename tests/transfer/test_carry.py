"""Circuits carried into other models: where the truth is known, and by brute force."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import hagd_jax as hagd
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files.tensors import read_arrays, save_arrays
from hagd_jax.testbeds import role_case
from hagd_jax.transfer import (
    PortraitConfig,
    carried_scores,
    carry,
    load_portrait,
    portrait,
    role_similarity,
    save_portrait,
)
from tests.transfer import fakes

CONFIG = PortraitConfig(prompts=32, batch_size=32, edges=0)
IDLE = ("inert", "first token")


@pytest.mark.parametrize("behaviour", ["names", "subject"])
def test_units_of_another_family_that_do_the_same_are_found_among_all(behaviour):
    first, second = (role_case(behaviour, style, 0) for style in ("plain", "gpt2"))
    true = [[name for name, role in case.roles.items() if role not in IDLE]
            for case in (first, second)]  # fmt: skip
    own = portrait(first.model, first.prompts, true[0], CONFIG)
    every = portrait(second.model, second.prompts, config=CONFIG)
    assert len(every) == 15
    tree = hagd.units.tree(second.model)
    found = carry(own, every, tree, len(true[1]), model=second.model.name, task=behaviour)
    assert {unit.name for unit in found.units} == set(true[1])
    assert found.seen == own.seen | every.seen
    assert found.seen.known
    assert min(found.scores) > 0.5


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_as_many_units_as_the_circuit_has_are_the_best_assignment(count, more, seed):
    own, every = fakes.portrait(count, seed), fakes.portrait(count + more, seed + 1)
    scores = carried_scores(own, every, count)
    roles = role_similarity(own, every)
    rows, columns = linear_sum_assignment(-roles)
    assert scores.sum() == pytest.approx(roles[rows, columns].sum(), abs=1e-5)
    assert scores.min() >= 0
    assert scores.max() <= 1 + 1e-9


def test_counts_that_do_not_exist_are_refused():
    own, every = fakes.portrait(2, 0), fakes.portrait(5, 1)
    for count in (0, 6, -1):
        with pytest.raises(InputError, match="count"):
            carried_scores(own, every, count)
    assert carried_scores(own, every, 5).sum() > 0
    with pytest.raises(InputError, match="of one task"):
        carried_scores(own, dataclasses.replace(every, task="another"), 2)
    far = [dataclasses.replace(one, values=np.full_like(one.values, sign))
           for one, sign in ((own, 3.0), (every, -3.0))]  # fmt: skip
    tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
    with pytest.raises(InputError, match="at most 0 units"):
        carry(*far, tree, 2)
    with pytest.raises(InputError, match="tree"):
        carry(own, every, None, 2)


def test_a_file_holds_all_of_a_portrait(tmp_path):
    for own in (fakes.portrait(4, 0), fakes.portrait(1, 1, shares=False)):
        save_portrait(own, tmp_path / "own.safetensors")
        found = load_portrait(tmp_path / "own.safetensors")
        assert found.units == own.units
        assert (found.model, found.task, found.seen) == (own.model, own.task, own.seen)
        for name in ("values", "known", "depth", "shares"):
            np.testing.assert_array_equal(getattr(found, name), getattr(own, name))


def test_files_that_hold_no_portrait_are_refused(tmp_path):
    path, own = tmp_path / "own.safetensors", fakes.portrait(3, 0)
    with pytest.raises(CheckpointError, match="own"):
        load_portrait(path)
    save_portrait(own, path)
    arrays, texts = read_arrays(path)
    changed = {
        "NaN": (arrays | {"values": np.full_like(arrays["values"], np.nan)}, texts),
        "shape": (arrays | {"shares": np.zeros((2, 2))}, texts),
        "arrays": ({name: x for name, x in arrays.items() if name != "known"}, texts),
        "no record": (arrays, {}),
        "numbers": (arrays | {"values": np.zeros((3, 32), np.int32)}, texts),
        "format": (arrays, {"portrait": texts["portrait"].replace("portrait 1", "portrait 9")}),
        "columns": (arrays, {"portrait": texts["portrait"].replace('"depth", ', "")}),
        "ranges": (arrays, {"portrait": texts["portrait"].replace("[0, 1]", "[1, 0]")}),
        "0 or 1": (arrays | {"known": 7 * arrays["known"]}, texts),
        "shares below 0": (arrays | {"shares": 5 * arrays["shares"]}, texts),
        "a head, a neuron": (arrays, {"portrait": texts["portrait"].replace('"head"', '"limb"')}),
        "read as": (arrays, {"portrait": texts["portrait"][:-9]}),
    }
    for words, (some, record) in changed.items():
        save_arrays(path, some, record)
        with pytest.raises(CheckpointError, match=words):
            load_portrait(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError):
        load_portrait(path)
    with pytest.raises(InputError, match="portrait"):
        save_portrait(dataclasses.asdict(own), path)
