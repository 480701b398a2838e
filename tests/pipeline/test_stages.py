"""One list of stages: what follows from it, and that stages are as it says."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from hagd_jax.causal import Circuit
from hagd_jax.errors import CheckpointError, ConfigError, InputError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.pipeline import (
    NAMES,
    STAGES,
    ExtractConfig,
    extract,
    open_extraction,
    open_run,
    run_staged,
    run_until,
)
from hagd_jax.pipeline.checks import require_runnable
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.extract import prepare
from hagd_jax.pipeline.stages import fields_from, files_from
from hagd_jax.search import MaskConfig, RepairConfig, UnitMaskConfig, UnitRepairConfig
from hagd_jax.units import blocks, neurons
from tests.pipeline.copier import EXTRACT, make_copier, make_task

FIELDS = {field.name for field in dataclasses.fields(ExtractConfig)}
LEVELS = dataclasses.replace(
    EXTRACT, hierarchy=HierarchyConfig(ratio=0.5, least=2), levels=1, candidates=4,
    repair=RepairConfig(rounds=1, pairs=1), nodes="2", masks=MaskConfig(steps=2),
)  # fmt: skip
OVER_UNITS = dataclasses.replace(
    LEVELS, search="units", masks=MaskConfig(), repair=RepairConfig(), units=1,
    unit_masks=UnitMaskConfig(steps=8, batch_size=8, ablations=("counterfactual", "mean")),
    unit_repair=UnitRepairConfig(rounds=1, proposals=1, ablations=("counterfactual", "mean")),
)  # fmt: skip


@pytest.fixture(scope="module")
def copier():
    return make_copier()


@pytest.fixture(scope="module")
def task():
    return make_task()


def test_every_field_decides_one_stage_first():
    read = [name for stage in STAGES for name in stage.reads]
    assert sorted(read) == sorted(FIELDS)
    assert len(set(read)) == len(read)


def test_a_later_stage_frees_fewer_fields_and_discards_fewer_files():
    for earlier, later in itertools.pairwise(NAMES):
        assert set(fields_from(later)) <= set(fields_from(earlier))
        assert set(files_from(later)) < set(files_from(earlier))
    assert set(fields_from("features")) == FIELDS
    assert fields_from("page") == ()


class Watched(ExtractConfig):
    """A configuration that tells which of its fields are read."""

    def __getattribute__(self, name):
        if name in FIELDS and Watched.seen is not None:
            Watched.seen.add(name)
        return super().__getattribute__(name)

    seen: set | None = None


@pytest.mark.parametrize("config", [LEVELS, OVER_UNITS], ids=["nodes", "units"])
def test_a_stage_reads_no_field_that_a_later_one_is_said_to_read_first(
    copier, task, monkeypatch, config
):
    """Or else `--from` that later stage would let it change what is kept."""
    context, _ = prepare(copier, task, config)
    values = {name: getattr(config, name) for name in FIELDS}
    context = dataclasses.replace(context, config=Watched(**values))
    allowed, stages = set(), []
    for stage in STAGES:
        allowed |= set(stage.reads)
        # Whether the graph is needed at all hangs on the search; what it is does not.
        skipped = {"nodes", "search"} if stage.name == "hierarchy" else set()
        stages.append(dataclasses.replace(stage, make=watched(stage, allowed | skipped)))
    monkeypatch.setattr("hagd_jax.pipeline.staged.STAGES", tuple(stages))
    left = run_staged(context)
    assert set(left.values) == set(NAMES)


def watched(stage, allowed):
    """What makes a stage's result, and fails if it reads other fields."""

    def make(context, left):
        Watched.seen = set()
        try:
            value = stage.make(context, left)
            assert Watched.seen <= allowed, f"{stage.name} reads {Watched.seen - allowed}"
        finally:
            Watched.seen = None
        return value

    return make


def test_a_run_leaves_what_the_list_says_and_nothing_else(copier, task, tmp_path):
    extract(copier, task, LEVELS, out=tmp_path)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")}
    said = {*files_from("features"), "config.json", "metrics.jsonl", "seen"}
    tops = {name.partition("/")[0] for name in said}
    assert {name for name in left if name.partition("/")[0] not in tops} == set()
    needed = {"scores.npz", "hierarchy.npz", "search.npz", "repair.npz", "circuit.json",
              "validation.json", "report.html"}  # fmt: skip
    assert needed <= left
    assert {name for name in left if "seen/" in name} == {f"seen/{name}.json" for name in NAMES}


def test_beginning_at_the_judge_keeps_the_circuit_and_its_choice(copier, task, tmp_path):
    """Other ablations to judge by do not choose between masks and scores again."""
    first = extract(copier, task, LEVELS, out=tmp_path)
    before = (tmp_path / "circuit.json").read_bytes()
    judge = dataclasses.replace(LEVELS.judge, ablations=("zero",))
    changed = dataclasses.replace(LEVELS, judge=judge)
    again = open_extraction(tmp_path, copier, task, changed, begin="judge")
    second = extract(copier, task, changed, out=again)
    assert (tmp_path / "circuit.json").read_bytes() == before
    assert second.circuit == first.circuit
    assert "zero" not in second.circuit.seen.ablations
    assert {claim.ablation for claim in second.report.decisive} - {""} == {"zero"}


def content_of(path):
    """What a file says, apart from its packing."""
    if path.suffix != ".npz":
        return path.read_bytes()
    with np.load(path) as held:
        return {name: held[name].tobytes() for name in held.files}


@pytest.fixture(scope="module")
def whole(copier, task, tmp_path_factory):
    """A run up to the circuit."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_until("select", copier, task, LEVELS, out=folder)
    return folder


@pytest.mark.parametrize("file", [
    "scores.npz", "hierarchy.npz", "search.npz", "repair.npz", "circuit.json", "seen/score.json",
    "seen/select.json", "metrics.jsonl", "masks", "checkpoints",
])  # fmt: skip
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_what_is_damaged_is_made_again(copier, task, whole, tmp_path, caplog, file, damage):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    if file in ("masks", "checkpoints"):
        # Looked at only if the result that they led to is gone.
        for name in {"masks": ["search.npz"], "checkpoints": ["scores.npz"]}[file]:
            (folder / name).unlink()
    place = folder / file
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 1] = b"\x07"
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    left = run_until("select", copier, task, LEVELS, out=folder)
    assert left["select"].circuit == Circuit.load(whole / "circuit.json")
    for name in ("scores.npz", "hierarchy.npz", "search.npz", "repair.npz", "circuit.json"):
        assert content_of(folder / name) == content_of(whole / name), name
    # A cut log loses its last lines; not all bytes of a zip file or a checkpoint matter.
    assert "damaged" in caplog.text or damage == "flipped" or file == "metrics.jsonl"


@pytest.mark.parametrize(("mine", "other"), [("score", "hierarchy"), ("features", "score")])
def test_another_stages_record_is_not_taken_for_ones_own(
    copier, task, whole, tmp_path, caplog, mine, other
):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.copy(folder / f"seen/{other}.json", folder / f"seen/{mine}.json")
    left = run_until("select", copier, task, LEVELS, out=folder)
    assert "another stage's record" in caplog.text
    assert left["select"].circuit == Circuit.load(whole / "circuit.json")


def test_a_broken_configuration_is_named(copier, task, tmp_path):
    run_until("score", copier, task, LEVELS, out=tmp_path)
    (tmp_path / "config.json").write_bytes(b"[]")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        run_until("score", copier, task, LEVELS, out=tmp_path)


def refused(model, task, **changes):
    """The message of a configuration that is refused, before anything was computed."""
    dictionary = changes.pop("dictionary", None)
    config = dataclasses.replace(EXTRACT, **changes)
    worked = []
    with pytest.raises((ConfigError, InputError)) as error:
        extract(model, task, config, dictionary=dictionary, progress=lambda *a: worked.append(a))
    assert not worked
    return str(error.value)


def test_what_cannot_run_is_refused_before_any_work(copier, task):
    assert "1 to 10" in refused(copier, task, nodes="11")
    assert "at most 0" in refused(copier, task, levels=1)
    half = HierarchyConfig(ratio=0.5, least=2)
    assert "at most 3" in refused(copier, task, levels=4, hierarchy=half)
    message = refused(copier, task, dictionary=blocks(copier), levels=1, nodes="1",
                      hierarchy=HierarchyConfig(ratio=0.5, least=1))  # fmt: skip
    assert "along directions" in message
    message = refused(copier, task, features="mlps", prior="learner")
    assert "along directions" in message
    assert "text to train" in refused(copier, task, features="transcoder")
    message = refused(copier, task, features="mlps", dictionary=neurons(copier))
    assert "beside a dictionary" in message
    bare = dataclasses.replace(task, splits={"discover": task.splits["discover"]})
    assert "'test'" in refused(copier, bare)
    with pytest.raises(ConfigError, match="one or more of"):
        dataclasses.replace(EXTRACT.judge, ablations=("noise",))
    impossible = [("levels", -1), ("seed", -1), ("candidates", 0), ("graph_steps", ())]
    for field, value in [*impossible, ("graph_steps", (2.0,)), ("search", "steps")]:
        with pytest.raises(ConfigError, match=field):
            ExtractConfig(**{field: value})


def test_a_judge_without_an_unseen_ablation_is_noted(copier, task):
    def notes(ablations, **changes):
        judge = dataclasses.replace(EXTRACT.judge, ablations=ablations)
        config = dataclasses.replace(EXTRACT, judge=judge, **changes)
        return " ".join(require_runnable(Context(copier, task, config)))

    assert "cannot accept" in notes(("counterfactual",))
    assert "cannot accept" not in notes(("counterfactual", "mean"))
    both = {"masks": MaskConfig(mean=0.5)}
    assert "cannot accept" in notes(("counterfactual", "mean"), **both)
    assert "cannot accept" in notes(("mean",), repair=RepairConfig(rounds=1, mean=0.5))
    assert "cannot accept" not in notes(("resample",), **both)


def test_any_folder_of_a_run_with_another_model_is_refused(copier, task, tmp_path):
    """Of the same name, so that the configurations are equal."""
    run_until("score", copier, task, EXTRACT, out=open_run(tmp_path, {}))
    params = copier.params | {"unembed": {"kernel": copier.params["unembed"]["kernel"] * 2}}
    with pytest.raises(CheckpointError, match="expected the same models"):
        run_until("score", copier.replace(params=params), task, EXTRACT, out=open_run(tmp_path, {}))
