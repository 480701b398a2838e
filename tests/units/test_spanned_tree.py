"""Trees of units split by span, and where their leaves are."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.tasks import Seen
from hagd_jax.units import Space, SpannedTree, Unit, load_tree, save_tree
from hagd_jax.units.split import gathered, kinds, split_unit, spread, whole_space, whole_unit
from hagd_jax.units.tree import tree_of
from hagd_jax.units.unit import leaf

NAMES = ("a", "b", "rest")
WHOLE = Space(3, 2, 4)
SPACE = Space(3, 6, 12)
# Two clusters of each block of heads or features, of leaves that take turns.
CLUSTERS = np.arange(WHOLE.nodes) % 2
PLAIN = tree_of(WHOLE, "neurons", [CLUSTERS], 2, Seen.nothing())
TREE = PLAIN.by_span(NAMES)
PART = Unit("mlp", (0, 0), 0, "mlp", ((18, 21),))


def all_units():
    """Every unit of the tree, whole and at each span."""
    found, waiting = [], list(TREE.roots)
    while waiting:
        unit = waiting.pop()
        found += [unit, *TREE.at_spans(unit)]
        waiting += () if PLAIN.unit(unit.name).leaf else TREE.children(unit)
    return found


UNITS = all_units()


def place(layer, kind, index, span):
    """Where a leaf is, written out: layers of heads, then of features; spans inside layers."""
    if kind == "head":
        return layer * 6 + span * 2 + index
    return 3 * 6 + layer * 12 + span * 4 + index


def test_leaves_lie_span_by_span_inside_each_layer():
    for layer, (s, span) in itertools.product(range(3), enumerate(NAMES)):
        for kind, width in (("head", 2), ("neuron", 4)):
            for index in range(width):
                at = place(layer, kind, index, s)
                own = TREE.leaf(at)
                assert own.name == f"{kind} {layer}.{index} at {span}"
                assert TREE.unit(own.name) == own
                assert (own.kind, own.index, own.span) == (kind, index, span)
                (whole,), (number,) = gathered(WHOLE, 3, np.array([at]))
                assert PLAIN.leaf(int(whole)).name == f"{kind} {layer}.{index}"
                assert number == s
                assert kinds(SPACE, 3)[at] == 2 * s + (kind == "neuron")


@given(st.lists(st.integers(0, WHOLE.nodes - 1), unique=True), st.sets(st.integers(0, 2)))
def test_spread_and_gathered_are_inverses(places, numbers):
    found = spread(WHOLE, 3, np.array(places, int), sorted(numbers))
    assert (np.diff(found) > 0).all()
    pairs = set(zip(*(x.tolist() for x in gathered(WHOLE, 3, found)), strict=True))
    assert pairs == set(itertools.product(places, numbers))


def test_every_unit_has_a_name_and_is_whole_or_at_a_span():
    names = [unit.name for unit in UNITS]
    assert {"layers 0-1", "layers 0-1 at b", "mlp 2 at rest", "cluster 1.1 at a", "head 0.1",
            "head 0.1 at a", "attention 1"} <= set(names)  # fmt: skip
    assert len(names) == len(set(names)) == len({unit.ranges for unit in UNITS})
    for unit in UNITS:
        assert TREE.unit(unit.name) == TREE.unit(unit) == unit
        own = whole_unit(unit, WHOLE, NAMES)
        assert own == PLAIN.unit(own.name)
        assert split_unit(own, WHOLE, NAMES, unit.span) == unit
        assert len(unit) == len(own) * (1 if unit.span else 3)


def test_children_fill_their_unit_and_know_it():
    for unit in UNITS:
        below = TREE.children(unit)
        assert bool(below) != unit.leaf
        if below:
            held = np.concatenate([child.places() for child in below])
            assert sorted(held.tolist()) == unit.places().tolist()
            for child in below:
                # A head at one span is a part of the whole head, whatever opened.
                above = unit if not child.leaf else TREE.unit(whole_unit(child, WHOLE, NAMES).name)
                assert TREE.parent(child) == above
        parts = TREE.at_spans(unit)
        held = np.concatenate([part.places() for part in parts])
        assert sorted(held.tolist()) == unit.places().tolist()
    assert TREE.parent("layers 0-1 at a").name == "layers 0-1"
    assert TREE.parent("layers 0-1") is None


@given(st.sets(st.integers(0, len(UNITS) - 1), max_size=6))
def test_the_rest_is_all_that_no_unit_holds(chosen):
    chain, taken = [], np.zeros(SPACE.nodes, int)
    for number in sorted(chosen):
        if not taken[UNITS[number].places()].any():
            chain.append(UNITS[number])
            taken[UNITS[number].places()] += 1
    for unit in TREE.rest(chain):
        taken[unit.places()] += 1
    assert (taken == 1).all()


def test_the_rest_of_a_block_at_one_span_is_the_block_at_the_others():
    rest = TREE.rest(["layers 0-1", "mlp 2 at a", "attention 2"])
    assert [unit.name for unit in rest] == ["mlp 2 at b", "mlp 2 at rest"]


def test_units_are_opened_and_closed():
    chain = TREE.opened(["mlp 0 at b", "head 1.0"], "head 1.0")
    assert [unit.name for unit in chain[1:]] == [f"head 1.0 at {name}" for name in NAMES]
    assert [unit.name for unit in TREE.closed(chain, "head 1.0")] == ["mlp 0 at b", "head 1.0"]
    below = TREE.opened(chain, "mlp 0 at b")
    assert {unit.span for unit in below[:2]} == {"b"}
    with pytest.raises(InputError, match="overlap"):
        TREE.antichain(["mlp 0 at b", "neuron 0.1"])


def test_files_keep_the_spans(tmp_path):
    save_tree(TREE, tmp_path / "tree.safetensors")
    found = load_tree(tmp_path / "tree.safetensors")
    assert isinstance(found, SpannedTree)
    assert (found.names, found.digest, found.space) == (NAMES, PLAIN.digest, SPACE)
    assert [unit.name for unit in found.children("mlp 1")] == ["cluster 1.0", "cluster 1.1"]
    assert repr(found) == f"{PLAIN!r} at 3 spans"
    assert found.counts() == PLAIN.counts()
    assert [unit.name for unit in found.of_kind("mlp")] == ["mlp 0", "mlp 1", "mlp 2"]
    broken = tree_of(SPACE, "neurons@a,b,rest", (), 2, Seen.nothing())
    object.__setattr__(broken, "dictionary", "neurons@a,a,rest")
    save_tree(broken, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match="each name once"):
        load_tree(tmp_path / "broken.safetensors")


def test_one_span_is_no_split_but_in_name():
    one = PLAIN.by_span(["all"])
    assert [unit.name for unit in one.leaves("head 0.1")] == ["head 0.1 at all"]
    assert one.unit("head 0.1") == one.unit("head 0.1 at all")
    assert one.children("head 0.1") == ()


def test_a_layer_of_one_mlp_has_it_at_each_span():
    tree = tree_of(Space(2, 1, 1), "mlps", (), 1, Seen.nothing()).by_span(("end", "rest"))
    assert tree.unit("mlp 1 at end").name == "mlp 1.0 at end"
    assert tree.unit("mlp 1.0 at end") == tree.unit("mlp 1 at end")
    assert (tree.unit("mlp 1").name, len(tree.unit("mlp 1"))) == ("mlp 1", 2)
    assert tree.unit("attention 0").name == "head 0.0"


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: TREE.unit("head 0.1 at c"), "unit: got 'head 0.1 at c'"),
        (lambda: TREE.unit("at a"), "unit"),
        (lambda: TREE.unit("head 0.2 at a"), "unit"),
        (lambda: TREE.unit(PLAIN.unit("mlp 0")), "unit: got 'mlp 0'"),
        (lambda: TREE.by_span(NAMES), "a second split"),
        (lambda: TREE.layout, "its layout"),
        (lambda: TREE.depths(), "split by span"),
        (lambda: TREE.inner(0), "split by span"),
        (lambda: PLAIN.by_span(()), "names of spans"),
        (lambda: PLAIN.by_span(("a", "a")), "each name once"),
        (lambda: PLAIN.unit("head 0.1 at a"), "unit"),
        (lambda: tree_of(SPACE, "neurons@a,b", (), 2, Seen.nothing()).unit("mlp 0 at c"), "unit"),
        (lambda: tree_of(SPACE, "neurons@a,b,c,d", (), 2, Seen.nothing()), "multiples of 4"),
        (lambda: tree_of(SPACE, "neurons@a,b,c", [np.arange(54)], 2, Seen.nothing()), "clusters"),
        (lambda: whole_space(SPACE, 5), "multiples of 5"),
        (lambda: split_unit(leaf(WHOLE, "neuron", 0), WHOLE, NAMES, "c"), "span of a unit"),
        (lambda: whole_unit(PART, WHOLE, NAMES), "same leaves"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(act, says):
    with pytest.raises(InputError, match=says):
        act()
