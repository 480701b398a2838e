"""The search begins at the best of several scores, chosen on the select split."""

import dataclasses
import json

import numpy as np
import pytest

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.causal.judged import judged_prompts
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.pipeline import (
    ExtractConfig,
    extract,
    init,
    open_extraction,
    run_staged,
    run_until,
    starts,
)
from hagd_jax.pipeline import scoring as stage
from hagd_jax.pipeline.extract import prepare
from hagd_jax.scores import METHODS, GradientConfig, mean_scores
from hagd_jax.search import UnitMaskConfig
from hagd_jax.tasks import prompt_digests
from hagd_jax.testbeds import hand_built
from hagd_jax.testbeds.case import as_task
from hagd_jax.units import Nodes
from tests.pipeline.copier import EXTRACT, make_copier, make_task

CASE = next(case for case in hand_built() if case.name == "parity")
MODEL, TASK = CASE.model, as_task(CASE, test=8)
# On parity gradients on the way from the counterfactual rank nodes worse than those at its end.
CONFIG = ExtractConfig(
    nodes="4", units=4, starts=("ig", "relp", "eap_ig"), gradient=GradientConfig(batch_size=8),
    unit_masks=UnitMaskConfig(steps=6, batch_size=4, ablations=("counterfactual", "mean")),
    describe=EXTRACT.describe, judge=EXTRACT.judge,
)  # fmt: skip


def scored(config=CONFIG, **options):
    return run_until("score", MODEL, TASK, config, **options)["score"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, scored(out=out)


def test_the_choice_is_that_of_circuits_measured_one_by_one(whole):
    """Every number of the table in float64, from circuits of nodes sorted by NumPy."""
    choice = whole[1].choice
    discover = TASK.splits["discover"]
    compared = judged_prompts(TASK, "select", TASK.look("discover"), causal=True)
    assert 0 < len(compared.prompts) == choice.prompts
    assert choice.sizes == (2, 4, 8)
    losses, rows = {}, {(row.name, row.ablation, row.nodes): row.kl for row in choice.table}
    for name in CONFIG.starts:
        config = GradientConfig(METHODS[name].steps)
        scores = mean_scores(MODEL, discover, config, method=name)
        order = np.argsort(-np.abs(scores.flat()), kind="stable")
        found = []
        for kind in ("counterfactual", "mean"):
            for size in choice.sizes:
                mask = np.zeros(len(order), bool)
                mask[order[:size]] = True
                masks = [Nodes.from_flat(scores.space, m) for m in (mask, np.zeros_like(mask))]
                under = Ablation(kind, compared.reference)
                ours, empty = behaviour(
                    MODEL, compared.prompts, masks, ablation=under
                ).kl.astype(np.float64).mean(1)  # fmt: skip
                np.testing.assert_allclose(rows.pop((name, kind, size)), ours / empty, rtol=1e-3)
                found.append(ours / empty)
        losses[name] = np.mean(found)
    assert not rows
    assert losses["relp"] < losses["ig"] - 0.1
    assert choice.name == min(losses, key=losses.get) == "relp"
    assert choice.losses == pytest.approx(losses, rel=1e-3)
    alone = mean_scores(MODEL, discover, GradientConfig((1.0,)), method="relp")
    np.testing.assert_allclose(whole[1].flat(), alone.flat(), atol=1e-6)


def test_one_start_is_the_mean_of_its_scores_and_looks_at_no_select_split(tmp_path):
    for name, steps in (("ig", GradientConfig().steps), ("relp", (1.0,))):
        config = dataclasses.replace(CONFIG, starts=(name,))
        found = scored(config, out=tmp_path / name)
        alone = mean_scores(
            MODEL, TASK.splits["discover"], GradientConfig(steps), method=name
        )  # fmt: skip
        np.testing.assert_array_equal(found.flat(), alone.flat())
        assert found.choice is None
        assert found.seen.splits == ("discover",)
        assert found.seen.ablations == ("counterfactual",)
        assert not (tmp_path / name / "starts.json").exists()
    assert "starts" not in json.loads((tmp_path / "ig" / "config.json").read_text())["config"]


class Killed(BaseException):
    pass


def test_killed_within_the_second_start_it_goes_on_with_the_same_bits(whole, tmp_path, monkeypatch):
    """Checkpoints after every batch; the first kind of scores is not computed twice."""
    out, expected = whole

    def kill(stage, done, total):
        if (stage, done) == ("score", len(TASK.splits["discover"]) + 16):
            raise Killed

    context, _ = prepare(MODEL, TASK, CONFIG, out=tmp_path)
    with pytest.raises(Killed):
        run_staged(dataclasses.replace(context, progress=kill, save_every=0.0), "score")
    del context  # and with it the lock of the folder
    assert (tmp_path / "checkpoints" / "relp").exists()
    computed, real = [], stage.node_scores

    def counted(*args, method, start, **options):
        for done, total in real(*args, method=method, start=start, **options):
            computed.append((method, done))
            yield done, total

    monkeypatch.setattr(stage, "node_scores", counted)
    found = scored(out=tmp_path)
    count = len(TASK.splits["discover"])
    assert computed == [("relp", 16), ("relp", count), ("eap_ig", 8), ("eap_ig", 16),
                        ("eap_ig", count)]  # fmt: skip
    for name in ("scores.npz", "starts.json", "seen/score.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    np.testing.assert_array_equal(found.flat(), expected.flat())
    logs = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            for folder in (out, tmp_path)]  # fmt: skip
    one, other = ([{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in log]
                  for log in logs)  # fmt: skip
    assert one == other
    assert one[-1]["chosen"] == "relp"


@pytest.mark.parametrize("file", ["starts.json", "scores.npz"])
def test_what_is_damaged_is_made_again(whole, tmp_path, caplog, file):
    _, expected = whole
    scored(out=tmp_path)
    path = tmp_path / file
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"relp"', b'"ig"', 1) if file == "starts.json" else raw[:99])
    found = scored(out=tmp_path)
    assert f"{file} is damaged and is made again" in caplog.text
    assert path.read_bytes() == raw
    assert found.choice == expected.choice


def test_a_search_of_another_size_chooses_again(tmp_path):
    """Scores and levels are read back, but masks begin at what is best for the new size."""
    config = dataclasses.replace(
        CONFIG, levels=1, candidates=4, hierarchy=HierarchyConfig(ratio=0.5, least=2)
    )
    left = run_until("hierarchy", MODEL, TASK, config, out=tmp_path)
    assert left["score"].choice.name == "relp"
    kept = [tmp_path / "hierarchy.npz", tmp_path / "checkpoints" / "ig"]
    before = [path.stat().st_mtime_ns for path in kept]
    larger = dataclasses.replace(config, nodes="6")
    out = open_extraction(tmp_path, MODEL, TASK, larger, begin="search")
    left = run_until("search", MODEL, TASK, larger, out=out)
    assert left["score"].choice.sizes == (3, 6)
    assert left["score"].choice.name == "ig"
    assert [path.stat().st_mtime_ns for path in kept] == before
    fresh = run_until("search", MODEL, TASK, larger)
    assert left["score"].choice == fresh["score"].choice
    np.testing.assert_array_equal(left["hierarchy"].prior.flat(), fresh["score"].flat())
    np.testing.assert_array_equal(left["hierarchy"].prior.flat(), left["score"].flat())
    assert left["search"].circuits == fresh["search"].circuits


def test_a_search_that_begins_at_another_order_chooses_again(tmp_path):
    first = run_until("hierarchy", MODEL, TASK, CONFIG, out=tmp_path)["score"]
    own = dataclasses.replace(CONFIG.unit_masks, signed=True)
    signed = dataclasses.replace(CONFIG, unit_masks=own)
    out = open_extraction(tmp_path, MODEL, TASK, signed, begin="search")
    second = run_until("search", MODEL, TASK, signed, out=out)["score"]
    assert (first.choice.signed, second.choice.signed) == (False, True)
    assert second.choice == run_until("score", MODEL, TASK, signed)["score"].choice
    assert first.choice.table != second.choice.table


@pytest.mark.parametrize("search", ["units", "masks", "top"])
def test_both_executors_choose_alike_and_the_circuit_has_seen_the_choice(search):
    copier, task = make_copier(), make_task()
    if search != "units":
        config = dataclasses.replace(EXTRACT, nodes="2", search=search, starts=("relp", "ig"))
    else:
        own = dataclasses.replace(CONFIG.unit_masks, steps=60)
        config = dataclasses.replace(
            CONFIG, nodes="2", units=2, starts=("relp", "ig"), unit_masks=own
        )
    left = [
        run_until("select", copier, task, dataclasses.replace(config, executor=executor))
        for executor in ("staged", "fused")
    ]
    one, other = (each["score"] for each in left)
    assert one.choice == other.choice
    np.testing.assert_array_equal(one.flat(), other.flat())
    circuits = [each["select"].circuit for each in left]
    assert circuits[0].nodes == circuits[1].nodes
    assert circuits[0].seen == circuits[1].seen
    under = {"units": ("counterfactual", "mean")}.get(search, ("counterfactual",))
    for seen in (one.seen, circuits[0].seen):
        assert set(seen.splits) == {"discover", "select"}
        assert set(seen.ablations) == set(under)
        assert set(prompt_digests(task.splits["select"])) <= set(seen.prompts)


def test_scores_that_are_not_supported_are_left_out_with_a_note(monkeypatch, tmp_path):
    real = stage.node_scores

    def refusing(*args, method, **options):
        if method in gone:
            raise InputError("dictionary", got="one with errors", expected="one without")
        yield from real(*args, method=method, **options)

    monkeypatch.setattr(stage, "node_scores", refusing)
    gone = {"ig"}
    config = dataclasses.replace(EXTRACT, nodes="4", search="top", starts=CONFIG.starts)
    result = extract(make_copier(), make_task(), config, out=tmp_path / "one")
    (note,) = (note for note in result.notes if note.startswith("starts: "))
    assert note.startswith("starts: relp ")
    assert "ig is left out: dictionary: got one with errors" in note
    assert note.removeprefix("starts: ") in result.page.facts["starts"]
    assert "left out" in (tmp_path / "one" / "report.html").read_text()
    gone = {"ig", "eap_ig"}
    found = scored(out=tmp_path / "two")
    assert found.choice.name == "relp"
    assert found.choice.words().startswith("relp, which alone could be computed; ig is left out")
    again = scored(out=tmp_path / "two")
    assert again.choice == found.choice
    gone = set(CONFIG.starts)
    with pytest.raises(InputError, match="one with errors"):
        scored()


def test_scores_that_are_no_numbers_are_left_out(monkeypatch):
    real = stage.node_scores

    def broken(*args, method, **options):
        for done, total in real(*args, method=method, **options):
            yield done, total * np.nan if method == "relp" else total

    monkeypatch.setattr(stage, "node_scores", broken)
    monkeypatch.setattr(Nodes, "__mul__", lambda self, x: self.like(self.flat() * x), raising=False)
    choice = scored().choice
    assert choice.name != "relp"
    assert "not finite" in choice.left_out["relp"]


@pytest.mark.parametrize("bad", [(), "integrated", ("ig", "ig"), ("ig", "slope"), (1,), 3, None])
def test_starts_that_are_none_are_refused(bad):
    with pytest.raises(ConfigError, match=r"starts: .*ig, eap, eap_ig, relp, gim, conductance"):
        ExtractConfig(starts=bad)


def test_starts_that_cannot_be_chosen_among_are_refused():
    with pytest.raises(ConfigError, match="meta-learner was trained to read"):
        ExtractConfig(starts=("relp",), prior="learner")
    with pytest.raises(InputError, match="all of which are discover prompts"):
        run_until("score", MODEL, as_task(CASE), CONFIG)
    splits = {name: TASK.splits[name] for name in ("discover", "test")}
    with pytest.raises(InputError, match="'select', to choose among starts"):
        run_until("score", MODEL, dataclasses.replace(TASK, splits=splits), CONFIG)
    several = dataclasses.replace(EXTRACT, starts=("ig", "relp"))
    with pytest.raises(ConfigError, match="since steps do not choose"):
        init(make_copier(), several)


def test_sizes_are_around_the_one_asked_for():
    for asked, total in ((1, 2), (1, 9), (4, 8), (5, 9), (9, 9), (7, 100)):
        sizes = starts.sizes_of(ExtractConfig(nodes=str(asked), units=1), total)
        assert asked in sizes
        assert sizes == tuple(sorted(set(sizes)))
        assert set(sizes) <= {max(1, asked // 2), asked, 2 * asked}
        assert (2 * asked in sizes) == (2 * asked < total)
