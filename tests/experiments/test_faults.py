"""Experiments on damage, full disks and races, at toy size; each notices what it looks for."""

import logging
import shutil

import pytest

from experiments.common.digests import digest
from experiments.faults import damage, full_disk, races, rows
from experiments.faults.works import WORKS, Work, ending
from hagd_jax import models
from hagd_jax.errors import CheckpointError, DamagedError
from hagd_jax.files import digests, system, write_atomic

NUMBERS = "0123456789" * 3


def work_of(read):
    """Work that leaves a file of the variant's numbers, and `read`s it if it is there."""

    def go(folder, variant, progress):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "numbers"
        if not file.exists() or (text := read(file)) is None:
            write_atomic(file, text := NUMBERS[variant:])
        return digest(text)

    return Work(go)


def again(file):
    """The numbers, or a word that they are damaged."""
    raw = file.read_bytes()
    if raw != NUMBERS.encode():
        logging.getLogger("hagd_jax.test").warning("%s is made again", file)
        return None
    return raw.decode()


def refusing(file):
    raw = file.read_bytes()
    if raw != NUMBERS.encode():
        raise DamagedError(str(file), got="damage")
    return raw.decode()


def test_damage_is_found_where_there_are_digests_and_shows_where_there_are_none(
    places, read, monkeypatch, tmp_path
):
    damage.main(damage.Config(**places, works=("circuit",), times=30))
    rows = read("damage")["rows"]
    assert len(rows) == 30
    assert sum(row["outcome"] == "refused" for row in rows) > 15
    monkeypatch.setattr(digests, "require_digest", lambda *_: None)
    more = damage.Config(results=tmp_path, runs=tmp_path / "more", works=("circuit",), times=40)
    with pytest.raises(SystemExit, match="'outcome': 'other'"):
        damage.main(more)


@pytest.mark.parametrize(
    ("read_file", "outcome"),
    [(again, "again"), (refusing, "refused"), (lambda file: file.read_bytes().decode(), "other")],
)
def test_what_becomes_of_damage_is_told_apart(places, read, monkeypatch, read_file, outcome):
    monkeypatch.setitem(WORKS, "toy", work_of(read_file))
    config = damage.Config(**places, works=("toy",), times=20)
    if outcome == "other":
        with pytest.raises(SystemExit, match="NOT as expected"):
            damage.main(config)
    else:
        damage.main(config)
    found = {row["outcome"] for row in read("damage")["rows"]}
    # What is no text is untyped where nobody looks.
    assert outcome in found <= {outcome, "same", *(["untyped"] if outcome == "other" else [])}


def test_whatever_write_fails_the_rest_goes_on(places, read):
    full_disk.main(full_disk.Config(**places, works=("circuit",), real=False))
    rows = read("full_disk")["rows"]
    assert {row["error"] for row in rows} == set(full_disk.ERRORS)
    assert len(rows) >= 4 * 4
    # Each failed for the reason that it was given.
    assert all("got " in row["said"] for row in rows)
    assert len({row["said"].partition("got ")[2] for row in rows}) == 4


def test_a_file_that_is_written_in_place_is_noticed_on_a_full_disk(places, monkeypatch):
    def go(folder, variant, progress):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "a").exists():
            with system.create(folder / "a") as file:
                system.write(file, NUMBERS.encode())
        return digest((folder / "a").read_bytes())

    monkeypatch.setitem(WORKS, "toy", Work(go))
    config = full_disk.Config(**places, works=("toy",), real=False)
    with pytest.raises(SystemExit, match="WRONG: OSError"):
        full_disk.main(config)


def won(out, text="found"):
    out.mkdir(exist_ok=True)
    (out / "circuit.json").write_text(f'"{text}"')
    return races.Ended(0, "")


REFUSED = races.Ended(2, f"error: out: got {races.REFUSED} 7 on host; expected one at a time.")


@pytest.mark.parametrize(
    ("ends", "well"),
    [
        (lambda out: [won(out), REFUSED], True),
        (lambda out: [REFUSED, won(out)], True),
        (lambda out: [won(out), won(out)], True),
        (lambda out: [won(out, "something else"), REFUSED], False),
        (lambda out: [won(out), races.Ended(2, "error: other")], False),
        (lambda out: [won(out), REFUSED._replace(said=REFUSED.said + "Traceback")], False),
        (lambda out: [won(out), REFUSED._replace(status=1)], False),
    ],
)
def test_a_race_ends_well_if_one_wins_and_the_other_is_told(
    places, read, monkeypatch, ends, well, tmp_path
):
    alone = tmp_path / "alone"
    won(alone)
    for seed in (0, 1):
        (places["runs"] / "races" / f"alone{seed}" / "cache").mkdir(parents=True)
    monkeypatch.setattr(races, "by_itself", lambda seed, config: ending(alone))
    out = places["runs"] / "races" / "run0" / "out"
    monkeypatch.setattr(races, "together", lambda *_: ends(out))
    config = races.Config(**places, ways=("run",), times=1)
    if well:
        races.main(config)
    else:
        with pytest.raises(SystemExit, match="NOT as expected"):
            races.main(config)
    assert [row["well"] for row in read("races")["rows"]] == [well]


@pytest.mark.parametrize("kind", ["winogrande", "hellaswag", "log"])
def test_rows_are_read_and_counted(places, kind):
    """Those of every format are whole: a task, or a page, is made of them."""
    found = rows.rows_checked(kind, rows.Config(**places, rows=150))
    assert found["found"] == (150 if kind == "log" else 10)
    assert found["seconds"] <= rows.SECONDS
    assert found["before_gb"] <= found["peak_gb"]


def test_loading_without_checks_gives_the_same_and_checks_less(places, monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(rows, "generated", lambda config: tiny)
    found = rows.loaded("generated", rows.Config(**places, rounds=1))
    assert found["ratio"] == found["checked"] / found["unchecked"]
    with rows.unchecked():
        one = models.load(tiny, check_finite=False)
    other = models.load(tiny)
    assert digest([one.params, one.config]) == digest([other.params, other.config])
    copy = shutil.copytree(tiny, tmp_path / "copy") / "model.safetensors"
    raw = copy.read_bytes()
    head = 8 + int.from_bytes(raw[:8], "little")
    copy.write_bytes(raw[:head] + b"\xff" * (len(raw) - head))
    with rows.unchecked():
        models.load(copy.parent, check_finite=False)
    with pytest.raises(CheckpointError, match="NaN"):
        models.load(copy.parent)


def test_what_is_slower_than_it_may_be_is_told(places, monkeypatch):
    said = '{"seconds": 3.0, "well": false}'
    monkeypatch.setattr(rows, "own_process", lambda *_: f"a line\n{said}")
    with pytest.raises(SystemExit, match=r"NOT as expected.*'seconds': 3\.0"):
        rows.main(rows.Config(**places, parts=("help",)))


def test_a_large_graph_has_a_page(places):
    found = rows.page_made("graph", rows.Config(**places, nodes=200))
    assert 0.1 < found["mb"] < 10
