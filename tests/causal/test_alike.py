"""Random circuits of units at mixed resolution, against all circuits that there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Circuit
from hagd_jax.causal.alike import Alike, drawing
from hagd_jax.causal.beside import stable
from hagd_jax.causal.trials import make_trials
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.tasks import Seen
from hagd_jax.units import Space, neurons
from hagd_jax.units.tree import block_of, tree_of
from tests.units.trees import antichains, trees

ABOUT = {"model": "m", "task": "t", "seen": Seen.nothing()}
SPACE = Space(3, 2, 4)
# Six heads, then twelve neurons in pairs.
PAIRS = tree_of(SPACE, "neurons", [np.arange(18) // 2], 1, Seen.nothing())
SMALL = {"controls": 30, "members": 9, "pairs": 3, "subsets": 4, "supersets": 5}


def circuit_of(names, own=PAIRS):
    return Circuit.of_units(own, names, **ABOUT)


def trials_of(circuit, seed=0, **changes):
    space = circuit.space
    config = DecoderConfig(vocab_size=9, n_layers=space.layers, d_model=8 * max(space.heads, 1),
                           n_heads=max(space.heads, 1), d_mlp=max(space.features, 1))  # fmt: skip
    return make_trials(circuit, neurons(abstract(config)), seed=seed, **SMALL | changes)


def rows(trials, group):
    return [trials.masks[i - 1].flat().astype(bool) for i in range(group.start, group.stop)]


def everywhere(own, units, *, fine, taken=frozenset()):
    """All sets of leaves of antichains with as many units of each kind (and layer), one by one."""
    waiting, all_units = list(own.roots), []
    while waiting:
        all_units.append(waiting.pop())
        waiting += own.children(all_units[-1])

    def same(a, b):
        return (a.kind, a.block) == (b.kind, b.block) and (not fine or a.layers == b.layers)

    pools = [[unit for unit in all_units if same(unit, one)] for one in units]
    found = set()
    for chosen in itertools.product(*pools):
        places = [place for unit in chosen for place in unit.places().tolist()]
        if len(set(places)) == len(places) and not taken & set(places):
            found.add(frozenset(places))
    return found


@pytest.mark.parametrize(
    "names",
    [
        ["mlp 0", "cluster 1.0", "head 1.1"],
        ["cluster 0.0", "cluster 2.1", "neuron 1.3"],
        ["attention 1", "mlp 2"],
        ["layers 1-1", "head 0.0", "cluster 2.0"],
    ],
)
@pytest.mark.parametrize("fine", [True, False])
def test_draws_are_all_circuits_of_the_same_make_up(names, fine):
    """Every one of them is drawn, and no other; single leaves fill up whatever is free."""
    circuit = circuit_of(names)
    alike, rng = Alike.of(circuit), np.random.default_rng(0)
    drawn = {frozenset(alike.drawn(rng, fine=fine).tolist()) for _ in range(900)}
    assert drawn == everywhere(PAIRS, circuit.units, fine=fine)


@pytest.mark.parametrize("names", [["cluster 1.0", "head 1.1"], ["mlp 0", "neuron 2.1"]])
def test_sets_outside_are_units_too(names):
    circuit = circuit_of(names)
    alike, rng = Alike.of(circuit), np.random.default_rng(0)
    own = frozenset(circuit.places().tolist())
    wanted = everywhere(PAIRS, circuit.units, fine=False, taken=own)
    drawn = {frozenset(alike.drawn(rng, fine=False, outside=True).tolist()) for _ in range(600)}
    assert drawn == wanted
    # Of the same layer there is no other whole MLP: as many other leaves stand in for it.
    for _ in range(20):
        places = alike.drawn(rng, fine=True, outside=True)
        assert len(places) == circuit.leaves
        assert not own & set(places.tolist())


def test_the_only_unit_of_its_kind_in_a_layer_stays():
    circuit = circuit_of(["mlp 1", "head 0.0"])
    alike, rng = Alike.of(circuit), np.random.default_rng(1)
    for _ in range(20):
        assert set(range(10, 14)) <= set(alike.drawn(rng, fine=True).tolist())
    # In circuits that are drawn from all layers it moves.
    assert any(10 not in alike.drawn(rng, fine=False) for _ in range(20))


def test_clusters_are_replaced_by_the_nearest_in_size_and_cut_or_filled_up():
    """Clusters of 1 + 7, of which one leaf is no cluster, and of 2, 2 and 4 neurons."""
    space = Space(2, 1, 8)
    label = np.array([0, 1, *[2] * 2, *[3] * 2, *[4] * 4, *[5] * 3, *[6] * 5])
    own = tree_of(space, "neurons", [label], 2, Seen.nothing())
    assert [len(unit) for unit in own.of_kind("cluster")] == [2, 2, 4, 3, 5]
    rng = np.random.default_rng(0)

    def drawn(name, **options):
        alike = Alike.of(circuit_of([name], own))
        return {frozenset(alike.drawn(rng, **options).tolist()) for _ in range(400)}

    twos, four = [frozenset({2, 3}), frozenset({4, 5})], frozenset(range(6, 10))
    # Sizes of 2 and 4 are within a factor of two: random halves of the four are drawn, too.
    found = drawn("cluster 0.0", fine=True)
    assert found == {*twos, *map(frozenset, itertools.combinations(sorted(four), 2))}
    # A smaller one is filled up with leaves of the same block.
    found = drawn("cluster 0.2", fine=True)
    assert four in found
    assert all(len(each) == 4 and any(two <= each for two in [*twos, four]) for each in found)
    # Five neurons: three and two more, or all five; never a cluster of another layer.
    found = drawn("cluster 1.1", fine=True)
    assert all(len(each) == 5 and each <= set(range(10, 18)) for each in found)
    assert frozenset(range(13, 18)) in found


def test_without_the_tree_leaves_of_the_same_block_stand_in_for_clusters(tmp_path):
    circuit = circuit_of(["cluster 1.0", "mlp 0", "head 2.0"])
    circuit.save(tmp_path / "c.json")
    read = Circuit.load(tmp_path / "c.json")
    alike, rng = Alike.of(read), np.random.default_rng(0)
    drawn = {frozenset(alike.drawn(rng, fine=True).tolist()) for _ in range(400)}
    assert drawn == {
        frozenset({6, 7, 8, 9, *pair, head})
        for pair in itertools.combinations(range(10, 14), 2) for head in (4, 5)
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(data=st.data(), own=trees(least=4))
def test_trials_of_any_antichain(data, own):
    circuit = circuit_of(data.draw(antichains(own)), own)
    if not own.space.heads or not own.space.features:
        return  # no model has none
    trials, flat = trials_of(circuit, seed=1), circuit.mask().flat().astype(bool)
    label = block_of(own.space) + 1
    controls = rows(trials, trials.controls)
    assert len({c.tobytes() for c in controls} | {flat.tobytes()}) == 1 + len(controls)
    assert all(c.sum() == flat.sum() for c in controls)
    if circuit.grouping.units:
        alike, rng = Alike.of(circuit), np.random.default_rng(2)
        for _ in range(5):
            fine = np.bincount(label[alike.drawn(rng, fine=True)], minlength=12)
            assert fine.tolist() == np.bincount(label[flat], minlength=12).tolist()
            drawn = np.bincount(label[alike.drawn(rng, fine=False)] % 2, minlength=2)
            assert drawn.tolist() == np.bincount(label[flat] % 2, minlength=2).tolist()
    for other in rows(trials, trials.without_others):
        assert other[flat].all()
        assert (~other).sum() == min(flat.sum(), (~flat).sum())
    units = {int(unit.places()[0]): unit for unit in circuit.units}
    pairs = zip(rows(trials, trials.without_member), rows(trials, trials.alone), trials.tested,
                strict=True)  # fmt: skip
    for less, alone, place in pairs:
        held = units[int(place)].places().tolist()
        assert np.flatnonzero(flat & ~less).tolist() == np.flatnonzero(~alone).tolist() == held
    for less, rest in zip(*(rows(trials, each) for each in trials.subsets), strict=True):
        out = np.flatnonzero(~rest)
        assert (less == (flat & rest)).all()
        assert set(out.tolist()) == {p for u in circuit.units if u.places()[0] in out
                                     for p in u.places().tolist()}  # fmt: skip
    for more in rows(trials, trials.supersets):
        assert more[flat].all()
        assert more.sum() - flat.sum() == max(1, round(0.1 * (~flat).sum()))
    assert trials.members == len(circuit)
    assert trials.size_of == () or trials.size_of[-1] == len(circuit)


def test_supersets_change_nothing_else():
    circuit = circuit_of(["mlp 0", "cluster 1.0", "head 1.1"])
    one, other = trials_of(circuit), trials_of(circuit, supersets=0)
    assert (one.core, one.ends, other.supersets.stop - other.supersets.start) == (
        other.core, other.ends, 0,
    )  # fmt: skip
    for name in ("controls", "without_others", "without_member", "alone", "pairs", "sizes"):
        for a, b in zip(rows(one, getattr(one, name)), rows(other, getattr(other, name)),
                        strict=True):  # fmt: skip
            np.testing.assert_array_equal(a, b)


def test_a_circuit_opened_to_its_leaves_has_the_trials_of_single_nodes():
    opened = circuit_of(["mlp 0", "head 1.1"]).opened("mlp 0")
    opened = opened.opened("cluster 0.0").opened("cluster 0.1")
    plain = Circuit(opened.nodes, opened.scores, SPACE, **ABOUT)
    for a, b in zip(trials_of(opened).masks, trials_of(plain).masks, strict=True):
        np.testing.assert_array_equal(a.flat(), b.flat())


def test_a_whole_mlp_found_twice_is_found_again_by_chance_too():
    """One of twelve: the leaves of two random MLPs are the same ones as often as that."""
    space = Space(12, 1, 64)
    whole = tree_of(space, "neurons", [], 4, Seen.nothing())
    found = Circuit.of_units(whole, ["mlp 3"], model="m", task="t")
    places = set(found.places().tolist())
    assert len(places) == 64
    draws = [drawing(found, space.nodes)] * 2
    claim = stable(places, [places], draws, alpha=0.02, seed=0)
    assert claim.effect.value == 1
    assert 0.03 < claim.p_value < 0.2
    assert claim.verdict == "fails"
    # As single neurons nobody would draw the same 64 twice.
    loose = Circuit(found.nodes, found.scores, space, "m", "t")
    claim = stable(places, [places], [drawing(loose, space.nodes)] * 2, alpha=0.02, seed=0)
    assert claim.verdict == "holds"
