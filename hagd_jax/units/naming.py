"""Short names of units, the same in pages, tables, graphs and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = {"head": "H", "neuron": "N", "mlp": "M", "feature": "F"}


def unit_name(kind: str, layer: int, index: int, per_expert: Sequence[int] = ()) -> str:
    """Return the short name of a unit; a neuron of a mixture is numbered within its expert.

    Args:
        kind: `head`, `neuron`, `mlp` or `feature`.
        layer: From 0.
        index: Within its layer, from 0.
        per_expert: Neurons of an expert in each layer, see `Dictionary.per_expert`.

    Returns:
        Such as `L3.H1`, or `L3.E5.N12` for neuron 12 of expert 5.

    Example:
        >>> unit_name("head", 3, 1), unit_name("feature", 0, 17)
        ('L3.H1', 'L0.F17')
        >>> unit_name("neuron", 0, 52, (0, 8)), unit_name("neuron", 1, 52, (0, 8))
        ('L0.N52', 'L1.E6.N4')
    """
    each = per_expert[layer] if kind == "neuron" and per_expert else 0
    if not each:
        return f"L{layer}.{LETTERS[kind]}{index}"
    expert, own = divmod(index, each)
    return f"L{layer}.E{expert}.{LETTERS[kind]}{own}"
