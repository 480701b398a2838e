"""Which circuits are run to test one: it, its parts, its complement, and random ones like it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.alike import Alike
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.edge_circuit import EdgeCircuit
from hagd_jax.causal.wiring import Wiring
from hagd_jax.units import Edges, Nodes, Spanned
from hagd_jax.units.components import AnyParts, Components
from hagd_jax.units.split import kinds
from hagd_jax.units.unit_edges import UnitEdges
from hagd_jax.units.wired import Wired

AnyCircuit = Circuit | EdgeCircuit | Wiring
Mask = Nodes | Edges | UnitEdges
# The share of the nodes outside that a superset has, too.
MORE = 0.1
# Shares of a circuit's own members, best first, at which its curve is drawn.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class Trials:
    """Trials are all runs under one ablation, with the position of each group of runs.

    Rows 0 to 3 of what `behaviour(..., with_model=True)` gives for `masks` are the model, the empty
    circuit, the circuit, and the model without it; slices count the same way.

    Attributes:
        masks: Of all runs but the model's.
        controls: Random circuits of the same size.
        without_others: The model without as many random members of the complement.
        without_member: The circuit without one member each, which is removed whole.
        alone: The model without one member each, the same ones.
        pairs: The model without two of those at a time.
        subsets: The circuit without a random part, and the model without it.
        sizes: The circuit's best members, at `SHARES`.
        tested: Lowest places of the members that are left out one by one.
        paired: (P, 2) which of those, of each pair.
        size_of: How many members each of `sizes` has.
        members: How many members the circuit has; those tested may be fewer.
        ends: How many masks come first that every claim needs: empty, circuit, complement.
        core: How many masks come first that decide.
        supersets: The circuit with a random part of the nodes outside it.
    """

    masks: tuple[Mask, ...]
    controls: slice
    without_others: slice
    without_member: slice
    alone: slice
    pairs: slice
    subsets: tuple[slice, slice]
    sizes: slice
    tested: np.ndarray
    paired: np.ndarray
    size_of: tuple[int, ...]
    members: int
    ends: int
    core: int
    supersets: slice = dataclasses.field(default_factory=lambda: slice(0, 0))

    __repr__ = one_line

    FULL, EMPTY, CIRCUIT, COMPLEMENT = range(4)


def make_trials(
    circuit: AnyCircuit,
    parts: AnyParts,
    *,
    controls: int,
    members: int,
    pairs: int,
    subsets: int,
    seed: int,
    supersets: int = 0,
) -> Trials:
    """Draw the masks of all trials of a circuit.

    Members are the circuit's units: each is left out whole. Random circuits have as many nodes as
    the circuit; those of a circuit with units of several nodes have units like its own, too, see
    `causal.alike`.

    Args:
        circuit: The circuit.
        parts: What it consists of.
        controls: Random circuits, none twice: half keep the circuit's make-up layer by layer, half
            only by kind, and where there are too few, some of any make-up; and as many random sets
            outside it.
        members: At most so many members are left out one by one.
        pairs: At most so many pairs of those.
        subsets: Random parts.
        seed: Of everything.
        supersets: Random supersets, each with `MORE` of the nodes outside.

    Returns:
        The trials.
    """
    like, own = circuit.mask(), circuit.parts()
    flat, there = like.flat().astype(bool), existing(parts)
    inside, outside = np.sort(own.first), np.flatnonzero(there & ~flat)
    # One stream of numbers for each purpose: what decides is the same whatever else is drawn.
    draw = [np.random.default_rng([seed, purpose]) for purpose in range(5)]
    tested = np.sort(draw[0].permutation(inside)[:members])
    drawing = Drawing(flat, there, parts, Alike.of(circuit))
    others = drawing.outside(controls, draw[2])
    paired = np.array(list(itertools.combinations(range(len(tested)), 2)), int).reshape(-1, 2)
    paired = draw[3].permutation(paired)[:pairs]
    drawn = [draw[4].permutation(inside)[: draw[4].integers(1, max(len(inside), 2))]
             for _ in range(subsets)]  # fmt: skip
    best = own.first[np.argsort(-own.scores, kind="stable")]
    size_of = sorted({max(1, round(share * len(best))) for share in SHARES if len(best)})
    more = _more(outside, supersets, np.random.default_rng([seed, 6]))
    nothing = with_(np.zeros_like(flat), given(parts))
    groups = [
        [nothing, flat, there & ~flat],
        drawing.controls(controls, draw[1]),
        [without(there, out) for out in others if len(out)],
        [without(flat, own.all_of([place])) for place in tested],
        [with_(flat, extra) for extra in more],
        [without(there, own.all_of([place])) for place in tested],
        [without(there, own.all_of(tested[pair])) for pair in paired],
        [without(flat, own.all_of(part)) for part in drawn],
        [without(there, own.all_of(part)) for part in drawn],
        [without(flat, own.all_of(best[size:])) for size in size_of],
    ]
    # The model's own row comes first.
    ends = np.cumsum([1, *map(len, groups)]).tolist()
    rows = [slice(a, b) for a, b in itertools.pairwise(ends)]
    masks = tuple(like.like(row) for group in groups for row in group)
    return Trials(masks, rows[1], rows[2], rows[3], rows[5], rows[6], (rows[7], rows[8]), rows[9],
                  tested, paired, tuple(size_of), members=len(inside), ends=3,
                  core=rows[3].stop - 1, supersets=rows[4])  # fmt: skip


def _more(outside: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random shares of the nodes outside, `MORE` each."""
    # Of nodes and not of units, so that circuits of any resolution meet the same test.
    size = min(max(1, round(MORE * len(outside))), len(outside))
    return [rng.permutation(outside)[:size] for _ in range(count if size else 0)]


def existing(parts: AnyParts) -> np.ndarray:
    """Mark the (P,) places of a flat mask at which the model has a unit."""
    if isinstance(parts, Components | Wired):
        return parts.space.flat().astype(bool)
    return np.ones(parts.space.nodes, bool)


def given(parts: AnyParts) -> list[int]:
    """List the places of what the empty circuit has: no node, and no edge between components.

    Of edges between units it has that from the embedding to the logits, so that it does what the
    empty circuit of nodes does, and the gates of both are measured from one point.
    """
    return [parts.direct] if isinstance(parts, Wired) else []


def without(flat: np.ndarray, out: Any) -> np.ndarray:
    """Return a copy of a flat mask with some places set to false."""
    changed = flat.copy()
    changed[np.asarray(out, int)] = False
    return changed


def with_(flat: np.ndarray, more: Any) -> np.ndarray:
    """Return a copy of a flat mask with some places set to true."""
    changed = flat.copy()
    changed[np.asarray(more, int)] = True
    return changed


def groups(parts: AnyParts) -> tuple[np.ndarray, np.ndarray]:
    """Number the group, layer by kind, of each place of a flat mask.

    Args:
        parts: What circuits consist of.

    Returns:
        (P,) labels that tell kinds of each layer apart, and (P,) labels of kinds alone; nodes of
        different spans are of different kinds.
    """
    if isinstance(parts, Wired):
        kind = np.asarray(parts.kind)
        return np.asarray(parts.layer) * 8 + kind, kind
    if isinstance(parts, Components):
        leaves = dataclasses.astuple(parts.space)
        kind = np.concatenate([np.full(np.size(x), i) for i, x in enumerate(leaves)])
        layer = [np.broadcast_to(np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)), x.shape)
                 for x in leaves[:-1]]  # fmt: skip
        layer = np.concatenate([*(x.ravel() for x in layer), np.zeros(np.size(leaves[-1]))])
    else:
        names = parts.names if isinstance(parts, Spanned) else ()
        kind, layer = kinds(parts.space, len(names)), parts.space.layer
        return layer * max(8, 2 * len(names)) + kind, kind
    return (layer * 8 + kind).astype(int), kind


class Drawing(NamedTuple):
    """Random circuits of a circuit's size, and random sets outside it.

    Attributes:
        flat: (P,) the circuit.
        there: (P,) where the model has a node or an edge.
        parts: What the circuit consists of.
        alike: What draws units like the circuit's; None if all of them are single nodes.
    """

    flat: np.ndarray
    there: np.ndarray
    parts: AnyParts
    alike: Alike | None

    __repr__ = one_line

    def outside(self, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Places of sets outside the circuit, of as many nodes as it has if there are so many."""
        if self.alike is not None:
            return [self.alike.drawn(rng, fine=turn % 2 == 0, outside=True)
                    for turn in range(count)]  # fmt: skip
        places = np.flatnonzero(self.there & ~self.flat)
        return [rng.permutation(places)[: self.flat.sum()] for _ in range(count)]

    def controls(self, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Other circuits of the same size, each once: neither the circuit itself nor a copy.

        With the circuit left out of its controls, copies among these would count the few circuits
        of a small model several times, and the p-value would be too small.
        """
        kept: dict[bytes, np.ndarray] = {self.flat.tobytes(): self.flat}
        fine, coarse = groups(self.parts)
        blocks = [
            [np.flatnonzero(self.there & (label == value)) for value in np.unique(label)]
            for label in (fine, coarse, 0 * coarse)
        ]
        # Layer by layer and kind by kind in turn; where those are too few, of any make-up.
        turns = [*(turn % 2 for turn in range(4 * count)), *[2] * (4 * count)]
        for turn in turns:
            if len(kept) > count:
                break
            if self.alike is not None and turn < 2:
                places = self.alike.drawn(rng, fine=turn == 0)
                changed = with_(np.zeros_like(self.flat), places)
            else:
                changed = self.flat.copy()
                for places in blocks[turn]:
                    changed[places] = rng.permutation(self.flat[places])
            kept.setdefault(changed.tobytes(), changed)
        return list(kept.values())[1:]
