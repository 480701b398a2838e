"""Random trees of units, and random antichains of them, for property tests."""

import numpy as np
from hypothesis import strategies as st

from hagd_jax.tasks import Seen
from hagd_jax.units import Space
from hagd_jax.units.tree import tree_of


@st.composite
def trees(draw, *, least=1):
    """A tree of at most five layers, with up to three levels of clusters that may cross blocks."""
    sizes = st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(0, 6))
    space = Space(*draw(sizes.filter(lambda s: s[0] * (s[1] + s[2]) >= least)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    levels = []
    for _ in range(draw(st.integers(0, 3))):
        if not levels:
            levels.append(rng.integers(0, draw(st.integers(1, 20)), space.nodes))
        else:
            # Coarser: clusters of the last level are merged.
            merged = rng.integers(0, draw(st.integers(1, 6)), int(levels[0].max()) + 1)
            levels.insert(0, merged[levels[0]])
    return tree_of(space, "neurons", levels, draw(st.integers(1, 4)), Seen.nothing())


@st.composite
def antichains(draw, tree, *, least=0):
    """Units of a tree: every unit on the way down is kept, left out or opened."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    found, waiting = [], list(tree.roots)
    while waiting:
        unit = waiting.pop()
        turn = rng.random()
        if turn < 0.25:
            found.append(unit)
        elif turn < 0.75:
            waiting += tree.children(unit)
    rng.shuffle(found)
    if len(found) < least:
        found = list(tree.roots)[:1]
    return found
