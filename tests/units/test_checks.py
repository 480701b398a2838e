"""What is taken for a mask, for scores, for nodes and for a space."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hagd_jax.causal import Circuit
from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig
from hagd_jax.search import top_nodes
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Edges, Nodes, Scores, Selection, Space
from hagd_jax.units.checks import require_mask, require_shapes

SPACE = Space(2, 2, 3)
CONFIG = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
ABOUT = {"model": "m", "task": "t"}
MASK, SCORES = Nodes.full(SPACE, True), Nodes.full(SPACE, 0.5)
# What JAX puts into a pytree while it transforms one, and what users do.
LEAVES = [None, object(), "a", [[1], [2, 3]], 10**400, np.ones(3), np.ones((2, 0, 1, 3)), {}]


@given(arrays.arrays(np.float32, (SPACE.nodes,), elements=st.sampled_from([0, 1, 0.5, np.nan, -1])))
def test_a_mask_is_one_of_zeros_and_ones(row):
    mask = Nodes.from_flat(SPACE, row)
    if set(row.tolist()) <= {0.0, 1.0}:
        require_mask("mask", mask, SPACE)
        circuit = Circuit.from_mask(mask, SCORES, **ABOUT)
        np.testing.assert_array_equal(circuit.mask().flat(), row == 1)
    else:
        for take in (lambda: require_mask("mask", mask), lambda: Circuit.from_mask(mask, mask)):
            with pytest.raises(InputError, match=r"mask, (heads|features): got"):
                take()


@pytest.mark.parametrize(
    ("mask", "scores"),
    [
        (Scores(SCORES, Seen.nothing()), SCORES),
        (MASK, MASK.heads),
        (None, SCORES),
        (MASK, None),
        (MASK, Nodes.full(Space(2, 2, 4), 1.0)),
        (MASK, Nodes.full(Space(3, 2, 3), 1.0)),
        (Nodes.full(SPACE, float("nan")), SCORES),
        (Nodes(MASK.heads, None), SCORES),
        (Nodes(MASK.heads[:, None], MASK.features[:, None]), SCORES),
        (Edges.existing(CONFIG), Edges.existing(CONFIG)),
    ],
)
def test_a_circuit_is_made_of_a_mask_and_scores_of_the_same_nodes(mask, scores):
    with pytest.raises(InputError):
        Circuit.from_mask(mask, scores, **ABOUT)


def test_a_mask_of_edges_is_of_one_model():
    existing = Edges.existing(CONFIG)
    require_mask("mask", existing, existing)
    other = Edges.existing(CONFIG.replace(n_layers=3))
    half = jax.tree.map(lambda x: x * 0.5, existing)
    for wrong in (other, half, MASK, existing.replace(q=None), existing.replace(final="a")):
        with pytest.raises(InputError):
            require_mask("mask", wrong, existing)


def test_traced_masks_are_known_by_their_shapes():
    @jax.jit
    def checked(mask):
        require_mask("mask", mask, SPACE)
        return mask.heads.sum()

    assert checked(SCORES) == 2
    with pytest.raises(InputError):
        checked(Nodes.full(Space(2, 3, 3), 1.0))


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_nodes_of_anything_are_a_pytree_but_have_no_values(leaf):
    """Unflattening takes any leaves; what reads them says which are none."""
    for nodes in (Nodes(leaf, leaf), Nodes(leaf, MASK.features), Nodes(MASK.heads, leaf)):
        leaves, structure = jax.tree.flatten(nodes, is_leaf=lambda x: x is leaf)
        assert repr(jax.tree.unflatten(structure, leaves)) == repr(nodes)
        assert repr(Scores(nodes, Seen.nothing())).startswith("Scores(")
        assert repr(Selection(nodes, Seen.nothing())).startswith("Selection(")
        uses = [lambda n=nodes: n.space, lambda n=nodes: n.like(np.ones(1)),
                lambda n=nodes: require_shapes("scores", n), lambda n=nodes: top_nodes(n, 1),
                lambda n=nodes: Circuit.from_mask(n, n, **ABOUT)]  # fmt: skip
        for use in uses:
            with pytest.raises(InputError):
                use()


@pytest.mark.parametrize(
    "space", [Space(-1, 2, 3), Space("a", 1, 2), Space(1.0, 2, 3), Space(None, 1, 1), (1, 2, 3)]
)
def test_a_space_has_whole_sizes(space):
    uses = [lambda: Nodes.full(space, 1.0), lambda: Nodes.from_flat(space, np.ones(3)),
            lambda: Space.nodes.fget(space), lambda: Space.layer.fget(space)]  # fmt: skip
    for use in uses:
        with pytest.raises(InputError, match="space"):
            use()


@pytest.mark.parametrize("space", [Space(0, 0, 0), Space(0, 2, 3), Space(2, 0, 3), Space(2, 2, 0)])
def test_a_space_may_lack_a_kind_of_node(space):
    row = np.arange(space.nodes)
    nodes = Nodes.from_flat(space, row)
    np.testing.assert_array_equal(nodes.flat(), row)
    assert nodes.space == space == Nodes.full(space, True).space
    assert space.layer.shape == row.shape


@pytest.mark.parametrize("wrong", [(None, None), (MASK, None), (None, Seen.nothing()), (1, 2)])
def test_scores_and_selections_hold_units_and_a_record(wrong):
    for kind in (Scores, Selection):
        with pytest.raises(InputError):
            kind(*wrong)
        with pytest.raises(InputError):
            kind(MASK, Seen.nothing()).after(None)


def test_nodes_are_ranked_by_numbers():
    with pytest.raises(InputError, match="bool values"):
        top_nodes(Scores(MASK, Seen.nothing()), 1)
    # The negative of an unsigned number is a large one.
    small = Nodes.from_flat(SPACE, np.arange(SPACE.nodes, dtype=np.uint8))
    assert np.flatnonzero(top_nodes(small, 2).flat()).tolist() == [8, 9]
