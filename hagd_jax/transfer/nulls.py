"""What a circuit is compared with by chance: units like its own, and roles that change places."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from hagd_jax.errors import InputError, require_index, require_is, require_number
from hagd_jax.transfer.portrait import Portrait
from hagd_jax.units import Space, Unit
from hagd_jax.units.unit import CLUSTER, leaf, ranges_of

# Thirds of the depth, within which roles change places.
BANDS = 3


def lookalikes(space: Space, units: Iterable[Unit], seed: int) -> tuple[Unit, ...]:
    """Draw units of the same kinds, sizes and layers, with other heads and neurons.

    The heads of each layer change places, and so do its neurons. A whole block stays what it is, so
    that a circuit of such blocks is harder to tell from chance, never easier.

    Args:
        space: Numbers of layers, heads and neurons.
        units: The units, without a leaf in common.
        seed: Of the draw.

    Returns:
        As many units, in their order: leaves, and clusters of them.

    Raises:
        InputError: If a unit is not inside the space.

    Example:
        >>> space = Space(2, 4, 6)
        >>> [unit.name for unit in lookalikes(space, [leaf(space, "neuron", 3)], seed=1)]
        ['head 0.2']
    """
    require_is("space", space, Space)
    layers, heads, features = space
    rng, order = np.random.default_rng([require_index("seed", seed), 2]), np.arange(space.nodes)
    for start, width in ((0, heads), (layers * heads, features)):
        for begin in range(start, start + layers * width, width):
            order[begin : begin + width] = rng.permutation(order[begin : begin + width])
    found = []
    for number, unit in enumerate(units):
        require_is("units", unit, Unit)
        if unit.ranges[-1][1] > space.nodes:
            raise InputError("units", got=unit.name, expected=f"units of {tuple(space)}")
        places = np.sort(order[unit.places()])
        if unit.leaf:
            found.append(leaf(space, "neuron", int(places[0])))
        elif ranges_of(places) == unit.ranges:
            found.append(unit)
        else:
            kind = CLUSTER if unit.block else unit.kind
            found.append(dataclasses.replace(unit, kind=kind, index=number,
                                             ranges=ranges_of(places)))  # fmt: skip
    return tuple(found)


def reshuffled(own: Portrait, count: int, seed: int, bands: int = BANDS) -> Iterator[Portrait]:
    """Let the signatures of a circuit change places among units of the same part of the depth.

    Args:
        own: The portrait; its structure stays.
        count: Number of portraits.
        seed: Of the permutations.
        bands: Number of parts of the depth; with 1 any two units may change places.

    Yields:
        Portraits of the same units.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> config = hagd.transfer.PortraitConfig(edges=0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.0", "head 0.1"], config)
        >>> sorted({bool(own.values[0, 3] == x.values[0, 3]) for x in reshuffled(own, 9, seed=0)})
        [False, True]
    """
    require_is("own", own, Portrait)
    require_number("bands", bands, least=1, whole=True)
    require_number("count", count, least=0, whole=True)
    depth = own.depth
    rng = np.random.default_rng([require_index("seed", seed), 3])
    for _ in range(count):
        order = np.arange(len(own))
        for band in range(bands):
            places = np.flatnonzero(np.minimum(depth * bands, bands - 1).astype(int) == band)
            order[places] = rng.permutation(places)
        yield dataclasses.replace(own, values=own.values[order], known=own.known[order])
