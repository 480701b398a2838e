"""Edge Pruning against its equations, and rivals beside what they are made of."""

import jax
import numpy as np
import pytest

from hagd_jax.baselines import (
    EDGE_RIVALS,
    NODE_RIVALS,
    EdgePruningConfig,
    RivalsConfig,
    edge_pruning,
    node_masks,
    rivals,
)
from hagd_jax.baselines.edge_pruning import _plan
from hagd_jax.causal import size_curve
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.scores import (
    GradientConfig,
    component_graph,
    eap,
    eap_ig,
    gim,
    gim_rules,
    relp,
    relp_rules,
)
from hagd_jax.search import MaskConfig, measured_losses, search_masks, top_nodes
from hagd_jax.search.hard_concrete import open_probability
from hagd_jax.tasks import Task, prompt_digests
from hagd_jax.testbeds import as_task, hand_built, true_edges
from hagd_jax.units import Edges, Scores, components
from tests.causal.edges_plain import GROUPED, Plain, some

CASES = {case.name: case for case in hand_built()}
SHORT = RivalsConfig(
    masks=MaskConfig(steps=6, batch_size=8, check_every=6),
    pruning=EdgePruningConfig(steps=6, batch_size=8, check_every=6),
    thresholds=(1e-3, 10.0), swept=16, batch_size=16,
)  # fmt: skip


def test_edge_pruning_holds_its_target_and_finds_a_known_circuit():
    """A thousand steps of 32 prompts of a model of 23 edges; of 40 random sevens none is it."""
    case = CASES["either"]
    truth = true_edges(case, "counterfactual").flat().astype(bool)
    config = EdgePruningConfig(steps=1000, batch_size=32)
    found = edge_pruning(case.model, case.prompts, [int(truth.sum())], config)[7]
    assert found.target == pytest.approx(1 - 7 / 23)
    assert found.sparsity == pytest.approx(found.target, abs=0.05)
    assert (found.circuit.flat() & truth).sum() >= 6
    assert found.circuit.seen.ablations == ("counterfactual",)
    again = edge_pruning(case.model, case.prompts, [7], config)[7]
    np.testing.assert_array_equal(again.circuit.flat(), found.circuit.flat())
    assert again.sparsity == found.sparsity


def test_masks_start_open_and_the_plan_is_the_published_one():
    config = EdgePruningConfig()
    target, rate = _plan(config).T
    assert float(open_probability(np.float32(config.start))) > 0.9999
    assert (target[0], target[1250], target[2500], target[-1]) == (0, 0.5, 1, 1)
    assert rate[199] == 1
    assert rate[99] == pytest.approx(0.5)
    assert rate[1600] == pytest.approx(0.5)
    assert 0 < rate[-1] < 1e-3
    with pytest.raises(ConfigError, match="write_sparsity"):
        EdgePruningConfig(write_sparsity=1.0)


def test_node_masks_are_the_search_without_a_tree():
    case, config = CASES["either"], SHORT.masks
    scores = eap(case.model, case.prompts)
    own = node_masks(case.model, case.prompts, [4], config, scores=scores, seed=3)
    plain = search_masks(case.model, case.prompts, scores, [4], config, seed=3)
    np.testing.assert_array_equal(own.circuits[4].flat(), plain.circuits[4].flat())
    edges = node_masks(case.model, case.prompts, [7], config, dictionary=components(case.model))
    assert len(edges.circuits[7]) == 7
    assert edges.circuits[7].seen.known


@pytest.mark.parametrize(("nodes_by", "rules"), [
    (eap_ig, None), (relp, relp_rules()), (gim, gim_rules()),
], ids=["eap", "relp", "gim"])  # fmt: skip
def test_scores_of_a_heads_edges_sum_to_the_heads_score(nodes_by, rules):
    """What a head writes moves the metric through its readers alone, under any rule."""
    model, prompts = some(count=4, seed=2)
    config = GradientConfig((1.0,), 4)
    edges = component_graph(model, prompts, config, rules=rules).scores.values
    heads = slice(1, 1 + GROUPED.n_layers * GROUPED.n_heads)
    total = sum(np.asarray(x).reshape(-1, x.shape[-1]).sum(0)[heads] for x in vars(edges).values())
    expected = np.asarray(nodes_by(model, prompts, config).values.heads).ravel()
    assert np.abs(expected).min() > 1e-4
    np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def task():
    return as_task(CASES["either"], test=16)


def test_every_rival_of_nodes_runs_on_discover_and_is_chosen_on_select(task):
    model = CASES["either"].model
    found = rivals(model, task, [2, 4], SHORT)
    assert tuple(each.name for each in found) == NODE_RIVALS
    discover, select, test = (
        set(prompt_digests(task.splits[name])) for name in ("discover", "select", "test")
    )
    for each in found:
        assert {size: len(own) for size, own in each.circuits.items()} == {2: 2, 4: 4}
        assert each.seconds > 0
        assert each.passes > 0
        seen = set(each.circuits[4].seen.prompts)
        assert not seen & test
        assert bool(seen & select) == (len(each.losses) == 2) == (each.name != "masks")
        # As many prompts as masks see: 6 steps of 8.
        assert len(seen & discover) == min(48, len(discover))
    own = next(each for each in found if each.name == "eap")
    scores = eap(model, task.splits["discover"][:48])
    absolute = Scores(jax.tree.map(np.abs, scores.values), scores.seen)
    expected = {
        variant: measured_losses(
            model, task.splits["select"], [top_nodes(rank, k) for k in (2, 4)]
        ).mean()
        for variant, rank in (("signed", scores), ("magnitude", absolute))
    }
    assert own.losses == pytest.approx(expected, rel=1e-4)
    assert own.variant == min(expected, key=expected.__getitem__)


def test_every_rival_of_edges_gives_circuits_of_edges(task):
    model = CASES["either"].model
    found = rivals(model, task, [7, 9], SHORT, of="edges")
    assert tuple(each.name for each in found) == EDGE_RIVALS
    for each in found:
        assert each.of == "edges"
        assert all(isinstance(own.mask, Edges) for own in each.circuits.values())
        if each.name == "acdc":
            assert all(len(own) <= size for size, own in each.circuits.items())
        else:
            assert [len(own) for own in each.circuits.values()] == [7, 9]
    sweep = next(each for each in found if each.name == "acdc")
    truth = true_edges(CASES["either"], "counterfactual").flat().astype(bool)
    # On few prompts less than the whole circuit may do; nothing else ever does.
    assert len(sweep.circuits[9]) >= 4
    assert not (sweep.circuits[9].flat() & ~truth).any()


def test_size_curves_take_edges():
    """One circuit's faithfulness against float64 NumPy."""
    model, prompts = some(count=5, seed=4)
    plain, there = Plain(model, prompts), Edges.existing(GROUPED)
    rng = np.random.default_rng(0)
    mask = there.like(there.flat() & (rng.random(len(there.flat())) < 0.7))
    case = CASES["either"]._replace(name="plain", model=model, prompts=prompts)
    splits = {"test": prompts, "discover": prompts}
    texts = {name: as_task(CASES["either"]).texts["test"][:5] for name in splits}
    (point,) = size_curve(model, Task(case.name, "", splits, texts), [mask],
                          dictionary=components(model))  # fmt: skip
    nothing = plain.metric(there.like(np.zeros_like(there.flat())))
    expected = (plain.metric(mask) - nothing) / (plain.metric() - nothing)
    assert abs(expected - 1) > 0.01
    assert point.faithfulness.value == pytest.approx(expected, abs=1e-3)
    assert point.nodes == mask.flat().sum()
    assert point.share == pytest.approx(point.nodes / int(there.count()))
    assert point.kl == pytest.approx(plain.kl(mask), abs=1e-4)


def test_bad_requests_are_refused(task):
    model = CASES["either"].model
    with pytest.raises(InputError, match="rival"):
        rivals(model, task, [2], names=["acdc"])
    with pytest.raises(ConfigError, match="of"):
        rivals(model, task, [2], of="features")
    with pytest.raises(InputError, match="sizes"):
        rivals(model, task, [10**6], of="edges")
    with pytest.raises(ConfigError, match="thresholds"):
        RivalsConfig(thresholds=(0.0,))
