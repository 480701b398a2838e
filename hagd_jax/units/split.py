"""Units that are split by the spans of prompts: where their leaves are in the space of the split.

A space split by S spans has S leaves for each leaf of the whole one. In each layer the heads of the
first span come first, then those of the second, and so on; so do features. A block at one span is
then one range of places, as a whole block is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError
from hagd_jax.units.nodes import Space
from hagd_jax.units.unit import Unit, leaf, ranges_of


def whole_space(space: Space, spans: int) -> Space:
    """Return the space that was split.

    Args:
        space: The space of the split.
        spans: S, number of spans; 0 where nothing was split.

    Returns:
        As many layers, and a part of the heads and features.

    Raises:
        InputError: If there are not S times as many heads and features.

    Example:
        >>> whole_space(Space(2, 6, 15), 3)
        Space(layers=2, heads=2, features=5)
    """
    if not spans:
        return space
    layers, heads, features = space
    if heads % spans or features % spans:
        raise InputError(
            "space of a dictionary split by span",
            got=f"{heads} heads and {features} features a layer",
            expected=f"multiples of {spans}, the number of spans",
        )
    return Space(layers, heads // spans, features // spans)


def spread(whole: Space, spans: int, places: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """List the leaves that stand for some whole leaves at some spans.

    Args:
        whole: The space that is split.
        spans: S, number of spans.
        places: (n,) places of whole leaves.
        numbers: (K,) numbers of spans.

    Returns:
        (n K,) places in the space of the split, ascending.

    Example:
        >>> spread(Space(2, 2, 3), 2, np.array([0, 3, 4]), [1]).tolist()
        [2, 7, 11]
    """
    places = np.asarray(places, int)
    width, offset = _rows(whole, places, 1)
    layer, index = np.divmod(places - offset, width)
    at = np.asarray(numbers, int)[:, None]
    return np.sort((spans * (offset + layer * width) + at * width + index).ravel())


def gathered(whole: Space, spans: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which whole leaf, and which span, each leaf of a split is of.

    Args:
        whole: The space that is split.
        spans: S, number of spans.
        places: (n,) places in the space of the split.

    Returns:
        (n,) places of whole leaves, and (n,) numbers of spans.

    Example:
        >>> [x.tolist() for x in gathered(Space(2, 2, 3), 2, np.array([2, 7, 11]))]
        [[0, 3, 4], [1, 1, 1]]
    """
    places = np.asarray(places, int)
    width, offset = _rows(whole, places, spans)
    layer, inside = np.divmod(places - spans * offset, spans * width)
    number, index = np.divmod(inside, width)
    return offset + layer * width + index, number


def kinds(space: Space, spans: int = 0) -> np.ndarray:
    """Number the kind of each leaf; leaves of different spans are of different kinds.

    Args:
        space: Numbers of layers, heads and features.
        spans: S, number of spans; 0 where leaves are whole.

    Returns:
        (N,) 0 for heads and 1 for features, and 2 more for each span after the first.

    Example:
        >>> kinds(Space(1, 2, 4), 2).tolist()
        [0, 2, 1, 1, 3, 3]
    """
    layers, heads, features = space
    kind = np.repeat([0, 1], [layers * heads, layers * features])
    if not spans:
        return kind
    return kind + 2 * gathered(whole_space(space, spans), spans, np.arange(space.nodes))[1]


def _rows(whole: Space, places: np.ndarray, spans: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place the width of a whole layer of its kind, and the first whole place of that."""
    layers, heads, features = whole
    cut = layers * heads
    inside = places >= spans * cut
    return np.where(inside, max(features, 1), max(heads, 1)), np.where(inside, cut, 0)


def split_unit(unit: Unit, whole: Space, names: Sequence[str], span: str = "") -> Unit:
    """Return a unit of the whole space in the space of the split, at one span or at all.

    Args:
        unit: The whole unit.
        whole: Its space.
        names: S names of spans.
        span: One of them; all if empty.

    Raises:
        InputError: If there is no such span.

    Example:
        >>> unit = leaf(Space(2, 2, 3), "neuron", 4)
        >>> split_unit(unit, Space(2, 2, 3), ("a", "b"), "b")
        Unit(kind='neuron', layers=(0, 0), index=0, block='mlp', ranges=((11, 12),), span='b')
    """
    if span and span not in names:
        raise InputError("span of a unit", got=quoted(span), expected=f"one of {', '.join(names)}")
    span = names[0] if len(names) == 1 else span
    numbers = [list(names).index(span)] if span else range(len(names))
    ranges = ranges_of(spread(whole, len(names), unit.places(), numbers))
    return dataclasses.replace(unit, ranges=ranges, span=span)


def whole_unit(unit: Unit, whole: Space, names: Sequence[str]) -> Unit:
    """Return the whole unit that a unit in the space of the split is a part of.

    Args:
        unit: In the space of the split.
        whole: The space that is split.
        names: S names of spans.

    Returns:
        The unit with which `split_unit` gives this one.

    Raises:
        InputError: If the leaves of the unit are not those of a whole one at its span.

    Example:
        >>> unit = Unit("neuron", (0, 0), 0, "mlp", ((11, 12),), "b")
        >>> whole_unit(unit, Space(2, 2, 3), ("a", "b")).ranges
        ((4, 5),)
    """
    places = np.unique(gathered(whole, len(names), unit.places())[0])
    found = dataclasses.replace(unit, ranges=ranges_of(places), span="")
    if split_unit(found, whole, names, unit.span) != unit:
        raise InputError("unit of a circuit split by span", got=quoted(unit.name),
                         expected="the same leaves at each of its spans")  # fmt: skip
    return found


def split_leaf(space: Space, kind: str, place: int, names: Sequence[str]) -> Unit:
    """Return the leaf at a place, split by spans or not.

    Args:
        space: Numbers of layers, heads and features, of the split if there is one.
        kind: Kind of the leaves that are not heads.
        place: From 0 to `space.nodes` - 1.
        names: Names of spans; none if leaves are whole.

    Example:
        >>> split_leaf(Space(2, 4, 6), "neuron", 11, ("a", "b")).name
        'neuron 0.0 at b'
    """
    if not names:
        return leaf(space, kind, place)
    whole = whole_space(space, len(names))
    (own,), (number,) = gathered(whole, len(names), np.array([place]))
    found = leaf(whole, kind, int(own))
    return dataclasses.replace(found, ranges=((place, place + 1),), span=names[number])
