"""`hagd transfer`: two circuits compared from the terminal, and what it refuses."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from hagd_jax import models
from hagd_jax.causal import Circuit
from hagd_jax.cli import main
from hagd_jax.units import tree
from tests.adder import make_adder

SMALL = ["--portrait.prompts", "16", "--portrait.rows", "16"]


def hagd(*words):
    """Run a command; return its exit status."""
    try:
        main(["transfer", *map(str, words)])
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An adder, and folders with circuits of it: two of addition, and one of another task."""
    place = tmp_path_factory.mktemp("transfer")
    model = make_adder()
    models.save(model, place / "model")
    for name, units, task in (
        ("one", ["head 0.0", "head 0.1", "neuron 0.1"], "modular_addition"),
        ("two", ["head 0.0", "head 0.1", "mlp 0"], "modular_addition"),
        ("other", ["head 0.2"], "parity"),
    ):
        (place / name).mkdir()
        circuit = Circuit.of_units(tree(model), units, model=model.name, task=task)
        circuit.save(place / name / "circuit.json")
        (place / name / "config.json").write_text(json.dumps({"model": str(place / "model")}))
    return place


@pytest.fixture(scope="module")
def compared(runs):
    out = runs / "out"
    more = ["--random", 2, "--permuted", "--twice", runs / "two"]
    assert hagd(runs / "one", runs / "two", "--out", out, *more, *SMALL) == 0
    return out


def test_it_writes_who_corresponds_and_what_chance_gives(compared, runs):
    found = json.loads((compared / "transfer.json").read_text())
    assert [row["unit"] for row in found["units"]] == ["head 0.0", "head 0.1", "neuron 0.1"]
    # One neuron does not do what the whole MLP does.
    assert [row["partner"] for row in found["units"]] == ["head 0.0", "head 0.1", ""]
    assert 0.3 < found["similarity"] < found["matched"] == pytest.approx(2 / 3)
    assert set(found["nulls"]) == {"random circuits", "permuted weights", "signatures permuted"}
    assert len(found["nulls"]["random circuits"]) == 2
    assert found["ceiling"] == [pytest.approx(1, abs=1e-6)]
    page = (compared / "transfer.html").read_text()
    for words in ("Who corresponds", "head 0.1 and head 0.1", "permuted weights", "p is the"):
        assert words in page
    assert page.count('class="link"') == 2


def test_again_it_reads_what_it_measured(compared, runs, capsys):
    before = json.loads((compared / "transfer.json").read_text())
    files = {path: path.stat().st_mtime_ns for path in (compared / "portraits").iterdir()}
    assert len(files) == 5
    path = sorted(files)[0]
    path.write_bytes(path.read_bytes()[:-10])  # this one is measured again
    more = ["--random", 2, "--permuted", *SMALL]
    assert hagd(runs / "one", runs / "two", "--out", compared, *more) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "It is measured again" in said
    assert "Both circuits are of one model" in said
    assert re.search(r"head 0\.1 head 0\.1 \d\.\d\d", said)
    after = json.loads((compared / "transfer.json").read_text())
    assert after["plan"] == before["plan"]
    assert after["similarity"] == pytest.approx(before["similarity"], abs=1e-6)
    same = [other for other in files if other != path]
    assert all(other.stat().st_mtime_ns == files[other] for other in same)


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("expected one of 'modular_addition'", ["one", "other"][::-1]),
        ("belong to --twice", ["one", "two", "--others", "one"]),
        ("as the second circuit", ["one", "two", "--twice", "other"]),
        ("expected both, or neither", ["one", "two", "--models", "m"]),
        ("expected 0 circuits or more", ["one", "two", "--random", "-1"]),
        ("nowhere", ["one", "nowhere"]),
        ("xxx", ["x" * 5000, "one"]),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(
    runs, tmp_path, capsys, monkeypatch, words, more
):
    monkeypatch.chdir(runs)
    out = tmp_path / "out"
    assert hagd(*more, "--out", out) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize("dictionary", ["neurons", "coder#1a2b3c4d", "neurons@a,b"])
def test_units_without_signatures_are_refused(runs, tmp_path, capsys, dictionary):
    """None at all, features of a transcoder, and units at a span."""
    own = Circuit.load(runs / "other" / "circuit.json")
    own = dataclasses.replace(own, task="modular_addition", grouping=None)
    if dictionary == "neurons":
        own = dataclasses.replace(own, nodes=(), scores=())
    elif "@" in dictionary:
        own = own.by_span(["a", "b"])
    else:
        own = dataclasses.replace(own, dictionary=dictionary)
    own.save(tmp_path / "circuit.json")
    assert hagd(runs / "one", tmp_path / "circuit.json", "--out", tmp_path / "out") == 2
    assert "whole heads and neurons" in " ".join(capsys.readouterr().err.split())


def test_without_pot_it_says_how_before_anything_is_measured(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ot", None)
    assert hagd(runs / "one", runs / "two", "--out", tmp_path / "out") == 2
    assert "pip install 'hagd-jax[transfer]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_run_whose_model_is_not_found_needs_one(runs, tmp_path, capsys):
    text = (runs / "one" / "circuit.json").read_text()
    Path(tmp_path / "circuit.json").write_text(text)
    for model in (None, 3, "nobody/knows-it", "", "x" * 5000):
        record = None if model is None else {"model": model}
        if record is not None:
            (tmp_path / "config.json").write_text(json.dumps(record))
        assert hagd(tmp_path / "circuit.json", runs / "two") == 2
        assert "--models FIRST SECOND" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("place", ["first", "second", "--twice"])
def test_a_model_with_other_weights_is_refused(runs, tmp_path, capsys, place):
    text = (runs / "one" / "circuit.json").read_text()
    Path(tmp_path / "circuit.json").write_text(text)
    record = {"model": str(runs / "model"), "weights": "00c0ffee"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    words = {"first": [tmp_path, runs / "two"], "second": [runs / "one", tmp_path]}
    three = [runs / "one", runs / "two", "--twice", tmp_path]
    assert hagd(*words.get(place, three), "--out", tmp_path / "out", *SMALL) == 2
    assert "the weights '00c0ffee'" in " ".join(capsys.readouterr().err.split())


def test_runs_of_another_dtype_are_taken_with_a_note(runs, tmp_path, capsys):
    text = (runs / "one" / "circuit.json").read_text()
    Path(tmp_path / "circuit.json").write_text(text)
    record = {"model": str(runs / "model"), "weights": "00c0ffee", "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert hagd(tmp_path, runs / "two", "--out", tmp_path / "out", *SMALL) == 0
    assert "the run had 'bfloat16', not float32" in " ".join(capsys.readouterr().out.split())


def test_the_model_that_a_run_trained_comes_before_the_name_that_it_keeps(runs, tmp_path):
    text = (runs / "one" / "circuit.json").read_text()
    Path(tmp_path / "circuit.json").write_text(text)
    (tmp_path / "model").symlink_to(runs / "model")
    (tmp_path / "config.json").write_text(json.dumps({"model": "nobody/knows-it"}))
    assert hagd(tmp_path, runs / "two", "--out", tmp_path / "out", *SMALL) == 0


def test_a_task_that_files_do_not_say_is_asked_for(runs, tmp_path, capsys):
    own = Circuit.load(runs / "one" / "circuit.json")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        dataclasses.replace(own, task="").save(tmp_path / name / "circuit.json")
    both = [tmp_path / "a", tmp_path / "b", "--models", runs / "model", runs / "model"]
    out = ["--out", tmp_path / "out"]
    assert hagd(*both, *out) == 2
    assert "as --task NAME" in " ".join(capsys.readouterr().err.split())
    assert hagd(*both, *out, "--task", "modular-addition", *SMALL) == 0


def test_places_that_cannot_be_written_are_refused_before_anything_is_measured(
    runs, tmp_path, capsys
):
    (tmp_path / "portraits").write_text("")
    assert hagd(runs / "one", runs / "two", "--out", tmp_path, *SMALL) == 2
    said = capsys.readouterr()
    assert "Not a directory" in said.err
    assert "Measuring" not in said.err


def test_a_kept_portrait_of_another_circuit_is_not_taken(runs, compared, tmp_path):
    """Whatever a file of the right name holds."""
    folder = tmp_path / "portraits"
    folder.mkdir()
    kept = sorted((compared / "portraits").iterdir())
    for path in kept:  # each has the content of another one
        content = kept[(kept.index(path) + 1) % len(kept)].read_bytes()
        (folder / path.name).write_bytes(content)
    assert hagd(runs / "one", runs / "two", "--out", tmp_path, *SMALL) == 0
    found = json.loads((tmp_path / "transfer.json").read_text())
    before = json.loads((compared / "transfer.json").read_text())
    assert found["names"] == before["names"]
    assert found["similarity"] == pytest.approx(before["similarity"], abs=1e-6)
