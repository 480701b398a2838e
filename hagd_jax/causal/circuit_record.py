"""What a circuit says of itself in a file, and to the dictionary of a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from hagd_jax.causal.about import about_record
from hagd_jax.causal.circuit_file import FORMAT, WITH_UNITS
from hagd_jax.causal.grouping_file import grouping_record
from hagd_jax.causal.node import column_of
from hagd_jax.errors import InputError
from hagd_jax.units import Dictionary
from hagd_jax.units.dictionary import tail, whole_label

if TYPE_CHECKING:
    from hagd_jax.causal.circuit import Circuit

# Fields that a file has in another form, or only where there is something to say.
_APART = ("grouping", "about")


def circuit_record(circuit: Circuit) -> dict[str, Any]:
    """Return the fields of the JSON that `Circuit.load` reads.

    Args:
        circuit: The circuit.

    Returns:
        The fields; what a circuit does not have is left out, so that its file is what it was
        before there was such a field.
    """
    fields = [field.name for field in dataclasses.fields(circuit) if field.name not in _APART]
    record = {"format": FORMAT} | {name: getattr(circuit, name) for name in fields}
    width, names = {"head": circuit.space.heads}, circuit.spans
    record["nodes"] = [
        (node.kind, node.layer,
         column_of(node, width.get(node.kind, circuit.space.features), names))
        for node in circuit.nodes
    ]  # fmt: skip
    record["seen"] = circuit.seen.to_json()
    if not circuit.per_expert:
        del record["per_expert"]
    if circuit.grouping is not None:
        record |= {"format": WITH_UNITS} | grouping_record(
            circuit.grouping, circuit.space, circuit.spans
        )
    return record if circuit.about is None else record | {"about": about_record(circuit.about)}


def require_dictionary(circuit: Circuit, dictionary: Dictionary) -> None:
    """Refuse a dictionary whose nodes are not the circuit's, see `Circuit.check_model`.

    Raises:
        InputError: If the numbers of layers, heads or features differ, or the dictionary.
    """
    label = dictionary.label
    if tail(label) != tail(circuit.dictionary):
        raise InputError(
            f"circuit of {circuit.model!r}",
            got=f"the dictionary {label!r}",
            expected=f"{circuit.dictionary!r}, whose nodes it has",
            mend="Split the dictionary: dictionary.by_span(circuit.spans)."
            if circuit.spans and tail(whole_label(circuit.dictionary)) == tail(label) else None,
        )  # fmt: skip
    if dictionary.space != circuit.space:
        raise InputError(
            f"circuit of {circuit.model!r}",
            got=f"a model with layers, heads, {circuit.kind}s = {tuple(dictionary.space)}",
            expected=f"{tuple(circuit.space)}",
        )
