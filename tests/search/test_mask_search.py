"""Masks by gradient descent: on models whose circuits are known, and what does not matter."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from hagd_jax.causal import Node
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import make_mesh
from hagd_jax.search import (
    MaskConfig,
    Tree,
    init_masks,
    mask_ranks,
    measured_losses,
    schedule,
    search_many,
    search_masks,
    top_nodes,
    train_masks,
)
from hagd_jax.search.top import highest
from hagd_jax.tasks import Choice, make_choices
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, Space, components, neurons
from tests.models.noise import on_mesh

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
# Tests of one model share a compiled program where batches, steps a scan and sizes are as many.
CONFIG = MaskConfig(steps=300, batch_size=32, learning_rate=0.1, check_every=10)
SIZES = [10, 9, 8, 6, 3]


def members(chosen, kinds=("head", "neuron")):
    both = zip(kinds, (chosen.mask.heads, chosen.mask.features), strict=True)
    return {Node(kind, *place) for kind, x in both for place in np.argwhere(np.asarray(x)).tolist()}


def flat_scores(case):
    """Scores that say nothing: the order of the nodes is as good as any."""
    return Nodes.full(neurons(case.model).space, 0.0)


def found(case, sizes, config=CONFIG, **options):
    return search_masks(case.model, case.prompts, flat_scores(case), sizes, config, **options)


@pytest.mark.parametrize("name", ["either", "suppressed", "parity", "rotation"])
def test_true_circuits_are_found_where_first_order_methods_fail(name):
    """From scores that say nothing, under the ablation that the truth is stated for.

    The truth does all that the model does, so there is a circuit of every larger size whose loss is
    0; those read on the way are such circuits, up to rounding, also above the first expected size.
    """
    case = CASES[name]
    truth, total = case.truth["counterfactual"], neurons(case.model).space.nodes
    sizes = range(len(truth), total + 1)
    made = found(case, sizes)
    assert members(made.circuits[len(truth)]) == truth
    assert [len(made.circuits[size]) for size in sizes] == list(sizes)
    losses = measured_losses(case.model, case.prompts, [made.circuits[size] for size in sizes])
    assert made.found
    assert made.empty > 1
    np.testing.assert_allclose(losses, 0, atol=1e-3 * made.empty)
    assert made.loss == pytest.approx(losses[0], abs=1e-5)


def test_sizes_on_the_way_and_the_same_key_the_same_circuits():
    case = CASES["parity"]
    config = dataclasses.replace(CONFIG, steps=30)
    start = init_masks(jax.random.key(0), flat_scores(case).flat(), config, sizes=5)
    steps = list(train_masks(case.model, case.prompts, start, SIZES, config))
    assert [int(state.step) for state, _ in steps] == [10, 20, 30]
    # Steps leave all types as they begin, weak ones too: one program takes them all.
    begun, left = (list(map(jax.typeof, jax.tree.leaves(s))) for s in (start, steps[0][0]))
    assert left == begun
    assert steps[-1][1]["size"] == pytest.approx(3, abs=1e-3)
    assert steps[0][1]["kl"] > 0
    first, other = (found(case, SIZES, config, seed=seed) for seed in (0, 1))
    assert {size: len(chosen) for size, chosen in first.circuits.items()} == {k: k for k in SIZES}
    chex.assert_tree_all_finite(first.state.logits)
    # The same key, batches and steps: the same bits.
    for a, b in zip(first.state.logits, steps[-1][0].logits, strict=True):
        np.testing.assert_array_equal(a, b)
    pairs = [(first.circuits[k].flat(), other.circuits[k].flat()) for k in SIZES]
    assert any((a != b).any() for a, b in pairs)


def test_a_search_goes_on_where_it_stopped():
    case = CASES["parity"]
    config = dataclasses.replace(CONFIG, steps=40)
    start = init_masks(jax.random.key(0), flat_scores(case).flat(), config, sizes=5)
    train = lambda state: train_masks(case.model, case.prompts, state, SIZES, config)  # noqa: E731
    whole = [state for state, _ in train(start)]
    again = [state for state, _ in train(whole[2])]
    assert [int(state.step) for state in again] == [40]
    for name in ("logits", "kept", "opt_state"):
        one, two = (jax.tree.leaves(getattr(state, name)) for state in (again[0], whole[3]))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    # The caller's states are left alone: each is there to go on from.
    assert all(np.isfinite(x).all() for state in (start, *whole) for x in state.logits)
    assert not list(train(whole[3]))


def test_clusters_are_opened_from_above():
    """A tree with the truth in one cluster: coarse masks find it, and nodes refine it."""
    case = CASES["both"]
    space, truth = neurons(case.model).space, case.truth["counterfactual"]
    flat = np.zeros(space.nodes, int)
    for node in truth:
        start = 0 if node.kind == "head" else space.layers * space.heads
        width = space.heads if node.kind == "head" else space.features
        flat[start + node.layer * width + node.index] = 1
    made = found(case, [len(truth)], tree=Tree.of([flat]))
    assert members(made.circuits[len(truth)]) == truth


def test_devices_do_not_matter():
    case = CASES["parity"]
    config = dataclasses.replace(CONFIG, steps=20)
    far = case._replace(model=on_mesh(case.model, make_mesh("replica=8")))
    one, two = (found(c, SIZES, config) for c in (case, far))
    np.testing.assert_array_equal(one.circuits[6].flat(), two.circuits[6].flat())
    assert one.circuits[6].seen == two.circuits[6].seen
    assert one.loss == pytest.approx(two.loss, rel=1e-4, abs=1e-6)
    for a, b in zip(one.state.logits, two.state.logits, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_sizes_fall_and_levels_join():
    plan = schedule(MaskConfig(steps=100, opening=0.5), total=1000, least=10, levels=2)
    assert plan.size[0] == 800
    np.testing.assert_allclose(plan.size[89:], 10, rtol=1e-5)
    ratios = plan.size[1:89] / plan.size[:88]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    assert plan.opened.sum(0).tolist() == [100, 75, 50]
    assert (schedule(MaskConfig(), 10, 10, 0).size == 10).all()


def test_where_logits_start():
    def begun(scores, tree=None):
        return init_masks(jax.random.key(0), np.array(scores), CONFIG, tree=tree).logits

    above, own = begun([5.0, -1.0, 3.0], Tree.of([np.array([0, 1, 1])]))
    rank = np.array([5 / 6, 1 / 6, 1 / 2])
    expected = 0.5 * np.log(rank / (1 - rank)) + 1
    np.testing.assert_allclose(own, expected, rtol=1e-5)
    np.testing.assert_allclose(above, [expected[0], expected[1:].mean()], rtol=1e-5)
    assert begun(np.arange(10_000.0))[0].max() == 3
    for bad in ([], [np.nan], [np.inf, 0]):
        with pytest.raises(InputError, match="finite"):
            begun(bad)


def test_what_cannot_be_searched_is_refused():
    case = CASES["both"]
    scores, config = flat_scores(case), dataclasses.replace(CONFIG, steps=1)
    run = lambda scores=scores, sizes=(2,), **more: search_masks(  # noqa: E731
        case.model, case.prompts, scores, sizes, config, **more
    )
    for sizes in ([], [0], [11], [2.0], [True], ["2"]):
        with pytest.raises(InputError, match="from 1 to 10"):
            run(sizes=sizes)
    with pytest.raises(InputError, match="4 nodes"):
        run(tree=Tree.of([np.zeros(4, int)]))
    space = neurons(case.model).space
    for bad, words in (
        (Nodes.full(space._replace(features=9), 0.0), "values of Space"),
        (Nodes.full(space, np.nan), "not finite"),
        (components(case.model).space, "got Edges; expected `Nodes`"),
        (np.zeros(10), "got ndarray"),
        (None, "got NoneType"),
    ):
        with pytest.raises(InputError, match=words):
            run(scores=bad)
    with pytest.raises(InputError, match="got Nodes; expected `Edges`"):
        run(dictionary=components(case.model))
    start = init_masks(jax.random.key(0), scores.flat(), config, sizes=2)
    for sizes, least, words in (([2], None, "state"), ([2, 3], 11, "1 to 10"), ([2, 3], 0, "1 to")):
        with pytest.raises(InputError, match=words):
            train_masks(case.model, case.prompts, start, sizes, config, least=least)
    for change in (
        {"steps": 0}, {"start": 0}, {"opening": 2}, {"metric": -1}, {"steps": 2.5}, {"mean": 1.5},
        {"learning_rate": float("nan")}, {"batch_size": True},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(change))):
            MaskConfig(**change)


def test_many_tasks_at_once_are_each_as_alone():
    """Two behaviours of one model, one of fewer prompts: repeated, it has the same circuits.

    Sizes on both sides of the first expected size, 11.2 of 14 nodes, and all nodes.
    """
    case, sizes = CASES["two_tasks_1"], [14, 13, 12, 11, 4, 2]
    config = dataclasses.replace(CONFIG, steps=60, check_every=60, batch_size=8)
    scores = flat_scores(case)
    half = case.prompts[: len(case.prompts) // 2]
    twice = jax.tree.map(lambda x: np.resize(x, (len(case.prompts), *x.shape[1:])), half)
    many = search_many(
        case.model, {"a": case.prompts, "b": half}, {"a": scores, "b": scores}, sizes, config
    )
    for name, prompts in (("a", case.prompts), ("b", twice)):
        alone = search_masks(case.model, prompts, scores, sizes, config)
        assert many[name].loss == pytest.approx(alone.loss, rel=1e-3, abs=1e-5)
        assert many[name].found == alone.found
        for size in sizes:
            assert (many[name].circuits[size].flat() == alone.circuits[size].flat()).all()
            assert len(many[name].circuits[size]) == size
        assert many[name].circuits[2].seen == alone.circuits[2].seen


def test_what_cannot_be_searched_at_once_is_refused():
    case = CASES["two_tasks_1"]
    scores, own = {"a": flat_scores(case)}, {"a": case.prompts}
    with pytest.raises(InputError, match="scores"):
        search_many(case.model, own, {}, [2])
    far = on_mesh(case.model, make_mesh("replica=8"))
    with pytest.raises(InputError, match="on one device"):
        search_many(far, own, scores, [2])
    with pytest.raises(ConfigError, match="mean"):
        search_many(case.model, own, scores, [2], MaskConfig(mean=0.5))
    with pytest.raises(InputError, match="scores of a: got values"):
        search_many(case.model, own, {"a": Nodes.full(Space(1, 1, 1), 0.0)}, [2])
    table = [[Choice([1, 2], [0, 2], (1, 2), 1.0), Choice([1, 3], [0, 3], (1, 2), 1.0)]]
    choices = make_choices(table, [0], vocab_size=case.model.config.vocab_size)
    with pytest.raises(InputError, match="prompts of a: got Choices; expected Prompts"):
        search_many(case.model, {"a": choices}, scores, [2])


def test_a_search_begins_at_its_scores():
    """Before the first step circuits are the best nodes of the scores given.

    And ten steps from the truth find it, which ten steps from its opposite do not.
    """
    case = CASES["parity"]
    space, truth = neurons(case.model).space, case.truth["counterfactual"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        scores = Nodes.from_flat(space, rng.permutation(space.nodes).astype(np.float32))
        start = init_masks(jax.random.key(0), scores.flat(), CONFIG, sizes=5)
        for size, row in zip(SIZES, mask_ranks(start, SIZES), strict=True):
            np.testing.assert_array_equal(highest(row, size), top_nodes(scores, size).flat())
    heads, features = (np.zeros(shape, np.float32) for shape in (
        (space.layers, space.heads), (space.layers, space.features)))  # fmt: skip
    for node in truth:
        (heads if node.kind == "head" else features)[node.layer, node.index] = 1
    few = dataclasses.replace(CONFIG, steps=10)
    right, wrong = (
        search_masks(case.model, case.prompts, scores, SIZES, few).circuits[len(truth)]
        for scores in (Nodes(heads, features), Nodes(-heads, -features))
    )
    assert members(right) == truth
    assert members(wrong) != truth


def test_masks_under_two_ablations_find_the_true_circuit():
    """Half of the prompts of a step under mean ablation, for which the truth is the same."""
    case = CASES["both"]
    truth = case.truth["mean"]
    assert truth == case.truth["counterfactual"]
    made = found(case, [len(truth)], dataclasses.replace(CONFIG, mean=0.5))
    assert members(made.circuits[len(truth)]) == truth
