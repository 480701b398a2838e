"""What is known of the units of a circuit: its file, its table, and that it never goes stale."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import About, Circuit, Node, load_circuit
from hagd_jax.causal.circuit_text import COLUMNS, columns_of
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import with_digest, without_digest
from hagd_jax.roles import ROLES
from hagd_jax.tasks import Seen, look
from hagd_jax.units import Space
from tests.causal.test_circuit_text import large
from tests.causal.test_units import small
from tests.units.trees import antichains, trees

finite = st.floats(allow_nan=False, allow_infinity=False)
printable = st.text(max_size=40).filter(lambda text: text.isprintable() and text.strip())
rows = st.builds(About, printable, finite, st.none() | st.integers(0, 2**31 - 2))
PLAIN = Circuit((Node("head", 0, 1), Node("neuron", 1, 4)), (0.5, 1.0), (2, 3, 5), "m", "t",
                seen=look(ablation="mean"))  # fmt: skip
TWO = (About("induction", 0.25, 3), About("unnamed", -0.5))


@st.composite
def described(draw):
    tree = draw(trees())
    chain = draw(antichains(tree, least=1))
    circuit = Circuit.of_units(tree, chain, model="m", task="t", seen=look(ablation="zero"))
    return circuit.described(draw(st.lists(rows, min_size=len(chain), max_size=len(chain))))


@settings(max_examples=40)
@given(circuit=described())
def test_round_trip(circuit, tmp_path_factory):
    path = tmp_path_factory.mktemp("about") / "circuit.json"
    circuit.save(path)
    for found in (load_circuit(path), load_circuit(path, circuit.grouping.tree)):
        assert found == circuit
        assert found.about == circuit.about
    assert pickle.loads(pickle.dumps(circuit)).about == copy.copy(circuit).about == circuit.about
    json.loads(path.read_text(), parse_constant=pytest.fail)
    text = str(circuit)
    assert text.splitlines()[1].split()[-3:] == ["role", "necessity", "radius"]
    assert all(line.isprintable() for line in text.splitlines())


CHANGES = {
    "opened": lambda circuit, i: circuit.opened(circuit.units[i]),
    "some of it": lambda circuit, i: circuit.opened(
        circuit.units[i], circuit.grouping.tree.children(circuit.units[i])[:1]
    ),
    "closed": lambda circuit, i: circuit.closed(circuit.units[i]),
    "scores": lambda circuit, i: dataclasses.replace(circuit, scores=(1.0,) * circuit.leaves),
    "ungrouped": lambda circuit, i: dataclasses.replace(circuit, grouping=None),
    "seen": lambda circuit, i: dataclasses.replace(circuit, seen=Seen.unknown()),
    "nodes": lambda circuit, i: dataclasses.replace(
        circuit, nodes=circuit.nodes[1:], scores=circuit.scores[1:], grouping=None
    ),
    "mask": lambda circuit, i: Circuit.from_mask(
        circuit.mask(), circuit.mask(), model="m", task="t", dictionary=circuit.dictionary
    ),
}


@settings(max_examples=60)
@given(circuit=described(), change=st.sampled_from(sorted(CHANGES)), data=st.data())
def test_a_circuit_made_from_another_one_says_nothing_of_its_units(circuit, change, data):
    larger = [i for i, unit in enumerate(circuit.units) if not unit.leaf]
    if not larger and change in ("opened", "some of it", "closed"):
        change = "scores"
    i = data.draw(st.sampled_from(larger)) if larger else 0
    other = CHANGES[change](circuit, i)
    assert other.about is None
    assert columns_of(other) == COLUMNS
    assert "about" not in json.loads(other.to_json())
    # With its tree at hand it is the same circuit.
    assert circuit.on(circuit.grouping.tree).about == circuit.about


def test_no_constructor_takes_it():
    with pytest.raises(TypeError, match="about"):
        Circuit((), (), (1, 2, 3), "m", "t", about=())  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="about"):
        dataclasses.replace(PLAIN, about=TWO)


def test_files_without_it_are_what_they_were():
    """Byte for byte: the lines of a described circuit are those of the bare one, and one more."""
    for circuit in (PLAIN, small()):
        bare = circuit.to_json()
        told = circuit.described([TWO[0]] * len(circuit))
        assert "about" not in bare
        # Its last line but one is the digest.
        *lines, last = bare.splitlines()[:-2]
        assert told.to_json().splitlines()[:-3] == [*lines, last]
        assert told.to_json().splitlines()[-3].startswith('"about": ')
        assert dataclasses.replace(told).to_json() == bare
    record = json.loads(PLAIN.described(TWO).to_json())
    assert record["about"] == [["induction", 0.25, 3], ["unnamed", -0.5, None]]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ([], "0 descriptions; expected 2"), ([["a", 0.0, None]] * 3, "3 descriptions"),
        ([["a", 0.0]] * 2, "about"), ([["a", 0.0, -1]] * 2, "about"), (["ab"] * 2, "about"),
        ([["a", "b", 1]] * 2, "about"), ([["a", 0.0, 1.5]] * 2, "about"), (3, "about"),
        ([["", 0.0, 1]] * 2, "role of a unit"), ([["a\u001b[2J", 0.0, 1]] * 2, "role of a unit"),
        ([["a" * 41, 0.0, 1]] * 2, "role of a unit"), ([["a", 10**400, 1]] * 2, "at most 64 bits"),
    ],
)  # fmt: skip
def test_damage_is_refused_with_the_file_in_the_message(tmp_path, about, said):
    record = without_digest("", json.loads(PLAIN.to_json()))
    (tmp_path / "c.json").write_text(json.dumps(with_digest(record | {"about": about})))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_circuit(tmp_path / "c.json")
    assert "c.json" in str(caught.value)


def test_impossible_descriptions_are_refused():
    for wrong in (("", 0.0), (" ", 0.0), ("a\n", 0.0), (b"a", 0.0), ("a" * 41, 0.0), (None, 0.0)):
        with pytest.raises(InputError, match="role of a unit"):
            About(*wrong)
    for lost in (float("nan"), float("inf"), "1", None, 10**400, 1j, True):
        with pytest.raises(InputError, match="necessity of a unit"):
            About("a", lost)
    for radius in (-1, 1.5, "1", True):
        with pytest.raises(InputError, match="radius of a unit"):
            About("a", 0.0, radius)
    assert About("a", np.float32(0.5), np.int64(2)) == About("a", 0.5, 2)
    for about in ([TWO[0]], [*TWO, TWO[0]], [TWO[0], None], "ab", None, 3):
        with pytest.raises(InputError, match="about"):
            PLAIN.described(about)


def test_the_table_of_64_units_fits_100_columns():
    circuit, names, _ = large()
    roles = [*ROLES, "unnamed", "w" * 40]
    told = [About(roles[i % len(roles)], (-1) ** i * 10.0 ** (i - 32), [None, 0, 9][i % 3])
            for i in range(64)]  # fmt: skip
    circuit = circuit.described(told)
    lines = str(circuit).splitlines()
    assert max(map(len, lines)) <= 100
    order = {unit.name: row for unit, row in zip(circuit.units, told, strict=True)}
    for line in lines[2:-1]:
        row = order[" ".join(line.split()[1:3])]
        assert row.role in line or row.role[:19] in line
        assert line.split()[-1] == ("-" if row.radius is None else str(row.radius))
        assert line.split()[-2].startswith("-") == (row.necessity < -5e-4)
    assert len(names) == 64
    # Wider words stand closer.
    wide = Circuit(tuple(Node("neuron", 3, i) for i in range(60)), (-1.2345e-100,) * 60,
                   Space(4, 2, 60), "m", "t", per_expert=(20,) * 4)  # fmt: skip
    wide = wide.described([About("w" * 40, -1e300, 2**31 - 2)] * 60)
    assert max(map(len, str(wide).splitlines())) <= 100


def test_the_largest_number_has_a_cell_too():
    for line in str(PLAIN.described([About("a", -1e308)] * 2)).splitlines()[2:]:
        assert line.split()[-2] == "-1e+310%"
