"""An extraction of circuits of units: known circuits, resuming, both executors, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from hagd_jax import units
from hagd_jax.causal import Circuit, ValidateConfig
from hagd_jax.errors import CheckpointError, ConfigError, NoCircuitError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.models import DecoderConfig
from hagd_jax.models import init as init_model
from hagd_jax.parallel import make_mesh
from hagd_jax.pipeline import (
    DescribeConfig,
    ExtractConfig,
    batches,
    extract,
    init,
    open_extraction,
    open_run,
    run_fused,
    run_staged,
    run_until,
)
from hagd_jax.pipeline.checks import require_runnable
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.extract import prepare
from hagd_jax.scores import GradientConfig, mean_scores
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    UnitMaskConfig,
    UnitPruneConfig,
    UnitRepairConfig,
)
from hagd_jax.testbeds import hand_built
from hagd_jax.testbeds.case import as_task
from tests.models.noise import on_mesh
from tests.pipeline.copier import make_copier, make_task

JUDGE = ValidateConfig(claims="core", controls=19, draws=2, batch_size=24, alpha=0.1)
SEARCH = UnitMaskConfig(
    steps=20, check_every=10, batch_size=8, ablations=("counterfactual", "mean")
)
REPAIR = UnitRepairConfig(rounds=1, proposals=2, ablations=("counterfactual", "mean"))
CONFIG = ExtractConfig(
    units=1, nodes="1", gradient=GradientConfig(batch_size=8), unit_masks=SEARCH, judge=JUDGE,
    describe=DescribeConfig(prompts=0),
)  # fmt: skip
# With a graph, two levels of clusters, two sizes and repair.
RICH = dataclasses.replace(
    CONFIG, units=2, nodes="4", levels=1, candidates=4, unit_repair=REPAIR,
    unit_prune=UnitPruneConfig(),
    hierarchy=HierarchyConfig(ratio=0.5, least=2),
)  # fmt: skip
CASES = {case.name: case for case in hand_built()}


@pytest.fixture(scope="module")
def copier():
    return make_copier()


@pytest.fixture(scope="module")
def task():
    return make_task()


def run(execute, model, task, config, out=None, until="select", **changes):
    context, _ = prepare(model, task, config, out=out)
    return execute(dataclasses.replace(context, **changes), until)


@pytest.fixture(scope="module")
def whole(copier, task, tmp_path_factory):
    """A run up to the circuit that nobody killed."""
    folder = open_run(tmp_path_factory.mktemp("whole"), {})
    return folder, run(run_staged, copier, task, RICH, folder)


def test_units_are_searched_by_default_and_the_planted_head_is_proved(copier, task, tmp_path):
    assert ExtractConfig().search == "units"
    result = extract(copier, task, CONFIG, out=tmp_path)
    circuit, report = result.circuit, result.report
    assert [unit.name for unit in circuit.units] == ["head 0.1"]
    assert circuit.config["found_by"] == "units"
    # Nothing that was trained under decides; the third ablation is left to the judge.
    assert circuit.seen.ablations == ("counterfactual", "mean")
    assert report.verdict == "accepted", [c for c in report.claims if c.verdict != "holds"]
    assert {c.ablation for c in report.decisive} - {""} == {"resample"}
    assert next((point.units, point.nodes) for point in result.curve) == (1, 1)
    assert len(result.curve) == 3
    # The tree is read back as `hagd validate --tree` reads it.
    tree = units.load_tree(tmp_path / "tree.safetensors")
    assert Circuit.load(tmp_path / "circuit.json", tree) == circuit
    lines = str(circuit).splitlines()
    assert lines[1].split() == ["layer", "unit", "kind", "nodes", "score"]
    assert lines[2].split()[:5] == ["0", "head", "0.1", "head", "1"]


@pytest.mark.parametrize("execute", [run_staged, run_fused])
def test_a_known_circuit_is_found_at_the_finest_resolution(execute):
    case = CASES["both"]
    truth = {f"{n.kind} {n.layer}.{n.index}" for n in case.truth["counterfactual"]}
    own = dataclasses.replace(SEARCH, steps=240, check_every=120)
    config = ExtractConfig(units=len(truth), nodes=str(len(truth)), unit_masks=own)
    found = run(execute, case.model, as_task(case, test=27), config)["select"].circuit
    assert set(found.names()) == truth
    assert len(truth) == 3


@pytest.mark.parametrize("execute", [run_staged, run_fused])
def test_a_search_without_counterfactuals_reads_none(execute, copier, task):
    own = dataclasses.replace(SEARCH, ablations=("mean", "resample"))
    config = dataclasses.replace(CONFIG, unit_masks=own)
    found = run(execute, copier, task, config)["select"].circuit
    assert found.seen.ablations == ("mean", "resample")
    # Other counterfactuals in discovery: not a bit of what was found may change.
    prompts = task.splits["discover"]
    other = dataclasses.replace(prompts, corrupted=(np.asarray(prompts.corrupted) + 1) % 8)
    changed = dataclasses.replace(task, splits={**task.splits, "discover": other})
    again = run(execute, copier, changed, config)["select"].circuit
    assert (again.names(), again.scores) == (found.names(), found.scores)
    assert np.abs(found.scores).max() > 0


def test_a_repair_under_counterfactuals_reads_those_of_the_task(copier, task):
    own = dataclasses.replace(SEARCH, ablations=("mean", "resample"))
    config = dataclasses.replace(CONFIG, unit_masks=own)
    assert Context(copier, task, config).searched is not task
    for rounds, repaired in ((1, ("counterfactual",)), (1, ("mean",)), (0, ("counterfactual",))):
        repair = UnitRepairConfig(rounds=rounds, ablations=repaired)
        context = Context(copier, task, dataclasses.replace(config, unit_repair=repair))
        reads = bool(rounds) and repaired == ("counterfactual",)
        assert (context.searched is task) == reads
        assert context.baseline == ("counterfactual" if reads else "resample")


@pytest.mark.parametrize("execute", [run_staged, run_fused])
def test_units_that_add_too_little_are_left_out(execute, copier, task):
    """Of four nodes that the search keeps one does it all; without pruning all four are kept."""
    config = dataclasses.replace(CONFIG, units=4, nodes="4", unit_prune=UnitPruneConfig())
    left = run(execute, copier, task, config)
    circuit, mended = left["select"].circuit, left["repair"]
    assert circuit.names() == ("head 0.1",)
    assert len(left["search"].circuits[-1].units) == 4
    assert 0 <= mended.pruned[-1] - mended.pruned[0] < 3 * config.unit_prune.least
    assert circuit.config["unit_prune"]["least"] == config.unit_prune.least
    kept = dataclasses.replace(config, unit_prune=ExtractConfig().unit_prune)
    assert "unit_prune" not in kept.record()
    whole = run(execute, copier, task, kept)
    assert len(whole["select"].circuit) == 4
    assert (whole["repair"].worst, whole["repair"].pruned) == ((), ())
    # Under an ablation of its own, which its circuit has then seen.
    own = UnitPruneConfig(ablations=("resample",))
    seen = run(execute, copier, task, dataclasses.replace(config, unit_prune=own))["select"].circuit
    assert seen.seen.ablations == ("counterfactual", "mean", "resample")
    assert circuit.seen.ablations == ("counterfactual", "mean")


class Killed(BaseException):
    pass


def killed(where, model, task, config, folder, execute=run_staged):
    """A run that was killed when it said (stage, steps done); saved after every step."""

    def kill(stage, done, total):
        if (stage, done) == where:
            raise Killed

    with pytest.raises(Killed):
        run(execute, model, task, config, open_run(folder, {}), progress=kill, save_every=0)


def lines_of(folder):
    """What the log says, without times."""
    records = map(json.loads, (folder.path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k not in ("time", "seconds")} for r in records]


def same_files(one, other):
    """The arrays that stages left."""
    for name in ("scores.npz", "hierarchy.npz", "search.npz", "repair.npz"):
        with np.load(one.path / name) as a, np.load(other.path / name) as b:
            assert sorted(a.files) == sorted(b.files)
            for key in a.files:
                np.testing.assert_array_equal(b[key], a[key], err_msg=f"{name} {key}")
    for name in ("circuit.json", "tree.safetensors"):
        assert (other.path / name).read_bytes() == (one.path / name).read_bytes()


@pytest.mark.parametrize(
    "where", [("score", 8), ("graph", 8), ("masks", 20), ("repair", 0), ("prune", 0), ("select", 0)]
)
def test_a_run_killed_in_any_stage_ends_with_the_same_bits(copier, task, whole, tmp_path, where):
    folder, _ = whole
    killed(where, copier, task, RICH, tmp_path)
    if where[0] == "masks":
        assert open_run(tmp_path, {}).masks.steps()[-1] == 10
    run(run_staged, copier, task, RICH, open_run(tmp_path, {}))
    same_files(folder, open_run(tmp_path, {}))
    assert lines_of(open_run(tmp_path, {})) == lines_of(folder)


def test_a_finished_run_is_read_back(copier, task, whole):
    folder, first = whole
    stages = []
    left = run(run_staged, copier, task, RICH, folder, progress=lambda *now: stages.append(now[0]))
    assert not {"score", "graph", "masks", "repair", "prune", "select"} & set(stages)
    assert left["select"].circuit == first["select"].circuit
    assert left["select"].circuit.grouping.tree is not None
    assert left["select"].units == first["select"].units
    assert left["repair"].worst == first["repair"].worst
    assert len(first["repair"].worst) >= 1
    assert left["repair"].pruned == first["repair"].pruned
    assert len(first["repair"].pruned) >= 1
    sizes = [(len(each.units), each.leaves) for each in left["search"].circuits]
    assert len(sizes) == 2
    assert sizes[-1][0] <= 2
    assert sizes[-1][1] <= 4


@pytest.mark.parametrize("file", ["search.npz", "repair.npz", "circuit.json", "tree.safetensors"])
def test_what_is_damaged_is_made_again(copier, task, whole, tmp_path, caplog, file):
    folder, _ = whole
    for path in folder.path.iterdir():
        if path.is_file() and path.name != ".lock":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "seen").mkdir()
    for path in (folder.path / "seen").iterdir():
        (tmp_path / "seen" / path.name).write_bytes(path.read_bytes())
    raw = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(raw[: len(raw) // 2])
    run(run_staged, copier, task, RICH, open_run(tmp_path, {}))
    assert f"{file} is damaged and is made again" in caplog.text
    same_files(folder, open_run(tmp_path, {}))


def test_both_executors_end_with_the_same_circuit_on_any_mesh(copier, task, tmp_path):
    """With a tree of clusters; of one unit, since all other units of this model are noise."""
    config = dataclasses.replace(
        RICH, units=1, nodes="1", unit_repair=ExtractConfig().unit_repair, score_prompts=11
    )
    far = on_mesh(copier, make_mesh("data=2,model=2", devices=jax.devices()[:4]))
    killed(("graph", 2), far, task, config, tmp_path, run_fused)
    one = run(run_staged, copier, task, config)
    other = run(run_fused, far, task, config, open_run(tmp_path, {}))
    some = mean_scores(copier, task.splits["discover"][:11], config.gradient)
    every = mean_scores(copier, task.splits["discover"], config.gradient)
    assert np.abs(every.flat() - some.flat()).max() > 1e-4
    for run_by in (one, other):  # sums in another order, in float32
        np.testing.assert_allclose(run_by["score"].flat(), some.flat(), rtol=1e-6, atol=2e-6)
    assert other["search"].tree.digest == one["search"].tree.digest
    assert len(one["hierarchy"].tree.clusters) > 0
    a, b = one["select"].circuit, other["select"].circuit
    assert [unit.name for unit in a.units] == ["head 0.1"]
    assert (b.units, b.seen) == (a.units, a.seen)
    # A logit after twenty steps of Adam, whose first ones have the length of signs.
    np.testing.assert_allclose(b.parts().scores, a.parts().scores, atol=1e-2)


def test_a_folder_goes_on_with_the_search_that_it_was_begun_with(copier, task, tmp_path):
    """A record of an older version has no fields of a search over units."""
    old = ExtractConfig(nodes="1", search="masks", masks=MaskConfig(steps=4))
    open_extraction(tmp_path, copier, task, old)
    record = json.loads((tmp_path / "config.json").read_text())["config"]
    assert not {"units", "unit_masks", "unit_repair"} & set(record)
    run_until("score", copier, task, old, out=tmp_path)
    run_until("score", copier, task, old, out=tmp_path)
    new = ExtractConfig(nodes="1")
    with pytest.raises(CheckpointError, match="search was 'masks', now 'units'"):
        run_until("score", copier, task, new, out=tmp_path)
    # Scores are kept, whatever is searched over afterwards.
    run = open_extraction(tmp_path, copier, task, over_units(old), begin="hierarchy")
    assert (run.path / "scores.npz").exists()


def over_units(old):
    return dataclasses.replace(old, search="units", masks=MaskConfig(), units=1)


def test_all_nodes_are_the_bands_without_a_search(copier, task):
    told = []
    config = dataclasses.replace(CONFIG, nodes="100%")
    context, _ = prepare(copier, task, config)
    context = dataclasses.replace(context, progress=lambda *now: told.append(now[0]))
    circuit = run_staged(context, "select")["select"].circuit
    assert [unit.name for unit in circuit.units] == ["layers 0-0"]
    assert "masks" not in told


def test_nothing_found_is_refused_with_its_ablation(copier, task):
    rest = task.splits["discover"]
    never = dataclasses.replace(
        task, splits=task.splits | {"discover": rest.replace(corrupted=rest.clean)}
    )
    own = dataclasses.replace(SEARCH, ablations=("counterfactual",))
    with pytest.raises(NoCircuitError, match=r"loss of 0 on the discover.*--unit-masks.steps"):
        run_until("select", copier, never, dataclasses.replace(CONFIG, unit_masks=own))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"units": 0}, "units: got 0; expected a whole number, 1 or more"),
        ({"units": -3}, "units: got -3"),
        ({"units": 2.0}, "units: got 2.0"),
        ({"units": 3, "search": "top"}, "units: got settings of another search.*--units"),
        ({"unit_masks": SEARCH, "search": "masks"}, "unit_masks.*add --search units"),
        ({"masks": MaskConfig(steps=3)}, "masks.*--unit-masks instead"),
        ({"repair": RepairConfig(rounds=3)}, "repair.*--unit-repair instead"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ExtractConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"units": 11}, "units: got 11; expected 1 to 10, the number of nodes"),
        ({"nodes": "11"}, "1 to 10"),
        ({"nodes": "4%"}, "0 of 10 nodes"),
        ({"unit_masks": UnitMaskConfig(steps=3)}, "unit_masks.steps: got 3; expected 8 or more"),
        ({"levels": 1}, "at most 0"),
    ],
)
def test_what_cannot_be_had_of_a_model_is_refused_before_any_work(copier, task, fields, message):
    worked = []
    with pytest.raises(ConfigError, match=message):
        extract(copier, task, dataclasses.replace(CONFIG, **fields),
                progress=lambda *now: worked.append(now))  # fmt: skip
    assert not worked


def test_bands_that_do_not_fit_the_number_of_units_are_refused():
    own = DecoderConfig(vocab_size=8, n_layers=5, d_model=8, n_heads=2, d_mlp=4)
    deep = init_model(own, jax.random.key(0))
    config = ExtractConfig(units=1, nodes="100%")
    with pytest.raises(ConfigError, match="2 or more, one for each band of 4 layers"):
        require_runnable(Context(deep, make_task(), config))


def test_the_loop_of_steps_names_what_it_can_search(copier, task):
    for call in (lambda: init(copier, CONFIG), lambda: batches(copier, task, CONFIG)):
        with pytest.raises(ConfigError, match=r"'masks' or 'top'.*Set search"):
            call()


def test_a_judge_that_could_decide_nothing_is_noted(copier, task):
    every = UnitMaskConfig(ablations=("counterfactual", "mean", "resample"))
    config = dataclasses.replace(CONFIG, unit_masks=every)
    note = " ".join(require_runnable(Context(copier, task, config)))
    assert "cannot accept" in note
    assert "--unit-masks.ablations" in note
    assert "cannot accept" not in " ".join(require_runnable(Context(copier, task, CONFIG)))
