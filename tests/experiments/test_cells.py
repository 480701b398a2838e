"""Settings that cells share: the same in every folder, on every machine."""

import dataclasses
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
