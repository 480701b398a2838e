"""Cores against enumeration of all subsets, sorting by hand, and the judge's own numbers."""

import itertools
import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Ablation, Circuit, behaviour
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.search import Core, CoreConfig, core, core_keeps, core_of_rule
from hagd_jax.search.core_keeps import CoreKeeps
from hagd_jax.search.discoveries import found_in, grouped, highest_rows, random_subsets
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import as_task, hand_built
from hagd_jax.units import Nodes, Selection, Space, neurons

CASE = {case.name: case for case in hand_built()}["both"]
SPACE = neurons(CASE.model).space
SEEN = Seen(ablations=["counterfactual"], prompts=[f"{i:08x}" for i in range(64)])


def strong(prompts=64, units=40, members=4, seed=0, by=5.0):
    """Noise, and a few units that are far above it."""
    scores = np.random.default_rng(seed).normal(size=(prompts, units))
    scores[:, :members] += by
    return scores


class PromptScores:
    def __init__(self, values, seen):
        self.values, self.seen = values, seen


def test_subsets_are_uniform():
    """Chi-square of 15 subsets of 2 of 6, 15,000 draws, p above 1e-4."""
    rows = random_subsets(6, 2, 15_000, seed=3)
    assert (rows[:, 0] < rows[:, 1]).all()
    counts = np.bincount(rows[:, 0] * 6 + rows[:, 1], minlength=36)
    every = [a * 6 + b for a, b in itertools.combinations(range(6), 2)]
    assert counts[every].sum() == 15_000
    assert scipy.stats.chisquare(counts[every]).pvalue > 1e-4


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=5),
    st.integers(1, 7),
)
def test_the_highest_of_each_row_are_those_of_a_stable_sort(rows, size):
    found = highest_rows(np.array(rows, float), size)
    for row, mask in zip(rows, found, strict=True):
        best = sorted(range(7), key=lambda i: (-row[i], i))[:size]
        assert np.flatnonzero(mask).tolist() == sorted(best)


@pytest.mark.parametrize("by", ["mean", "magnitude"])
def test_discoveries_are_of_the_means_and_blocks_do_not_matter(by):
    scores = np.random.default_rng(0).normal(size=(12, 30)).astype(np.float32)
    rows = random_subsets(12, 3, 50)
    found = np.concatenate(list(found_in(scores, rows, 5, by=by)))
    for row, mask in zip(rows, found, strict=True):
        means = scores[row].astype(np.float64).mean(0)
        best = np.argsort(-(np.abs(means) if by == "magnitude" else means))[:5]
        assert set(np.flatnonzero(mask)) == set(best)
    small = list(found_in(scores, rows, 5, by=by, block_bytes=1000))
    assert len(small) > 5
    np.testing.assert_array_equal(np.concatenate(small), found)


def test_other_prompts_leave_no_trace_in_a_discovery():
    """To the last bit: units that are equal but for rounding would show a difference."""
    scores = np.random.default_rng(0).normal(size=(64, 300)).astype(np.float32)
    scores[:, 150:] = scores[:, :150] * np.float32(1 + 1e-7)
    rows = random_subsets(64, 8, 200)
    other = scores.copy()
    other[:5] = 1e30
    before, after = (np.concatenate(list(found_in(s, rows, 150))) for s in (scores, other))
    apart = ~np.isin(rows, range(5)).any(1)
    assert 0 < apart.sum() < 200
    np.testing.assert_array_equal(before[apart], after[apart])
    assert (before[~apart] != after[~apart]).any()


def test_bounds_contain_the_exact_shares_of_all_subsets():
    scores = np.random.default_rng(1).normal(size=(12, 6)) + 0.3 * np.arange(6)
    rows = np.array(list(itertools.combinations(range(12), 2)))
    exact = np.concatenate(list(found_in(scores, rows, 2))).mean(0)
    found = core(scores, 2, CoreConfig(kept=2, subsets=2000))
    low, high = found.bounds
    assert ((low <= exact) & (exact <= high)).all()
    assert 0 < exact.max() < 1
    np.testing.assert_allclose(found.share, exact, atol=0.05)
    assert found.counts.sum() == 2 * 2000


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_no_change_of_radius_prompts_evicts_a_member_or_admits_an_outsider(seed):
    """From sampled counts to exact shares after each choice of r rows that wish to turn it."""
    scores = np.random.default_rng(seed).normal(size=(8, 4)) + np.array([4.0, 2, 0, 0])
    found = core(scores, 2, CoreConfig(kept=1, subsets=400))
    every = np.arange(8)[:, None]
    for changed in (1, 2, 3):
        for places in itertools.combinations(range(8), changed):
            for worst in ([-9.0, -9, 9, 9], [-9, 9, -9, 9]):
                other = scores.copy()
                other[list(places)] = worst
                after = np.concatenate(list(found_in(other, every, 2))).mean(0)
                assert (after[found.members(changed)] > 0.5).all()
                assert (after[found.barred >= changed] < 0.5).all()


def test_a_core_says_what_it_holds():
    found = core(PromptScores(strong(), SEEN), 6)
    assert found.seen == SEEN
    assert np.flatnonzero(found.members(4)).tolist() == [0, 1, 2, 3]
    assert found.radius.max() == 4
    assert found.sizes() == dict.fromkeys(range(5), 4)
    assert (found.barred[4:] >= 0).any()
    assert (found.barred[:4] == -1).all()
    assert "\n" not in repr(found)
    assert "4 of 40 units at radius 1, 4 at 4; 1,000 discoveries from 8 of 64" in repr(found)
    rows = found.table()
    assert [row["unit"] for row in rows] == [0, 1, 2, 3]
    assert {(row["share"], row["radius"]) for row in rows} == {(1.0, 4)}
    assert [row["unit"] for row in found.table([9, 2])] == [9, 2]
    selection = found.selection(Space(layers=2, heads=5, features=15))
    assert selection.seen == SEEN
    assert np.flatnonzero(selection.flat()).tolist() == [0, 1, 2, 3]


def test_seeds_draw_other_subsets_and_the_same_seed_the_same():
    scores = strong(by=1.0)
    one, same, other = (core(scores, 6, seed=seed).counts for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_units_of_mixed_resolution():
    scores = strong()
    groups = [[0, 1], [4, 5, 6], [2], [3], [30]]
    found = core(scores, 3, groups=groups)
    sums = np.stack([scores[:, list(group)].sum(1) for group in groups], 1)
    np.testing.assert_allclose(grouped(scores, groups)[0], sums, rtol=1e-12)
    assert (found.counts == core(sums, 3).counts).all()
    assert np.flatnonzero(found.members()).tolist() == [0, 2, 3]
    assert np.flatnonzero(found.leaf_mask()).tolist() == [0, 1, 2, 3]
    assert len(found.leaf_mask()) == 40
    singles = core(scores, 6, groups=[[i] for i in range(40)])
    assert (singles.counts == core(scores, 6).counts).all()


@pytest.mark.parametrize("groups", [None, [[0, 1], [39, 2], [5], [6], [7], [8], [9]]])
def test_json_restores_the_core(groups):
    found = core(PromptScores(strong(), SEEN), 6, groups=groups, seed=5)
    text = json.dumps(found.to_json())
    again = Core.from_json(json.loads(text))
    for name in ("counts", "radius", "barred", "share"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert found.counts.any()
    assert (again.leaf_mask() == found.leaf_mask()).all()
    assert (again.seen, again.seed, again.size, again.rule) == (SEEN, 5, 6, "mean")
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"units": 2}, {"counts": [[0, 1001]]}, {"counts": [[-1, 3]]}, {"kept": 0},
     {"units": 2**40}, {"threshold": 2.0}, {"seed": -1}, {"groups": [[0, 0]]}, {"seen": {"a": 1}},
     {"more": 1}],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_refused(change):
    record = core(strong(), 6).to_json()
    with pytest.raises((InputError, ConfigError)):
        Core.from_json(record | change)


def test_any_rule_may_discover():
    scores, config = strong(by=1.0), CoreConfig(subsets=60)
    seeds = []

    def best(rows, seed):
        seeds.append(seed)
        return np.concatenate(list(found_in(scores, rows[None], 6)))[0]

    found = core_of_rule(best, 64, 40, config, seed=2)
    assert (found.counts == core(scores, 6, config, seed=2).counts).all()
    assert (found.rule, len(set(seeds)), found.seen) == ("best", 60, Seen.unknown())
    nodes = Space(layers=1, heads=10, features=30)
    told = core_of_rule(
        lambda rows, seed: Selection(Nodes.from_flat(nodes, best(rows, seed)), SEEN),
        64, 40, config, seed=2,
    )  # fmt: skip
    assert told.seen == SEEN
    assert (told.counts == found.counts).all()


def test_what_a_core_keeps_is_what_the_judge_measures():
    task, nodes = as_task(CASE, test=16), neurons(CASE.model)
    flat = np.arange(SPACE.nodes) % 5 != 0
    some = Nodes.from_flat(SPACE, flat)
    circuit = Circuit.from_mask(some, Nodes.full(SPACE, 1.0), model=CASE.model.name, task="both")
    scores = np.tile(1.0 * flat * np.arange(SPACE.nodes), (32, 1))
    found = core(scores, 3)
    keeps = core_keeps(CASE.model, task, circuit, found, draws=3, seed=1)
    assert isinstance(keeps, CoreKeeps)
    assert (keeps.core.nodes, keeps.circuit.nodes, keeps.shared) == (3, flat.sum(), 3)
    assert [point.nodes for point in keeps.random] == [3] * 3
    masks = [Nodes.full(SPACE, False), found.selection(SPACE).mask, some]
    rows = behaviour(
        CASE.model, task.splits["test"], masks, dictionary=nodes,
        ablation=Ablation("counterfactual", task.splits["discover"], 1), with_model=True,
    )  # fmt: skip
    model, empty, *own = rows.metric.mean(1)
    row = keeps.row()
    for said, value, kl in zip(("", "circuit "), own, rows.kl[2:].mean(1), strict=True):
        share = (value - empty) / (model - empty)
        assert row[f"{said}faithfulness"] == pytest.approx(share, abs=1e-5)
        assert row[f"{said}kl"] == pytest.approx(kl, abs=1e-5)
    assert row["random kl"] == pytest.approx(np.mean([p.kl for p in keeps.random]))
    assert row["circuit kl"] != row["kl"]
    with pytest.raises(InputError, match="leaves at radius 9"):
        core_keeps(CASE.model, task, circuit, found, radius=9)
    with pytest.raises(InputError, match="40 leaves"):
        core_keeps(CASE.model, task, circuit, core(strong(), 6))
    alien = core(PromptScores(scores, Seen(models=["other#00000000"])), 3)
    owned = Circuit.from_mask(some, Nodes.full(SPACE, 1.0), model="both", task="both",
                              seen=Seen(models=["both#11111111"]))  # fmt: skip
    with pytest.raises(InputError, match="models of the core"):
        core_keeps(CASE.model, task, owned, alien)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scores": strong(8)}, "prompts: got 8; expected 17 or more"),
        ({"config": CoreConfig(subsets=5)}, "subsets: got 5; expected 1[0-9] or more"),
        ({"config": CoreConfig(kept=65)}, "kept: got 65; expected 1 to 64"),
        ({"size": 0}, "1 to 40"),
        ({"size": 41}, "1 to 40"),
        ({"size": 1.0}, "integer"),
        ({"scores": np.full((64, 40), np.nan)}, "64 prompts with scores that are not finite"),
        ({"scores": strong()[0]}, "Score each prompt by itself"),
        ({"scores": strong() > 0}, "a row a prompt"),
        ({"scores": np.zeros((64, 0))}, "a row a prompt"),
        ({"scores": [["a"]]}, "a row a prompt"),
        ({"scores": None}, "a row a prompt"),
        ({"scores": PromptScores(strong(), "x")}, "seen: got"),
        ({"scores": PromptScores(strong(), SEEN), "seen": Seen.nothing()}, "that of the scores"),
        ({"seen": Seen(prompts=SEEN.prompts[:60])}, "60 distinct prompts"),
        ({"groups": [[0], [0]]}, "none in two"),
        ({"groups": [[0], []]}, "none in two"),
        ({"groups": [[0], [40]]}, "0 to 39"),
        ({"groups": [[0.5]]}, "0 to 39"),
        ({"groups": 3}, "0 to 39"),
        ({"seed": -1}, "seed"),
        ({"config": None}, "CoreConfig"),
    ],
)
def test_bad_input_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        core(**{"scores": strong(), "size": 6} | given)


def test_rules_that_return_no_mask_are_refused():
    for bad in (np.ones(3, bool), np.ones(4), None, 7):
        with pytest.raises(InputError, match="result of the rule"):
            core_of_rule(lambda rows, seed, bad=bad: bad, 64, 4, CoreConfig())
    with pytest.raises(InputError, match="function of"):
        core_of_rule(7, 64, 4, CoreConfig())
    with pytest.raises(InputError, match="units"):
        core_of_rule(lambda rows, seed: None, 64, 0, CoreConfig())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_with_equal_scores_are_found_from_the_left(dtype):
    """Of equal columns the first are found, to the last bit, wherever they stand in a block."""
    one = np.random.default_rng(0).normal(size=(64, 1)).astype(dtype)
    rows = random_subsets(64, 8, 300)
    for block in (1, 1 << 26):
        found = np.concatenate(list(found_in(np.repeat(one, 47, 1), rows, 3, block_bytes=block)))
        assert (found == (np.arange(47) < 3)).all()


def test_ragged_groups_are_refused():
    with pytest.raises(InputError, match="groups: got"):
        core(strong(), 1, groups=[[0, [1]], [2]])


@pytest.mark.parametrize("subsets", [0, 1.5, 100_001, 10**12])
def test_more_subsets_than_memory_holds_are_refused(subsets):
    with pytest.raises(ConfigError, match="subsets: got"):
        CoreConfig(subsets=subsets)
