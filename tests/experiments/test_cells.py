"""Settings that cells share: the same in every folder, on every machine."""

import dataclasses
import json
from pathlib import Path

from experiments.common.cells import measure_cells, settings_of
from experiments.common.script import Places


@dataclasses.dataclass(frozen=True)
class Inner(Places):
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Outer(Places):
    seeds: int = 2
    inner: Inner = Inner()


def test_folders_are_no_settings_at_any_depth(tmp_path):
    one = Outer(inner=Inner(results=tmp_path, runs=tmp_path / "a"))
    assert settings_of(one, ["seeds"]) == settings_of(Outer(), ["seeds"]) == {"inner": {"size": 3}}
    assert settings_of(one, []) == {"seeds": 2, "inner": {"size": 3}}


def test_cells_measured_from_another_folder_are_gone_on_with(tmp_path):
    measured = []

    def measure(cell):
        measured.append(cell)
        return [{"value": 1}]

    places = {"results": tmp_path, "runs": tmp_path}
    for inner in (Inner(), Inner(results=Path("elsewhere"), runs=Path("there"))):
        config = Outer(**places, inner=inner)
        rows = measure_cells("few", [{"seed": 0}], measure, config, varied=("seeds",))
        assert rows == [{"seed": 0, "value": 1}]
    assert len(measured) == 1


def test_cells_that_only_the_record_holds_stay_in_it(tmp_path):
    """A fresh checkout has the record and no folder of runs."""
    measured = []

    def call(runs, seeds, inner=Inner()):
        def measure(cell):
            measured.append(cell["seed"])
            return [{"value": 10 * cell["seed"]}, {"value": 10 * cell["seed"] + 1}]

        config = Outer(results=tmp_path, runs=tmp_path / runs, inner=inner)
        cells = [{"seed": seed} for seed in seeds]
        rows = measure_cells("few", cells, measure, config, varied=("seeds",))
        assert rows == [{"seed": s, "value": 10 * s + i} for s in seeds for i in (0, 1)]
        return json.loads((tmp_path / "few.json").read_text())

    call("here", (0, 1))
    record = call("there", (1, 2))
    # Seed 0 is kept as it stands, seed 1 was asked for and is measured again.
    assert measured == [0, 1, 1, 2]
    assert sorted(row["value"] for row in record["rows"]) == [0, 1, 10, 11, 20, 21]
    assert record["cells"] == 3
    again = call("there", (1, 2))
    assert measured == [0, 1, 1, 2]
    assert again["rows"] == record["rows"]
    # Other settings are another record.
    other = call("yonder", (2,), Inner(size=4))
    assert [row["value"] for row in other["rows"]] == [20, 21]
    # A field that there was not yet, and that has its default, is no other setting.
    path = tmp_path / "few.json"
    old = json.loads(path.read_text())
    assert old["settings"] == {"inner": {"size": 4}}
    path.write_text(json.dumps(old | {"settings": {"inner": {}}}))
    kept = call("far", (3,))
    assert [row["value"] for row in kept["rows"]] == [20, 21, 30, 31]
    path.write_text(json.dumps(old | {"settings": {"inner": {}}}))
    lost = call("farther", (3,), Inner(size=4))
    assert [row["value"] for row in lost["rows"]] == [30, 31]
