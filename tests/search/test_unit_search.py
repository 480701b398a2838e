"""The search over units: exact sizes, readings, known circuits, and what is refused."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax import units
from hagd_jax.causal import Circuit
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import DecoderConfig, init
from hagd_jax.parallel import make_mesh
from hagd_jax.search import (
    UnitMaskConfig,
    init_units,
    search_units,
    seen_by_units,
    train_units,
)
from hagd_jax.search.hard_concrete import open_probability
from hagd_jax.search.unit_circuit import mask_row
from hagd_jax.search.unit_gates import (
    UnitGates,
    chosen,
    draw,
    held_shifts,
    leaves_at,
    start_gates,
    units_at,
)
from hagd_jax.search.unit_plan import plan_of
from hagd_jax.search.unit_read import levels_of, read_units
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, Scores, Space
from tests.models.noise import on_mesh

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
CONFIG = UnitMaskConfig(
    steps=300, batch_size=32, learning_rate=0.1, ablations=("counterfactual",), plateau=0.3
)
SHORT = dataclasses.replace(CONFIG, steps=30, batch_size=6, ablations=("counterfactual", "mean"))
SPACE = Space(3, 2, 5)
NOTHING = Seen.nothing()
# One program for all examples of a property.
held = jax.jit(held_shifts, static_argnums=3)
# Heads that count as a unit.
each = st.sampled_from([1.0, 1.5, 2.0, 3.0])


def flat_scores(case):
    """Scores that say nothing, and that no data decided."""
    return Scores(Nodes.full(units.neurons(case.model).space, 0.0), NOTHING)


def some_gates(seed, space=SPACE):
    rng = np.random.default_rng(seed)
    layers, heads, features = space
    shapes = (layers, heads), (layers,), (layers, features)
    return UnitGates(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def count(heads, inside, heads_each=1.0):
    """Units of which a reader takes in each: parts of blocks, and so many heads at once."""
    return max(heads.sum() / heads_each, heads.any(1).sum() + inside.any(1).sum())


@given(st.integers(0, 99), st.floats(1, 8), st.floats(2, 15), st.sampled_from([1, 20]), each)
def test_leaves_are_held_and_units_are_at_most_so_many(seed, asked, leaves, sharp, heads_each):
    """Checked against the expectation in float64 NumPy, leaf by leaf."""
    gates = UnitGates(*(sharp * row for row in some_gates(seed)))
    shifts = held(gates, asked, leaves, heads_each)
    of_heads, of_mlps, inside = (
        np.asarray(open_probability(row - shift), np.float64)
        for row, shift in zip(gates, (shifts.units, shifts.units, shifts.leaves), strict=True)
    )
    found = of_heads.sum() + (of_mlps[:, None] * inside).sum()
    most = 0.98 * (of_heads.sum() + SPACE.features * of_mlps.sum())
    blocks = (1 - (1 - of_heads).prod(1)).sum() + of_mlps.sum()
    held_units = max(of_heads.sum() / heads_each, blocks)
    assert held_units <= asked * (1 + 1e-4)
    # Heads are leaves, too, of which as many are open as units have room for.
    assert found == pytest.approx(max(min(leaves, most), of_heads.sum()), rel=1e-2)
    if held_units < asked * (1 - 1e-3) and sharp == 1:
        assert float(shifts.units) == pytest.approx(float(shifts.leaves), abs=1e-3)
    found_units = units_at(gates, shifts.units, heads_each)
    assert float(found_units) == pytest.approx(held_units, rel=1e-5)
    assert float(leaves_at(gates, shifts)) == pytest.approx(found, rel=1e-4)


def test_masks_are_open_as_often_as_expected():
    gates = some_gates(0)
    shifts = held_shifts(gates, 4.0, 9.0)
    assert float(shifts.units) > float(shifts.leaves)
    rows = np.asarray(draw(gates, shifts, jax.random.key(0), 20_000))
    assert rows.shape == (20_000, SPACE.nodes)
    # The standard error of the mean is below .02: at most 21 leaves of variance 1/4, correlated.
    assert (rows > 0).sum(1).mean() == pytest.approx(9, abs=0.1)
    assert rows.min() == 0
    assert rows.max() == 1


def test_sizes_stay_when_all_logits_move():
    """Gradients of the held shifts: what would only make masks larger changes nothing."""
    gates = some_gates(1)

    def expected(move):
        moved = UnitGates(gates.heads + move, gates.mlps + move, gates.inside + move)
        shifts = held_shifts(moved, 4.0, 8.0)
        return leaves_at(moved, shifts) + units_at(moved, shifts.units)

    assert float(expected(0.3)) == pytest.approx(12, rel=1e-4)
    assert float(jax.grad(expected)(0.3)) == pytest.approx(0, abs=1e-4)


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 21), each)
def test_a_reading_is_the_likeliest_that_fits(seed, most_units, most_leaves, heads_each):
    gates = some_gates(seed)
    mask, ranks = chosen(gates, most_units, most_leaves, heads_each)
    heads, inside = mask[:6].reshape(3, 2), mask[6:].reshape(3, 5)
    assert count(heads, inside, heads_each) <= most_units
    assert mask.sum() <= most_leaves
    own = np.concatenate([gates.heads.ravel(), gates.inside.ravel()])
    by_rank = set(np.lexsort([-own, -ranks])[:most_leaves].tolist())
    likely = np.isin(np.arange(21), list(by_rank))
    if count(likely[:6].reshape(3, 2), likely[6:].reshape(3, 5), heads_each) <= most_units:
        assert set(np.flatnonzero(mask)) == by_rank
        return
    # Heads and MLPs by falling gates, as many as fit: brute force over the lengths of such lists.
    both = [*gates.heads.ravel(), *gates.mlps]

    def fits(x):
        return count(gates.heads >= x, (gates.mlps >= x)[:, None], heads_each) <= most_units

    last = min(filter(fits, both), default=np.inf)
    assert (gates.heads[heads] >= last).all()
    assert (gates.mlps[inside.any(1)] >= last).all()
    assert mask.any()
    if inside.any():
        closed = np.where((gates.mlps >= last)[:, None] & ~inside, gates.inside, -np.inf)
        assert closed.max() <= gates.inside[inside].min()


@given(st.integers(0, 200), st.integers(1, 12), st.integers(0, 8), each)
def test_circuits_are_antichains_of_their_sizes(seed, small, more, heads_each):
    rng = np.random.default_rng(seed)
    gates, last = some_gates(seed), some_gates(seed + 1)
    small_leaves = small + int(rng.integers(0, 9))
    sizes = [(small + more, small_leaves + more + 1), (small, small_leaves)]
    sizes = [(min(u, v, 21), min(v, 21)) for u, v in sizes]
    if sizes[0] == sizes[1]:
        sizes = sizes[1:]
    clusters = [rng.integers(0, 4, SPACE.nodes)]
    tree, found = read_units(SPACE, "neurons", [gates, last][-len(sizes):], sizes, NOTHING,
                             clusters, heads_each)  # fmt: skip
    for read, (most_units, most_leaves) in zip(found, sizes, strict=True):
        assert 1 <= len(read.units) <= most_units
        assert read.leaves <= most_leaves
        assert tree.antichain(read.units) == read.units
        assert np.isfinite(read.ranks).all()
    mask, _ = chosen(last, *sizes[-1], heads_each)
    assert not (mask_row(tree, found[-1].units) & ~mask).any()
    if count(mask[:6].reshape(3, 2), mask[6:].reshape(3, 5), heads_each) <= sizes[-1][0]:
        np.testing.assert_array_equal(mask_row(tree, found[-1].units), mask)


def test_a_circuit_with_room_lists_single_leaves():
    gates = start_gates(Space(1, 1, 4), np.array([9, 8, 7, 1, 2]))
    names = [
        [unit.name for unit in read_units(Space(1, 1, 4), "neurons", [gates], [(k, 3)],
                                               NOTHING)[1][0].units] for k in (2, 3)
    ]  # fmt: skip
    assert names == [["head 0.0", "cluster 0.0"], ["head 0.0", "neuron 0.0", "neuron 0.1"]]


def test_levels_nest_and_tell_masks_apart():
    masks = [np.arange(SPACE.nodes) % 3 == 0, np.arange(SPACE.nodes) % 2 == 0]
    one, two = levels_of(SPACE, masks)
    # Of heads 0 to 5, two in each layer, 0 and 3 are kept, so that those of the last are together.
    assert len({*one[:4]}) == 4
    assert one[4] == one[5] not in one[:4]
    assert len(set(zip(one, two, strict=True))) == len(set(two))
    for level, mask in ((one, masks[0]), (two, masks[1])):
        for cluster in set(level):
            assert len(set(mask[level == cluster])) == 1


def test_heads_of_a_block_are_one_unit_where_there_is_no_room():
    """Two layers of four heads; a circuit of four heads in them, and one MLP."""
    space = Space(2, 4, 3)
    scores = np.array([9, 8, 0, 0, 7, 6, 0, 0, 5, 0, 0, 0, 0, 0], float)
    gates = start_gates(space, scores)
    names, kept = {}, np.zeros(14, bool)
    kept[[0, 1, 4, 5, 8]] = True
    for most in (4, 5):
        tree, (found,) = read_units(space, "neurons", [gates], [(most, 5)], NOTHING)
        names[most] = [unit.name for unit in found.units]
        np.testing.assert_array_equal(mask_row(tree, found.units), kept)
    # Three supernodes, of which one is opened, or both.
    assert names[4] == ["head 0.0", "head 0.1", "neuron 0.0", "cluster 1.0"]
    assert names[5] == ["head 0.0", "head 0.1", "neuron 0.0", "head 1.0", "head 1.1"]


@pytest.mark.parametrize("name", ["either", "suppressed", "rotation"])
def test_known_circuits_are_found(name):
    case = CASES[name]
    truth = {f"{n.kind} {n.layer}.{n.index}" for n in case.truth["counterfactual"]}
    made = search_units(case.model, case.prompts, flat_scores(case),
                             [(len(truth), len(truth))], CONFIG)  # fmt: skip
    (found,) = made.circuits
    assert {leaf.name for unit in found.units for leaf in made.tree.leaves(unit)} == truth
    assert made.empty["counterfactual"] > 1
    assert found.worst < 1e-3
    assert made.found == (True,)
    circuit = Circuit.of_units(made.tree, found.units, found.ranks, model="m", task="t",
                               seen=found.seen)  # fmt: skip
    assert (len(circuit), circuit.leaves) == (len(found.units), found.leaves)


def test_the_same_seed_gives_the_same_and_a_state_goes_on_to_the_same_end():
    case, sizes = CASES["parity"], [(4, 6), (3, 3)]
    space = units.neurons(case.model).space
    start = init_units(jax.random.key(0), flat_scores(case), space, SHORT, sizes=2)
    steps = list(train_units(case.model, case.prompts, start, sizes, SHORT))
    assert [int(state.step) for state, _ in steps] == [10, 20, 30]
    begun, left = (list(map(jax.typeof, jax.tree.leaves(s))) for s in (start, steps[0][0]))
    assert left == begun
    on = list(train_units(case.model, case.prompts, steps[0][0], sizes, SHORT))
    chex.assert_trees_all_equal(on[-1], steps[-1])
    assert not np.array_equal(steps[-1][0].logits.inside, start.logits.inside)
    # The logits of the first size are means over its plateau, not over the last.
    kept = steps[-1][0].kept
    assert not np.array_equal(kept.inside[0], kept.inside[1])
    np.testing.assert_array_equal(kept.inside[1], steps[-1][0].mean.inside)
    metrics = steps[-1][1]
    assert metrics["units"] <= 3 * (1 + 1e-3)
    assert metrics["leaves"] == pytest.approx(3, rel=1e-3)
    weights = [metrics[f"weight_{name}"] for name in SHORT.ablations]
    assert sum(weights) == pytest.approx(1, abs=1e-6)


def test_means_are_over_the_later_part_of_the_plateau():
    case = CASES["parity"]
    config = dataclasses.replace(SHORT, steps=9, plateau=1.0, check_every=1, superset=0.5)
    space = units.neurons(case.model).space
    start = init_units(jax.random.key(0), flat_scores(case), space, config)
    states = [state for state, _ in train_units(case.model, case.prompts, start, [(3, 3)],
                                                     config)]  # fmt: skip
    later = np.mean([np.asarray(state.logits.inside, np.float64) for state in states[3:]], 0)
    np.testing.assert_allclose(states[-1].kept.inside[0], later, atol=1e-5)
    assert np.abs(later - states[-1].logits.inside).max() > 1e-3


def test_a_mesh_changes_nothing_but_rounding():
    case, sizes = CASES["parity"], [(3, 3)]
    config = dataclasses.replace(
        SHORT, steps=4, batch_size=8, check_every=4, ablations=("counterfactual", "resample")
    )
    space = units.neurons(case.model).space
    start = init_units(jax.random.key(0), flat_scores(case), space, config)
    placed = on_mesh(case.model, make_mesh("replica=8"))
    one, other = (list(train_units(m, case.prompts, start, sizes, config))[-1]
                  for m in (case.model, placed))  # fmt: skip
    np.testing.assert_allclose(one[0].running, other[0].running, rtol=1e-3)
    assert float(one[0].running.min()) > 0
    np.testing.assert_allclose(one[0].logits.inside, other[0].logits.inside, atol=1e-2)


def test_plans_fall_to_each_size_and_stay():
    sizes = [(8, 20), (4, 6)]
    plan = plan_of(sizes, Space(4, 3, 16), UnitMaskConfig(steps=100))
    assert plan.units[0] == pytest.approx(0.8 * 12)
    assert plan.leaves[0] == pytest.approx(0.8 * 76)
    for row, k in ((plan.units, 0), (plan.leaves, 1)):
        assert (np.diff(row) <= 1e-5).all()
        for size in sizes:
            assert (row == size[k]).sum() >= 24
    assert plan.rate[0] == 1
    assert 0.1 <= plan.rate[-1] < 0.2
    assert (plan.averaged[plan.units > 8] == 0).all()
    assert plan.averaged.max() == pytest.approx(25 - 8, abs=1)
    assert plan.reading[-1].tolist() == [False, True]


def test_gates_lose_their_noise_over_the_last_plateau_alone():
    sizes, space = [(8, 40), (4, 20)], Space(4, 3, 16)
    still = UnitMaskConfig(steps=100, sharpness=2, last_sharpness=2)
    assert (plan_of(sizes, space, still).sharp == 2).all()
    sharp = plan_of(sizes, space, dataclasses.replace(still, last_sharpness=32))
    falling = sharp.units > sizes[-1][0]
    assert (sharp.sharp[falling] == 2).all()
    last = sharp.sharp[~falling]
    assert (np.diff(last) > 0).all()
    assert 16 < last[-1] < 32
    np.testing.assert_allclose(np.diff(np.log(last)), np.log(last[1] / last[0]), rtol=1e-3)
    for wrong in ({"sharpness": 0.5}, {"last_sharpness": 1e30}, {"sharpness": 30.0}):
        with pytest.raises(ConfigError, match="sharpness"):
            UnitMaskConfig(**wrong)
    with pytest.raises(ConfigError, match="signed"):
        UnitMaskConfig(signed="no")  # pyright: ignore[reportArgumentType]


def test_what_works_against_the_behaviour_begins_open():
    """By size, unless scores are of membership; the order of the logits is that of the scores."""
    scores = np.array([-9, 8, 1, -7, 0.5, 0.1, *np.linspace(0.2, 0.3, 15)])
    for signed, best in ((False, [0, 1, 3]), (True, [1, 2, 4])):
        state = init_units(jax.random.key(0), scores, SPACE, UnitMaskConfig(signed=signed))
        heads = np.asarray(state.logits.heads).ravel()
        assert sorted(np.argsort(-heads)[:3].tolist()) == best


@pytest.mark.parametrize("space", [(1, 1, 1), (1, 1, 4), (2, 1, 1)])
def test_the_smallest_trees_are_searched(space):
    layers, heads, neurons = space
    config = DecoderConfig(vocab_size=7, n_layers=layers, d_model=4, n_heads=heads, d_mlp=neurons)
    model, case = init(config, jax.random.key(0)), CASES["either"]
    prompts = jax.tree.map(lambda x: np.minimum(x, 6), case.prompts[:12])
    few = dataclasses.replace(SHORT, steps=4, check_every=4, ablations=("zero",))
    scores = Scores(Nodes.full(Space(*space), 0.0), Seen.nothing())
    made = search_units(model, prompts, scores, [(1, 1)], few)
    assert [len(unit) for unit in made.circuits[0].units] == [1]


def test_seen_is_recorded():
    case = CASES["either"]
    seen = seen_by_units(case.model, case.prompts, flat_scores(case))
    assert seen.known
    assert seen.ablations == ("counterfactual", "mean", "resample")
    assert seen.has(case.prompts).all()
    assert not seen_by_units(case.model, case.prompts, flat_scores(case).values).known


def test_what_does_not_fit_is_refused():
    case = CASES["either"]
    space = units.neurons(case.model).space
    few = dataclasses.replace(SHORT, steps=4)
    search = lambda **new: search_units(**{  # noqa: E731
        "model": case.model, "prompts": case.prompts, "scores": flat_scores(case),
        "sizes": [(2, 2)], "config": few, **new})  # fmt: skip
    for sizes in ([], [(3, 2)], [(0, 2)], [(2, 2), (2, 2)], [(1, 1), (2, 2)], [4.0], [(1, 999)],
                  [(2.0, 2)]):  # fmt: skip
        with pytest.raises(InputError, match="sizes"):
            search(sizes=sizes)
    with pytest.raises(InputError, match="scores"):
        search(scores=np.zeros(3))
    with pytest.raises(InputError, match="steps"):
        search(config=dataclasses.replace(few, steps=1, plateau=0.5))
    with pytest.raises(ConfigError, match="batch_size"):
        UnitMaskConfig(batch_size=1)
    with pytest.raises(ConfigError, match="ablations"):
        UnitMaskConfig(ablations=("counterfactual", "counterfactual"))
    state = init_units(jax.random.key(0), flat_scores(case), space, few, sizes=2)
    with pytest.raises(InputError, match="state"):
        train_units(case.model, case.prompts, state, [(2, 2)], few)
