"""Both executors run one list of stages: the same circuit, whoever goes on after a kill."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from hagd_jax import tasks
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.errors import CheckpointError, ConfigError, InputError, TrainingError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.parallel import make_mesh
from hagd_jax.pipeline import (
    NAMES,
    STAGES,
    ExtractConfig,
    batches,
    circuit_of,
    init,
    open_run,
    run_fused,
    run_staged,
    step,
)
from hagd_jax.pipeline.extract import prepare
from hagd_jax.pipeline.fused.run import FUSED
from hagd_jax.pipeline.fused.setting import setting_of
from hagd_jax.pipeline.fused.step import PARTS, parts_of
from hagd_jax.pipeline.fused.turns import BatchSizes, all_turns
from hagd_jax.scores import GradientConfig
from hagd_jax.search import MaskConfig, RepairConfig
from hagd_jax.tasks import make_prompts
from hagd_jax.testbeds import hand_built
from hagd_jax.testbeds.case import as_task
from hagd_jax.transcoders import TrainConfig
from hagd_jax.units import Space
from tests.adder import make_adder
from tests.models.noise import on_mesh
from tests.pipeline.copier import EXTRACT, make_copier, make_task

# Every part of the step but those that learn a transcoder.
RICH = dataclasses.replace(
    EXTRACT, nodes="3", levels=1, candidates=4, hierarchy=HierarchyConfig(ratio=0.5, least=2),
    masks=MaskConfig(steps=6, mean=0.5, check_every=3), repair=RepairConfig(rounds=2, pairs=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def copier():
    return make_copier()


@pytest.fixture(scope="module")
def task():
    return make_task()


def run(execute, model, task, config, out=None, until="select", **changes):
    context, _ = prepare(model, task, config, out=out)
    return execute(dataclasses.replace(context, **changes), until)


def same(one, other):
    """The same results of all stages, up to rounding."""
    np.testing.assert_allclose(other["score"].flat(), one["score"].flat(), atol=1e-6)
    for a, b in zip(one["hierarchy"].tree.clusters, other["hierarchy"].tree.clusters, strict=True):
        np.testing.assert_array_equal(b, a)
    # Log-probabilities after some steps of Adam, whose first steps have the length of signs.
    for size, ranks in one["search"].ranks.items():
        np.testing.assert_allclose(other["search"].ranks[size].flat(), ranks.flat(), atol=1e-3)
    assert len(other["repair"].losses) == len(one["repair"].losses)
    np.testing.assert_allclose(other["repair"].losses, one["repair"].losses, rtol=0.02)
    a, b = one["select"].circuit, other["select"].circuit
    assert a.nodes == b.nodes
    assert a.seen == b.seen
    assert a.config["found_by"] == b.config["found_by"]


@pytest.fixture(scope="module")
def both(copier, task, tmp_path_factory):
    folders = [open_run(tmp_path_factory.mktemp(name), {}) for name in ("staged", "fused")]
    pairs = zip((run_staged, run_fused), folders, strict=True)
    return [(folder, run(execute, copier, task, RICH, folder)) for execute, folder in pairs]


def test_both_end_with_the_same_circuit(both):
    (_, one), (_, other) = both
    same(one, other)
    assert len(one["hierarchy"].tree.clusters) == 1
    assert one["select"].circuit.seen.ablations == ("counterfactual", "mean")
    assert np.ptp(one["score"].flat()) > 0.1


def test_both_leave_the_same_files(both):
    (one, _), (other, _) = both
    files = [{file.name for file in folder.path.iterdir()} for folder in (one, other)]
    assert files[0] - files[1] == {"checkpoints", "masks"}
    assert files[1] - files[0] <= {"steps"}  # if it took longer than a checkpoint's time


@pytest.mark.parametrize("file", ["scores.npz", "hierarchy.npz", "search.npz", "repair.npz"])
def test_steps_make_again_what_is_damaged(copier, task, both, tmp_path, caplog, file):
    _, (folder, whole) = both
    shutil.copytree(folder.path, tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    path = tmp_path / "run" / file
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    left = run(run_fused, copier, task, RICH, open_run(tmp_path / "run", {}))
    assert f"{file} is damaged and is made again" in caplog.text
    assert path.read_bytes() == raw
    assert left["select"].circuit.to_json() == whole["select"].circuit.to_json()


class Killed(BaseException):
    pass


def killed(model, task, config, folder, where, execute=run_fused):
    """A run that was killed when it said (stage, steps done); saved after every step."""

    def kill(stage, done, total):
        if (stage, done) == where:
            raise Killed

    with pytest.raises(Killed):
        run(execute, model, task, config, open_run(folder, {}), progress=kill, save_every=0)


@pytest.mark.parametrize(
    "where", [("score", 2), ("graph", 4), ("masks", 4), ("repair", 9), ("select", 3)]
)
def test_killed_steps_go_on_with_the_same_bits(copier, task, both, tmp_path, where):
    _, (folder, expected) = both
    killed(copier, task, RICH, tmp_path, where)
    found = run(run_fused, copier, task, RICH, open_run(tmp_path, {}))
    assert found["select"].circuit == expected["select"].circuit
    assert found["repair"].losses == expected["repair"].losses
    lines = [(at / "metrics.jsonl").read_text().splitlines() for at in (folder.path, tmp_path)]
    kept = [[(r["stage"], r.get("step")) for r in map(json.loads, own)] for own in lines]
    assert kept[0] == kept[1]


def test_one_executor_goes_on_where_the_other_has_stopped(copier, task, both, tmp_path):
    (_, one), (_, other) = both
    run(run_staged, copier, task, RICH, open_run(tmp_path / "a", {}), until="hierarchy")
    found = run(run_fused, copier, task, RICH, open_run(tmp_path / "a", {}))
    assert found["select"].circuit == other["select"].circuit
    run(run_fused, copier, task, RICH, open_run(tmp_path / "b", {}), until="search")
    same(one, run(run_staged, copier, task, RICH, open_run(tmp_path / "b", {})))


def test_the_loop_that_a_user_writes_ends_there_too(copier, task, both):
    _, (_, expected) = both
    state = init(copier, RICH, task=task)
    for batch in batches(copier, task, RICH):
        state, said = step(state, copier, batch)
    np.testing.assert_array_equal(
        circuit_of(state).flat(), expected["select"].circuit.mask().flat()
    )
    assert float(said["empty_loss"]) > 20 * float(said["loss"])


def test_a_circuit_of_a_hand_built_program():
    case = {case.name: case for case in hand_built()}["both"]
    config = ExtractConfig(nodes="4", search="masks", masks=MaskConfig(steps=20), levels=0)
    same(*(run(execute, case.model, as_task(case), config) for execute in (run_staged, run_fused)))


def test_devices_do_not_matter(copier, task, tmp_path):
    config = dataclasses.replace(EXTRACT, nodes="2", masks=MaskConfig(steps=3))
    # Without a graph and without repair; saved after every step, and not gone on with.
    told = []
    one = run(
        run_fused, copier, task, config, open_run(tmp_path, {}), save_every=0,
        progress=lambda *now: told.append(now),
    )  # fmt: skip
    assert (tmp_path / "steps").exists()
    # The step is compiled before the first stage begins, and each stage begins with nothing done.
    assert told[:2] == [("compile", 0, 1), ("compile", 1, 1)]
    begun = {stage: done for stage, done, _ in reversed(told)}
    assert set(begun) == {"compile", "score", "masks", "select"}
    assert set(begun.values()) == {0}
    far = on_mesh(copier, make_mesh("data=2,model=2", devices=jax.devices()[:4]))
    same(one, run(run_fused, far, task, config))


LEARNED = dataclasses.replace(
    EXTRACT, features="transcoder", search="top", nodes="4",
    train=TrainConfig(features="12", k=4, tokens=96, batch_size=8, estimate=2, through=0.3,
                      activation="batch_topk"),
)  # fmt: skip


@pytest.fixture(scope="module")
def adder():
    return make_adder()


@pytest.fixture(scope="module")
def sums(adder):
    return tasks.task("modular-addition", adder, sizes=tasks.Sizes(16, 8, 8))


@pytest.fixture(scope="module")
def corpus(adder):
    pairs = np.random.default_rng(0).integers(0, 11, (64, 2))
    rows = np.c_[pairs, np.full(64, 11)]
    return corpus_of_tokens("pairs", rows, adder, CorpusConfig(held_out=0.25))


def learned(execute, adder, sums, corpus, out=None, until="features", **changes):
    context, _ = prepare(adder, sums, LEARNED, out=out, corpus=corpus)
    return execute(dataclasses.replace(context, **changes), until)["features"]


def test_both_learn_the_same_features(adder, sums, corpus, tmp_path):
    one = learned(run_staged, adder, sums, corpus)
    folder = open_run(tmp_path, {})

    def kill(stage, done, total):
        if (stage, done) == ("transcoder", 48):
            raise Killed

    with pytest.raises(Killed):
        learned(run_fused, adder, sums, corpus, folder, progress=kill, save_every=0)
    assert not (tmp_path / "features" / "transcoder").exists()
    other = learned(run_fused, adder, sums, corpus, open_run(tmp_path, {}), save_every=0)
    for name, expected in one.nodes.transcoder.params.items():
        found = other.nodes.transcoder.params[name]
        # Four steps of Adam in float32.
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=name)
    assert np.abs(one.nodes.transcoder.params["W_dec"]).max() > 1e-3  # of 0 at first
    assert other.evaluation.mean_fvu == pytest.approx(one.evaluation.mean_fvu, abs=1e-4)
    # Features that the staged executor has trained go on in steps, and the other way round.
    left = run(
        run_fused, adder, sums, LEARNED, open_run(tmp_path, {}), until="score", corpus=corpus
    )
    np.testing.assert_allclose(
        left["score"].flat(),
        run(run_staged, adder, sums, LEARNED, None, until="score", corpus=corpus)["score"].flat(),
        atol=1e-5,
    )


def test_features_without_the_state_of_their_training_are_refused(adder, sums, corpus, tmp_path):
    folder = open_run(tmp_path, {})
    learned(run_staged, adder, sums, corpus, folder)
    for checkpoint in (tmp_path / "features" / "checkpoints").iterdir():
        checkpoint.rename(tmp_path / f"moved-{checkpoint.name}")
    with pytest.raises(CheckpointError, match="--from features"):
        learned(run_fused, adder, sums, corpus, open_run(tmp_path, {}), until="score")


def test_a_training_that_meets_nan_ends(adder, sums, corpus):
    embedding = np.full((12, 12), np.nan, np.float32)
    broken = adder.replace(params=adder.params | {"embed": {"embedding": embedding}})
    with pytest.raises(TrainingError, match="step 1"):
        learned(run_fused, broken, sums, corpus)


def test_turns_follow_the_list_of_stages():
    """Every stage up to the circuit has turns, in the order of the list; every part has one."""
    config = dataclasses.replace(RICH, features="transcoder", train=LEARNED.train)
    setting = setting_of(config, Space(1, 2, 12), text=(4, 3), groups=(1, 3))
    assert parts_of(setting) == tuple(PARTS)
    sizes = BatchSizes({"discover": 20, "select": 9}, 8)
    own = all_turns(setting, sizes)
    assert {turn.part for turn in own} == set(PARTS)
    assert ("features", *FUSED) == NAMES[: NAMES.index("judge")]
    assert [stage.name for stage in STAGES] == list(NAMES)
    parts = [part for part, _ in itertools.groupby(turn.part for turn in own)]
    assert parts[:12] == [
        "moments", "normalise", "train", "through", "score", "flow", "choose", "edges", "coarsen",
        "open", "read", "begin",
    ]  # fmt: skip
    assert parts[-5:] == ["measure", "pick", "check", "measure", "note"]
    # Each prompt of a split is read once where a part goes over it, whatever fills up its batches.
    scored = [turn for turn in own if turn.part == "score"]
    read = np.concatenate([turn.rows[turn.weight > 0] for turn in scored])
    assert sorted(read.tolist()) == list(range(20))


def test_what_steps_cannot_begin_with_is_refused(copier):
    with pytest.raises(ConfigError, match="groups of mean ablation"):
        init(copier, RICH)
    with pytest.raises(ConfigError, match="corpus"):
        init(copier, LEARNED)
    with pytest.raises(ConfigError, match="dictionary"):
        init(copier, ExtractConfig(search="masks", features="some/folder"))
    with pytest.raises(ConfigError, match="1 to 10"):
        init(copier, ExtractConfig(search="masks", nodes="11"))
    with pytest.raises(ConfigError, match="staged, fused"):
        ExtractConfig(executor="composed")


def test_prompts_that_steps_cannot_read_are_refused(copier, task):
    short = make_prompts([[1, 2]], [[3, 2]], [1], [3], vocab_size=8)
    uneven = dataclasses.replace(
        task, splits={**task.splits, "select": short},
        texts={**task.texts, "select": task.texts["select"][:1]},
    )  # fmt: skip
    both_ways = copier.replace(config=copier.config.replace(causal=False))
    with pytest.raises(InputError, match="--executor staged"):
        run(run_fused, both_ways, uneven, EXTRACT)
    run(run_fused, copier, uneven, dataclasses.replace(EXTRACT, search="top"), until="score")
    few = copier.replace(config=copier.config.replace(vocab_size=5))
    with pytest.raises(InputError, match="0 to 4"):
        batches(few, task, EXTRACT)


def test_gradients_are_taken_in_batches_of_any_size(copier, task):
    """A staged run in batches of 24 and steps of 8 prompts score alike."""
    config = dataclasses.replace(EXTRACT, gradient=GradientConfig(batch_size=24))
    one = run(run_staged, copier, task, config, until="score")["score"]
    other = run(run_fused, copier, task, config, until="score")["score"]
    np.testing.assert_allclose(other.flat(), one.flat(), atol=1e-6)
