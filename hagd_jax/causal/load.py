"""Reading a circuit of any kind from its file."""

from __future__ import annotations

from pathlib import Path

from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.circuit_file import EdgeFile, WiringFile, read_record
from hagd_jax.causal.edge_circuit import EdgeCircuit
from hagd_jax.causal.wiring import Wiring
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import named
from hagd_jax.units import UnitTree


def load_circuit(path: str | Path, tree: UnitTree | None = None) -> Circuit | EdgeCircuit | Wiring:
    """Read a circuit of nodes, of edges between components, or of edges between units.

    Args:
        path: What `save` of any of them wrote.
        tree: The tree that the units of a circuit of nodes are of, see `Circuit.load`.

    Returns:
        The circuit.

    Raises:
        CheckpointError: If the file is absent, broken, or of another format.

    Example:
        >>> Circuit((), (), (1, 2, 3), model="small", task="ioi").save("circuit.json")
        >>> load_circuit("circuit.json").task
        'ioi'
    """
    record = read_record(path)
    if isinstance(record, WiringFile):
        return Wiring.load(path, tree)
    if not isinstance(record, EdgeFile):
        return Circuit.load(path, tree)
    try:
        return EdgeCircuit.of_record(record)
    except InputError as error:
        raise CheckpointError(f"{named(path)}, {error}") from error
