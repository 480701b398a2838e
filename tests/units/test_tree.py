"""The tree of units, against sets of leaves and against networkx."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.hierarchy import Levels
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.search import Tree
from hagd_jax.tasks import Seen, look
from hagd_jax.units import Space, Unit, blocks, neurons, tree
from hagd_jax.units.tree import block_of, tree_of
from tests.units.trees import antichains, trees

CONFIG = DecoderConfig(vocab_size=9, n_layers=6, d_model=8, n_heads=2, d_mlp=4)
MODEL = abstract(CONFIG)
# Pairs of leaves: 0 to 11 are heads, 12 to 35 neurons.
PAIRS = np.arange(36) // 2


def held(unit):
    return frozenset(unit.places().tolist())


def every(found):
    """All units, from the roots down."""
    waiting, seen = list(found.roots), []
    while waiting:
        seen.append(waiting.pop())
        waiting += found.children(seen[-1])
    return seen


@settings(max_examples=80)
@given(trees())
def test_every_set_of_leaves_has_one_name_and_lies_below_its_parent(found):
    units, graph = every(found), nx.DiGraph()
    assert len({held(unit) for unit in units}) == len({unit.name for unit in units}) == len(units)
    leaves = [unit for unit in units if unit.leaf]
    assert sorted(place for unit in leaves for place in held(unit)) == list(
        range(found.space.nodes)
    )
    for unit in units:
        assert found.unit(unit.name) == found.unit(unit) == unit
        graph.add_node(unit.name)
        children = found.children(unit)
        graph.add_edges_from((unit.name, child.name) for child in children)
        assert all(found.parent(child) == unit for child in children)
        if children:
            assert len(children) > 1
            assert sum(map(len, children)) == len(unit)
            assert frozenset().union(*map(held, children)) == held(unit)
        assert {held(leaf) for leaf in found.leaves(unit)} == {frozenset([p]) for p in held(unit)}
    assert nx.is_branching(graph)
    top = {name for name, above in graph.in_degree if not above}
    assert {unit.name for unit in found.roots} == top
    assert sum(found.counts().values()) == len(units) - len(leaves)


@settings(max_examples=80)
@given(trees())
def test_clusters_of_heads_are_known_by_their_heads_too(found):
    width, clusters = found.space.heads, {}
    for unit in every(found):
        if unit.kind == "cluster" and unit.block == "attention":
            heads = [place % width for place in sorted(held(unit))]
            clusters[f"heads {unit.layers[0]}.{','.join(map(str, heads))}"] = unit
            backwards = ",".join(map(str, reversed(heads)))
            assert found.unit(f"heads {unit.layers[0]}.{backwards}") == unit
    for layer in range(found.space.layers):
        for pair in [(0, 1), (1, 2), (0, width), (0, 0)]:
            name = f"heads {layer}.{pair[0]},{pair[1]}"
            if name not in clusters:
                with pytest.raises(InputError, match="unit"):
                    found.unit(name)


@settings(max_examples=80)
@given(trees())
def test_units_are_bands_blocks_and_the_clusters_cut_at_blocks(found):
    """By brute force: the sets of leaves with equal keys at each level."""
    keys = [found.space.layer // found.band, block_of(found.space), *found.levels]
    wanted = {
        frozenset(np.flatnonzero(key == value).tolist()) for key in keys for value in np.unique(key)
    }
    wanted |= {frozenset([place]) for place in range(found.space.nodes)}
    assert {held(unit) for unit in every(found)} == wanted


@settings(max_examples=80)
@given(data=st.data(), found=trees())
def test_leaves_are_in_one_unit_of_an_antichain_or_in_its_complement(data, found):
    chain = found.antichain(data.draw(antichains(found)))
    rest = found.rest(chain)
    count = np.zeros(found.space.nodes, int)
    for unit in (*chain, *rest):
        count[unit.places()] += 1
    assert (count == 1).all()
    # No fewer units would do: a parent of any of the rest holds a leaf of a kept unit.
    kept = frozenset().union(*map(held, chain))
    for unit in rest:
        parent = found.parent(unit)
        assert parent is None or held(parent) & kept


@settings(max_examples=60)
@given(data=st.data(), found=trees(least=2))
def test_opening_and_closing_are_inverse(data, found):
    chain = found.antichain(data.draw(antichains(found, least=1)))
    whole = [unit for unit in chain if not unit.leaf]
    for unit in whole:
        opened = found.opened(chain, unit)
        assert sum(map(len, opened)) == sum(map(len, chain))
        assert len(opened) == len(chain) + len(found.children(unit)) - 1
        assert found.closed(opened, unit.name) == chain


@settings(max_examples=60)
@given(trees())
def test_depths_are_what_masks_take(found):
    levels = found.depths()
    made = Tree.of(found)
    assert made.seen == Seen.nothing()
    assert len(made.counts) == len(levels)
    for level, row in enumerate(levels):
        for value in np.unique(row):
            inside = held_by = frozenset(np.flatnonzero(row == value).tolist())
            match = [unit for unit in every(found) if held(unit) == held_by]
            if match:
                continue
            # Leaves that have no unit so deep stay together in the last that they have.
            above = {found.parent(found.leaf(place)) for place in inside}
            assert len(above) == 1
        assert level < len(levels)


def test_names_of_a_small_tree():
    found = tree(MODEL, clusters=[PAIRS], band=4)
    assert [unit.name for unit in found.roots] == ["layers 0-3", "layers 4-5"]
    assert [unit.name for unit in found.children("layers 4-5")] == [
        "attention 4", "mlp 4", "attention 5", "mlp 5",
    ]  # fmt: skip
    # A cluster of a whole block is the block.
    assert [unit.name for unit in found.children("attention 4")] == ["head 4.0", "head 4.1"]
    assert [unit.name for unit in found.children("mlp 5")] == ["cluster 5.0", "cluster 5.1"]
    assert [unit.name for unit in found.children("cluster 5.1")] == ["neuron 5.2", "neuron 5.3"]
    assert found.parent("neuron 5.3").name == "cluster 5.1"
    assert found.unit("cluster 5.1").block == "mlp"
    assert (found.counts(), len(found.of_kind("cluster"))) == (
        {"band": 2, "attention": 6, "mlp": 6, "cluster": 12}, 12,
    )  # fmt: skip


def test_a_block_of_one_leaf_is_the_leaf():
    found = tree(MODEL, blocks(MODEL))
    assert found.unit("mlp 3") == found.unit("mlp 3.0")
    assert found.unit("mlp 3").leaf
    assert not found.counts()["mlp"]
    assert [unit.name for unit in found.rest(["layers 0-3", "mlp 4"])] == [
        "attention 4", "attention 5", "mlp 5.0",
    ]  # fmt: skip


def test_clusters_are_cut_at_blocks_and_numbered_alike_whatever_their_labels():
    crossing = np.arange(36) % 3
    found = tree(MODEL, clusters=[crossing], seen=Seen.nothing())
    for unit in found.of_kind("cluster"):
        assert len({int(block_of(found.space)[place]) for place in held(unit)}) == 1
    other = tree(MODEL, clusters=[7 - 2 * crossing])
    assert other.digest == found.digest
    assert [u.name for u in other.of_kind("cluster")] == [u.name for u in found.of_kind("cluster")]
    for changed in (
        tree(MODEL), tree(MODEL, clusters=[crossing], band=2), tree(MODEL, clusters=[PAIRS]),
        tree_of(Space(6, 2, 4), "d#12345678", [crossing], 4, Seen.nothing()),
    ):  # fmt: skip
        assert changed.digest != found.digest


def test_a_tree_has_seen_what_its_clusters_have():
    assert tree(MODEL).seen == Seen.nothing()
    assert tree(MODEL, clusters=[PAIRS]).seen == Seen.unknown()
    before = look(ablation="mean")
    assert tree(MODEL, clusters=Levels((PAIRS,), before)).seen == before
    more = tree(MODEL, clusters=Levels((PAIRS,), before), seen=look(ablation="zero")).seen
    assert more.ablations == ("mean", "zero")
    assert Tree.of(tree(MODEL, clusters=[PAIRS], seen=before)).seen == before


@pytest.mark.parametrize(
    ("names", "got"),
    [
        (["mlp 0", "mlp 0"], "'mlp 0' twice"),
        (["mlp 0", "neuron 0.1"], "'mlp 0' and 'neuron 0.1', which overlap"),
        (["layers 0-3", "cluster 1.0"], "which overlap"),
        (["mlp 6"], "'mlp 6'"),
        (["head 0.2"], "'head 0.2'"),
        (["head 0.01"], "'head 0.01'"),
        (["neuron -1.0"], "'neuron -1.0'"),
        (["feature 0.0"], "'feature 0.0'"),
        (["layers 0-1"], "'layers 0-1'"),
        (["cluster 0.9"], "'cluster 0.9'"),
        ([""], "''"),
        ("mlp 0", "str"),
        ([3], "int"),
        (None, "NoneType"),
        ([Unit("cluster", (0, 0), 0, "mlp", ((12, 15),))], "'cluster 0.0'"),
    ],
)
def test_what_is_no_antichain_is_refused(names, got):
    found = tree(MODEL, clusters=[PAIRS])
    for wanted in (found.antichain, found.rest, lambda units: found.closed(units, "mlp 0")):
        with pytest.raises(InputError, match=got):
            wanted(names)


def test_what_cannot_be_opened_or_closed_is_refused():
    found = tree(MODEL)
    for name in ("head 0.1", "mlp 1"):
        with pytest.raises(InputError, match="unit to open"):
            found.opened(["mlp 0", "head 0.1"], name)
    with pytest.raises(InputError, match="1 of 2 leaves"):
        found.closed(["mlp 0", "head 0.1"], "attention 0")
    with pytest.raises(InputError, match="a part of 'mlp 0'"):
        found.closed(["mlp 0", "head 0.1"], "neuron 0.1")
    with pytest.raises(InputError, match="unit"):
        found.children("mlp 9")


@pytest.mark.parametrize(
    "clusters",
    [
        [np.arange(35)], [np.zeros(36)], [np.full(36, -1)], np.arange(36), [None],
        [np.arange(36) // 2, np.arange(36) // 6], "levels", [np.arange(36), np.zeros((6, 6), int)],
    ],
)  # fmt: skip
def test_what_are_no_clusters_is_refused(clusters):
    with pytest.raises(InputError, match="cluster"):
        tree(MODEL, clusters=clusters)


@pytest.mark.parametrize("band", [0, -1, 1.0, True, None, 2**31, 2**70])
def test_what_is_no_band_is_refused(band):
    with pytest.raises(InputError, match="band"):
        tree(MODEL, band=band)


def test_a_tree_of_a_large_model_is_made_in_a_moment():
    """SmolLM2's sizes: 46,350 leaves, two levels of clusters."""
    space = Space(30, 9, 1536)
    fine = np.random.default_rng(0).integers(0, 800, space.nodes)
    found = tree_of(space, "neurons", [fine // 16, fine], 4, Seen.nothing())
    rest = found.rest(["mlp 0", "head 3.1", "neuron 7.12"])
    assert sum(map(len, rest)) == 46_350 - 1536 - 2
    assert len(rest) < 500
    assert neurons(MODEL).space.nodes == 36
