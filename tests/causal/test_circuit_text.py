"""What `print(circuit)` says: a line a unit, within a terminal."""

import numpy as np
import pytest

from hagd_jax.causal import Circuit
from hagd_jax.causal.circuit_text import COLUMNS, MOST, Column, circuit_text
from hagd_jax.errors import InputError
from hagd_jax.tasks import Seen
from hagd_jax.units import Space
from hagd_jax.units.tree import tree_of

SPACE = Space(30, 9, 1536)


def large(units=64, seed=0):
    """A circuit of a model of 46,350 nodes: blocks, clusters and single nodes."""
    clusters = [np.arange(SPACE.nodes) // 100]
    tree = tree_of(SPACE, "neurons", clusters, 4, Seen.nothing())
    rng = np.random.default_rng(seed)
    names = [f"attention {i}" for i in range(0, 30, 3)]
    names += [f"cluster {i}.{j}" for i in range(30) for j in range(2)][: units - 10]
    scores = rng.normal(0, 3, units)
    return Circuit.of_units(tree, names, scores, model="smollm2-135m", task="ioi",
                            seen=Seen.nothing()), names, scores  # fmt: skip


def test_a_large_circuit_fits_a_terminal_of_60_lines_and_100_columns():
    circuit, names, scores = large()
    lines = str(circuit).splitlines()
    assert len(lines) == MOST + 3 <= 60
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(
        f"circuit of 'ioi' in 'smollm2-135m': 64 units with {circuit.leaves:,}"
    )
    assert circuit.grouping is not None
    assert circuit.grouping.tree is not None
    rows = [line.split() for line in lines[2:-1]]
    shown = {" ".join(row[1:3]) for row in rows}
    assert shown == {names[i] for i in np.argsort(-scores)[:MOST]}
    # Layer by layer, and within one by score.
    order = [(int(row[0]), -float(row[-1])) for row in rows]
    assert order == sorted(order)
    assert f"{64 - MOST} more units with" in lines[-1]
    for row in rows:
        unit = circuit.grouping.tree.unit(" ".join(row[1:3]))
        assert row[-2] == f"{len(unit):,}"
        assert float(row[-1]) == pytest.approx(scores[names.index(unit.name)], rel=5e-3)


def test_more_columns_stand_beside_the_others():
    circuit, names, _ = large(units=12)
    role = Column("role", lambda circuit: ["mover"] * len(circuit), right=False)
    lines = circuit_text(circuit, [*COLUMNS, role]).splitlines()
    assert lines[1].split() == ["layer", "unit", "kind", "nodes", "score", "role"]
    assert len(lines) == 2 + len(names)
    assert all(line.endswith("mover") for line in lines[2:])


def test_circuits_of_nodes_and_of_nothing_have_a_table_too():
    circuit, *_ = large(units=12)
    plain = Circuit(circuit.nodes[:3], (1.0, 2.0, 3.0), SPACE, "m", "t", seen=Seen.nothing())
    lines = str(plain).splitlines()
    assert lines[0] == "circuit of 't' in 'm': 3 of 46,350 nodes"
    assert [line.split()[1:3] for line in lines[2:]] == [["head", f"0.{i}"] for i in (2, 1, 0)]
    empty = Circuit((), (), SPACE, "m", "t")
    assert str(empty) == "circuit of 't' in 'm': 0 of 46,350 nodes"
    assert repr(empty).startswith("Circuit(")


def test_foreign_names_cannot_drive_the_terminal():
    with pytest.raises(InputError):
        Circuit((), (), SPACE, b"m", "t")  # type: ignore[arg-type]
    hostile = Circuit((), (), SPACE, "m\x1b[2J\u202e", "t\n" * 99)
    assert str(hostile).isprintable()
    assert len(str(hostile)) < 250
