"""What files of circuits say of units of several nodes, in compact form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.causal.circuit_file import NodeFile, TreeRecord, UnitRecord
from hagd_jax.causal.grouping import Grouping, require_held
from hagd_jax.causal.node import Node, node_at
from hagd_jax.errors import InputError
from hagd_jax.files import checked
from hagd_jax.units import Space, Unit
from hagd_jax.units.dictionary import spans_of
from hagd_jax.units.split import split_unit, whole_space, whole_unit
from hagd_jax.units.unit import ATTENTION, BAND, CLUSTER, HEAD, INNER, MLP, block_ranges


def nodes_of_file(record: NodeFile) -> tuple[Node, ...]:
    """Read the nodes of a file.

    Args:
        record: What the file says.

    Returns:
        The nodes; of a dictionary that is split by span each at its span.
    """
    names, (_, heads, features) = spans_of(record.dictionary), record.space
    return tuple(
        node_at(kind, layer, index, heads if kind == HEAD else features, names)
        if names and index < (heads if kind == HEAD else features)
        else Node(kind, layer, index)
        for kind, layer, index in record.nodes
    )


def grouping_record(own: Grouping, space: Space, names: Sequence[str] = ()) -> dict[str, Any]:
    """Describe how nodes group into units, as a file has it.

    Args:
        own: The grouping.
        space: Of the circuit.
        names: Names of the spans by which units are split, if they are.

    Returns:
        The fields `tree` and `units`; members are told of clusters only, as ranges in the layer.
    """
    whole = whole_space(space, len(names))
    inner = [whole_unit(unit, whole, names) if names else unit for unit in own.units]
    units = [_record(unit, score, whole) | ({"span": part.span} if part.span else {})
             for unit, part, score in zip(inner, own.units, own.scores, strict=True)]  # fmt: skip
    return {"tree": {"digest": own.digest, "band": own.band}, "units": units}


def grouping_of(record: NodeFile, where: str) -> Grouping | None:
    """Read how the nodes of a file group into units.

    Args:
        record: What the file says.
        where: Name of the file.

    Returns:
        The grouping, None in files of the first format. If it has no clusters, the tree is made
        again where that gives the same digest.

    Raises:
        CheckpointError: If a field is missing, of another type or unknown.
        InputError: If a unit is impossible, or two overlap.
    """
    if record.tree is None or record.units is None:
        return None
    space, names = Space(*record.space), spans_of(record.dictionary)
    whole = whole_space(space, len(names))
    of = checked(TreeRecord, record.tree, f"{where}: tree")
    told = [checked(UnitRecord, each, f"{where}: unit {i}") for i, each in enumerate(record.units)]
    units = tuple(_unit(each, whole) for each in told)
    if names:
        # Counted before they are listed: a file may say any numbers.
        held = sum(len(unit) * (1 if each.span else len(names))
                   for unit, each in zip(units, told, strict=True))  # fmt: skip
        require_held(held, len(record.nodes))
        units = tuple(split_unit(unit, whole, names, each.span)
                      for unit, each in zip(units, told, strict=True))  # fmt: skip
    elif any(each.span for each in told):
        raise InputError("span of a unit", got="one in a circuit that is not split by span",
                         expected="none")  # fmt: skip
    own = Grouping(units, tuple(each.score for each in told), of.band, of.digest)
    if any(unit.kind == CLUSTER for unit in units) or space.nodes > len(record.nodes) * _WORTH:
        return own
    plain = own.frame(space, record.dictionary)
    return dataclasses.replace(own, tree=plain) if plain.digest == own.digest else own


# A tree is made for a circuit of at least one node of so many of the model: a file may say any
# space, and the tree takes memory for all of it.
_WORTH = 1 << 16


def _record(unit: Unit, score: float, space: Space) -> dict[str, Any]:
    told = UnitRecord(kind=unit.kind, layers=unit.layers, score=score, index=unit.index)  # type: ignore[arg-type]
    found = dataclasses.asdict(told)
    del found["span"]
    if unit.kind != CLUSTER:
        del found["members"], found["block"]
        return found
    start = block_ranges(space, unit.block, *unit.layers)[0][0]
    members = [[first - start, stop - start - 1] for first, stop in unit.ranges]
    return found | {"block": unit.block, "members": members}


def _unit(told: UnitRecord, space: Space) -> Unit:
    first, last = told.layers
    if not first <= last < space.layers:
        raise InputError("layers of a unit", got=quoted(told.layers),
                         expected=f"layers of {space.layers}, first and last")  # fmt: skip
    if told.kind not in INNER:
        return _leaf(told, space)
    if told.kind != CLUSTER:
        if told.members or told.block:
            raise InputError("members of a unit", got=f"some of {quoted(told.kind)}",
                             expected="members of clusters only")  # fmt: skip
        ranges = block_ranges(space, told.kind, first, last)
        return Unit(told.kind, told.layers, told.index, "" if told.kind == BAND else told.kind,
                    ranges)  # fmt: skip
    width = {"attention": space.heads, "mlp": space.features}.get(told.block, 0)
    if any(a > b or b >= width for a, b in told.members) or first != last:
        raise InputError("members of a unit", got=f"cluster {first}.{told.index}",
                         expected=f"ranges of the {width} leaves of its block")  # fmt: skip
    start = block_ranges(space, told.block, first, last)[0][0] if width else 0
    ranges = tuple((start + a, start + b + 1) for a, b in told.members)
    return Unit(CLUSTER, told.layers, told.index, told.block, ranges)


def _leaf(told: UnitRecord, space: Space) -> Unit:
    """A whole head, neuron or feature, which has several leaves where it is split by span."""
    kind, layer = told.kind, told.layers[0]
    block = ATTENTION if kind == HEAD else MLP
    start, stop = block_ranges(space, block, layer, layer)[0]
    if told.members or told.block or told.layers != (layer, layer) or told.index >= stop - start:
        raise InputError("unit of the circuit", got=f"{kind} {layer}.{told.index}",
                         expected=f"one of the {stop - start} leaves of its block")  # fmt: skip
    place = start + told.index
    return Unit(kind, told.layers, told.index, block, ((place, place + 1),))
