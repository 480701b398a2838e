"""Experiments on circuits, at toy size."""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.circuits import (
    ablation_study,
    algorithmic,
    benchmarks,
    core,
    exhaustive,
    ground_truth,
    meta_learning,
    modular_arithmetic,
    random_programs,
    real_models,
    rivals,
    smollm2,
    smollm2_graphs,
    stability,
    task_accuracy,
)
from experiments.common.small_models import Small, first_features, random_circuits
from experiments.readme.real import real
from hagd_jax import meta, models
from hagd_jax.baselines import EdgePruningConfig, RivalsConfig
from hagd_jax.causal import load_circuit
from hagd_jax.cli import commands
from hagd_jax.errors import CheckpointError, ConfigError, InputError
from hagd_jax.scores import GradientConfig
from hagd_jax.search import EliminateConfig, MaskConfig, RepairConfig
from hagd_jax.tasks import Sizes
from hagd_jax.testbeds import SmallTrainConfig as TrainConfig
from hagd_jax.units import Nodes, Space

MASKS = MaskConfig(steps=2, batch_size=4, check_every=2)
REPAIR = RepairConfig(rounds=1, pairs=1, batch_size=8)
SMALL = Small(
    train=TrainConfig(d_model=16, n_heads=2, d_mlp=8, steps=2, check_every=2, batch_size=8),
    least_accuracy=0.0, feature_steps=2, feature_batch=8, features=6, active=2, prefixes=(2,),
    eliminate=EliminateConfig(("counterfactual", "mean"), swaps=1, entering=1), draws=2,
    sizes=Sizes(16, 8, 8), batch_size=8, ablations=("counterfactual", "mean"),
)  # fmt: skip
SIZES = Sizes(8, 4, 8)
SEARCH = {
    "masks": MASKS, "sizes": SIZES, "scored": 4, "graph_prompts": 4,
    "graph": GradientConfig((0.5,), 4), "path": GradientConfig((0.5, 1.0), 4),
    "ablations": ("counterfactual", "mean"),
}  # fmt: skip


def test_the_ablation_study_measures_each_variant_once(tiny, places, read):
    config = ablation_study.Config(
        **places, tasks=("ioi",), variants=("no masks",), model=tiny, sizes=SIZES, masks=MASKS,
        batch_size=4, scored=4, graph=GradientConfig((0.5,), 4), graph_prompts=4,
        repair=RepairConfig(rounds=1, pairs=0, batch_size=4), ablations=("counterfactual",),
    )  # fmt: skip
    ablation_study.main(config)
    first = read("ablation_study")["rows"]
    ablation_study.main(dataclasses.replace(config, variants=("no masks", "random levels")))
    result = read("ablation_study")
    assert result["rows"][:1] == first  # kept, seconds included
    assert [row["variant"] for row in result["rows"][1:]] == ["random levels"]
    for row in result["rows"]:
        assert row["nodes"] == round(0.05 * row["of"])
        assert np.isfinite([row["faithfulness"], row["kl_share"]]).all()
    with pytest.raises(ConfigError, match="--runs"):
        ablation_study.main(dataclasses.replace(config, scored=2))


def test_algorithmic_circuits_of_all_nodes_keep_everything(places, read):
    algorithmic.main(
        algorithmic.Config(**places, seeds=1, tasks=("sorting",), nodes=9999, small=SMALL)
    )
    result = read("algorithmic")
    whole = [row for row in result["rows"] if row["by"] == "asked"]
    assert [row["ablation"] for row in whole] == ["counterfactual", "mean", "worst"]
    for row in whole:
        assert row["nodes"] == row["of"] == 8
        assert row["random"] == row["random_best"] == row["all_nodes"] == (row["preservation"] or 0)
        assert row["kl"] > 0  # errors are in no circuit
    assert {row["by"] for row in result["rows"]} >= {"asked", "first"}
    assert len(result["summary"]) == len(result["rows"])


def test_parity_is_searched_over_neurons(places, read):
    algorithmic.main(algorithmic.Config(**places, seeds=1, tasks=("parity",), nodes=4, small=SMALL))
    result = read("algorithmic")
    asked = [row for row in result["rows"] if row["by"] == "asked"]
    assert {(row["nodes"], row["of"], row["dictionary"]) for row in asked} == {(4, 10, "neurons")}
    assert "first" not in {row["by"] for row in result["rows"]}  # neurons have no order


def test_modular_arithmetic_searches_for_circuits_of_the_asked_size(places, read):
    modular_arithmetic.main(
        modular_arithmetic.Config(**places, seeds=1, primes=(5,), layers=(1,), nodes=3,
                                  small=SMALL)
    )  # fmt: skip
    result = read("modular_arithmetic")
    asked = [row for row in result["rows"] if row["by"] == "asked"]
    assert {(row["nodes"], row["of"], row["of_heads"]) for row in asked} == {(3, 8, 2)}
    worst = next(row for row in asked if row["ablation"] == "worst")
    assert worst["accuracy"] == min(row["accuracy"] for row in asked)
    assert worst["random"] <= worst["random_best"]
    smallest = [row["nodes"] for row in result["rows"] if row["by"] == "smallest"]
    assert all(nodes <= 8 for nodes in smallest)
    assert {row["by"] for row in result["summary"]} == {row["by"] for row in result["rows"]}


def test_the_first_features_are_as_many_in_every_layer():
    space = Space(2, 3, 8)
    like = Nodes(np.eye(2, 3, dtype=bool), np.arange(16).reshape(2, 8) > 8)
    mask = first_features(space, like)
    assert (mask.heads == like.heads).all()
    assert mask.features.sum(1).tolist() == [4, 3]
    assert mask.features[:, :3].all()


def test_random_circuits_have_as_many_heads_and_features():
    space = Space(2, 3, 8)
    like = Nodes.from_flat(space, np.arange(space.nodes) % 3 == 0)
    drawn = random_circuits(space, like, 5, seed=0)
    for mask in drawn:
        for part in ("heads", "features"):
            assert getattr(mask, part).sum() == getattr(like, part).sum()
    assert len({mask.flat().tobytes() for mask in drawn}) == 5


def test_the_search_cannot_beat_the_best_of_all_circuits(places, read):
    exhaustive.main(
        exhaustive.Config(**places, graphs=2, layers=1, neurons=3, prompts=4, length=3,
                          sizes=(2, 3), search=MaskConfig(steps=4, batch_size=4, check_every=4),
                          repair=RepairConfig(rounds=2, pairs=2, batch_size=4, least=0))
    )  # fmt: skip
    result = read("exhaustive_check")
    assert result["evaluations_of_all"] == 32
    assert [row["circuits_of_the_size"] for row in result["rows"]] == [10, 10]
    for row in result["rows"]:
        assert row["ratio"] >= 1 - 1e-4
        assert min(row["ig"], row["eap_ig"], row["masks"]) >= row["least"] - 1e-5
        assert row["within"] == (row["found"] <= 1.01 * row["least"] + 1e-5)


def test_known_circuits_are_searched_for(places, read):
    ground_truth.main(
        ground_truth.Config(
            **places, seeds=1, by_hand=("either",), programs=(), of=("nodes",), restarts=1,
            search=MaskConfig(steps=20, batch_size=4, learning_rate=0.3, check_every=20),
            repair=REPAIR,
        )
    )  # fmt: skip
    rows = {row["by"]: row for row in read("ground_truth")["rows"]}
    assert rows.keys() == {"hagd", "eap", "|eap|", "eap_ig", "|eap_ig|"}
    assert rows["hagd"]["exact"]
    assert rows["hagd"]["auroc"] == 1


def test_random_programs_are_searched_for(places, read):
    pytest.importorskip("tracr")
    random_programs.main(random_programs.Config(
        **places, halves=("seen",), programs=1, restarts=0, repair=REPAIR,
        search=MaskConfig(steps=35, batch_size=32, check_every=5),
    ))  # fmt: skip
    rows = {row["by"]: row for row in read("random_programs")["rows"]}
    assert rows.keys() == {"|eap|", "|eap_ig|", "cuts", "hagd", "smallest", "smallest, gates"}
    assert rows["hagd"]["exact"]
    assert rows["hagd"]["total"] == 175 > 3 <= rows["hagd"]["size"]
    assert rows["smallest, gates"]["found"] <= rows["smallest"]["found"]


def test_the_meta_learner_is_trained_without_a_family(places, tmp_path, read):
    config = meta_learning.Config(
        **places, steps=2, seeds=1, halving=0, families=("by hand", "compiled"), graphs=1,
        prompts=8, masks=MaskConfig(steps=2, batch_size=4), mask_steps=(2,),
        learner=tmp_path / "learner.safetensors",
    )  # fmt: skip
    meta_learning.main(config)
    result = read("meta_learning")
    assert [row["family left out"] for row in result["rows"]] == ["by hand", "compiled"]
    for row in result["graphs"]:
        assert row["effects of all"] > 0.8  # few prompts show what most members do; chance is .5
    learner = meta.load(config.learner)
    assert learner.config == meta.LearnerConfig()
    starts = meta_learning.halving(learner, "by hand", dataclasses.replace(config, halving=1))
    assert [row["begins at"] for row in starts] == ["ig", "prior"]
    assert min(row["loss"] for row in starts) >= 0


def test_circuits_of_all_sizes_and_their_overlap(tiny, places, read):
    config = smollm2.Config(**places, seeds=1, tasks=("ioi",), model=tiny, **SEARCH)
    smollm2.main(config)
    rows = read("smollm2")["rows"]
    assert {(row["by"], row["ablation"]) for row in rows} == {
        *((by, ablation) for by in ("hagd", "eap_ig") for ablation in config.ablations),
        ("ig", "counterfactual"),
    }
    for row in rows:
        if row["share"] == 1:
            assert row["faithfulness"] == pytest.approx(1, abs=1e-3)
            assert row["kl"] == pytest.approx(0, abs=1e-4)
            assert row["gates"]
    kept = tuple(path.stat().st_mtime for path in (places["runs"] / "smollm2").iterdir())
    stability.main(stability.Config(**places, seeds=2, search=config))
    result = read("stability")
    assert kept[0] in [path.stat().st_mtime for path in (places["runs"] / "smollm2").iterdir()]
    assert result["seeds"] == [0, 1]
    for row in result["rows"]:
        assert 0 <= row["leaves"] <= 1
        assert 0 <= row["chance of leaves"] <= 1


def test_overlaps_are_jaccard_indices_and_chance_keeps_layers():
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert stability.jaccard([a, a]) == 1
    assert stability.jaccard([a, b]) == round(1 / 3, 4)
    layer = np.repeat([0, 1], 50)
    row = np.arange(100) < 60
    (drawn,) = stability.by_chance([row], layer)
    assert [drawn[layer == i].sum() for i in (0, 1)] == [50, 10]
    assert (drawn != row).any()


def test_cores_are_measured_beside_circuits_and_overlap(places, read):
    small = dataclasses.replace(SMALL, sizes=Sizes(32, 8, 8))
    config = core.Config(
        **places, tasks=("sorting",), seeds=1, by=("magnitude", "masks"), shares=(0.5,), kept=(2,),
        prompts=24, subsets=200, searches=12, radii=(0, 1, 99), draws=2, masks=MASKS, small=small,
        batch_size=8, gradient=GradientConfig((0.5,), 1),
    )  # fmt: skip
    core.main(config)
    rows = read("core")["rows"]
    for none, one, far in (rows[:3], rows[3:]):
        assert none["certified"] >= one["certified"] >= far["certified"] == 0
        assert (none["subsets"], none["prompts"]) == ({"masks": 12}.get(none["by"], 200), 24)
        assert 0 < none["overlap"] <= 1
        assert 0 < none["chance"] <= 1
    best = rows[0]
    assert 0 < best["certified"] == best["leaves"] <= best["nodes"] == best["circuit leaves"]
    for said in ("", "circuit ", "random "):
        assert best[f"{said}kl"] > 0
        assert np.isfinite(best[f"{said}accuracy"])
    kept = (places["runs"] / "core.jsonl").read_text()
    core.main(config)
    assert (places["runs"] / "core.jsonl").read_text() == kept


def test_attribution_graphs_over_neurons_and_features(tiny, features, places, read):
    smollm2_graphs.main(
        smollm2_graphs.Config(**places, transcoder=features, features=8, model=tiny)
    )
    rows = read("attribution_smollm2")["rows"]
    assert [(row["prompt"], row["over"]) for row in rows] == [
        ("ioi", "neurons"), ("ioi", "transcoder"), ("capital", "neurons"), ("capital", "transcoder")
    ]  # fmt: skip
    for row in rows:
        assert (row["replacement"] == 1) == (row["over"] == "neurons")  # neurons leave no error
        assert row["pruned_edges"] <= row["edges"]


def test_task_accuracy_counts_the_prompts_that_go_wrong(tiny, places, read):
    task_accuracy.main(
        task_accuracy.Config(**places, model=tiny, language=("ioi",), sizes=SIZES, ioi=8,
                             algorithms=(), modular=(("modular_addition", 5),), most=4,
                             train=SMALL.train)
    )  # fmt: skip
    result = read("task_accuracy")
    for row in result["rows"]:
        if row["task"] == "ioi":
            wrong = result["wrong"][f"{row['task']}/{row['split']}"]
            assert len(wrong) == round((1 - row["accuracy"]) * row["prompts"])
        assert row["fit"] == (row["accuracy"] >= 0.8)
    assert any(result["wrong"].values())  # nobody trained it
    for tokens in result["top_tokens"].values():
        probabilities = [p for _, p in tokens]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
    assert result["training"][0]["steps"] == 2


def test_benchmarks_are_scored_as_in_float64_and_resume(tiny, places, tmp_path, read):
    """Against log-probabilities of each text by itself, without padding."""
    people = ("Mary", "John", "Anna")
    rows = [
        {"sentence": f"{a} called {b} as _ was {how}.", "option1": a, "option2": b, "qID": f"{i}-1",
         "answer": str(1 + i % 2)}
        for i, how in enumerate(("late", "at the store", "ill and very far from the house"))
        for a in people for b in people if a != b
    ]  # fmt: skip
    path = tmp_path / "dev.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = benchmarks.Config(
        **places, files=(f"winogrande:{path}",), models=(tiny,), most=10, cell=4, texts=6
    )
    benchmarks.main(config)
    first = read("benchmarks")
    (row,) = first["rows"]
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (row["rows"], row["of"]) == (10, 18)
    model = models.load(tiny, dtype=jax.numpy.float32)
    expected = []
    for i in np.random.default_rng(0).permutation(18)[:10]:
        before, after = rows[i]["sentence"].split("_")
        sums = []
        for option in (rows[i]["option1"], rows[i]["option2"]):
            start = len(model.tokenizer.encode(before + option, end=False))
            ids = model.tokenizer.encode(before + option + after, end=False)
            logits = np.asarray(models.forward(model, np.array([ids])).logits[0], np.float64)
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            sums.append(sum(logp[t - 1, ids[t]] for t in range(start, len(ids))))
        assert abs(sums[0] - sums[1]) > 1e-5  # rounding decides nothing
        expected.append("01"[int(np.argmax(sums)) == int(rows[i]["answer"]) - 1])
    found = "".join(part["acc"] for part in read("benchmark_rows")["rows"])
    assert found == "".join(expected)
    assert "0" in found
    assert "1" in found
    assert row["acc"] == found.count("1") / 10
    assert row["acc_from"] <= row["acc"] <= row["acc_to"]
    kept = (places["runs"] / "benchmark_rows.jsonl").read_text()
    benchmarks.main(config)
    assert (places["runs"] / "benchmark_rows.jsonl").read_text() == kept
    assert read("benchmarks")["rows"] == [row]
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(map(json.dumps, rows[:3])))
    benchmarks.main(dataclasses.replace(config, files=(f"winogrande:{more}",)))
    assert read("benchmarks")["rows"][0] == row
    assert [found["file"] for found in read("benchmarks")["rows"]] == ["dev.jsonl", "more.jsonl"]
    with pytest.raises(ConfigError, match="NAME:FILE"):
        benchmarks.main(dataclasses.replace(config, files=("winogrande",)))


def test_a_real_model_goes_from_its_file_to_a_judged_circuit(
    tiny, places, tmp_path, read, monkeypatch
):
    """In this process, which has compiled some of it already."""
    (tmp_path / "book.txt").write_text("Mary called John at the store. " * 4_000)
    monkeypatch.setattr(real_models, "hagd", lambda config, *words: (run_here(*words), 1))
    small = "--sizes.discover 8 --sizes.select 8 --judge.controls 3 "
    small += "--unit-masks.steps 8 --unit-masks.check-every 4 --nodes 90%"
    config = real_models.Config(
        **places, model=Path(tiny), text=str(tmp_path / "book.txt"), tasks=("ioi", "sva"),
        circuits=("ioi",), tokens=2_000, features=48, length=16, test=8, more=small,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="no file there"):
        real_models.main(dataclasses.replace(config, model=tmp_path / "absent.gguf"))
    with pytest.raises(ConfigError, match="--more"):
        real_models.main(dataclasses.replace(config, more='--units "20'))
    with pytest.raises(InputError, match="--parts circuit"):
        real_models.main(dataclasses.replace(config, parts=("validation",)))
    real_models.main(config)
    rows = read("real_models")["rows"]
    of = {(row["part"], row["of"]): row for row in rows}
    assert {row["sha256"] for row in rows} == {
        hashlib.sha256((Path(tiny) / "model.safetensors").read_bytes()).hexdigest()
    }
    assert 0 < of["tasks", "ioi"]["accuracy"] < 1  # nobody trained it
    assert "refused" in of["tasks", "sva"]
    assert 0 < of["graph", "ioi"]["replacement"] <= 1
    assert of["transcoder", "text"]["loss_zero"] > 0
    assert len(of["transcoder", "text"]["curve"]) > 2
    assert of["circuit", "ioi"]["verdict"] in ("accepted", "rejected", "not enough data")
    assert len(of["circuit", "ioi"]["claims"]) > 5
    assert of["validation", "ioi"]["verdict"] == of["circuit", "ioi"]["verdict"]
    shown = real({"rows": [row for row in rows if row["part"] in ("circuit", "validation")]})
    assert [what.split("`")[1].split()[1] for what, *_ in shown] == ["extract", "validate"]


def run_here(*words: object) -> int:
    """Run a command of `hagd` in this process."""
    return commands.run(list(map(str, words)))


def test_rivals_are_judged_on_the_same_sizes_and_their_failures_counted(tiny, places, read):
    find = RivalsConfig(
        masks=MASKS, pruning=EdgePruningConfig(steps=2, batch_size=4, check_every=2),
        thresholds=(0.1, 3.0), swept=2, batch_size=4,
    )  # fmt: skip
    names = ("nodes.eap", "edges.relp", "edges.acdc")
    config = rivals.Config(
        **places, seeds=1, tasks=("ioi",), models=(tiny,), rivals=names, shares=(), find=find,
        sizes=SIZES, ablations=("counterfactual", "mean"), batch_size=8,
    )  # fmt: skip
    rivals.main(config)
    with pytest.raises(ConfigError, match=r"nodes\.eap"):
        dataclasses.replace(config, rivals=("nodes.acdc",))
    rows = read("rivals")["rows"]
    assert {(row["rival"], row["ablation"]) for row in rows} == {
        (name, ablation) for name in names for ablation in config.ablations
    }
    for row in rows:
        assert row["units"] <= row["asked"] <= row["of"]
        assert row["passes"] > 0
        if row["asked"] == row["of"]:
            assert row["faithfulness"] == pytest.approx(1, abs=1e-3)
            assert row["kl_gate"]
            assert row["accuracy_gate"]
        elif row["rival"] != "edges.acdc":
            assert row["variant"] in ("signed", "magnitude")
            assert row["units"] == row["asked"]
            assert np.isfinite([row["cpr"], row["cmd"]]).all()
            folder = f"{Path(tiny).name}-ioi-0-{row['rival']}"
            kept = load_circuit(places["runs"] / "rivals" / folder / f"{row['asked']}.json")
            assert len(kept) == row["asked"]
            assert kept.seen.known
    counted = json.loads((places["results"] / "rivals_near.json").read_text())["rows"]
    assert [row["rival"] for row in counted] == [*names, "all"]


def test_circuits_that_are_near_in_the_mean_are_counted_by_what_they_fail():
    def row(asked, ablation, faithfulness, kl=True, accuracy=True, rival="nodes.eap"):
        return {
            "model": "m", "task": "t", "seed": 0, "rival": rival, "asked": asked, "of": 9,
            "ablation": ablation, "faithfulness": faithfulness, "kl_gate": kl,
            "accuracy_gate": accuracy,
        }  # fmt: skip

    rows = [
        row(1, "counterfactual", 0.96), row(1, "mean", 0.2, kl=False),
        row(2, "counterfactual", 1.04, kl=False), row(2, "mean", 1.0),
        row(3, "counterfactual", 1.06, kl=False), row(3, "mean", 1.0),
        row(4, "counterfactual", None), row(9, "counterfactual", 1.0, kl=False),
        row(1, "counterfactual", 1.0, accuracy=False, rival="edges.eap"),
    ]  # fmt: skip
    nodes, edges, both = rivals.near(rows)
    said = {"fail_kl": 1, "fail_accuracy": 0, "fail_unseen": 1, "fail_any": 2}
    assert nodes == {"rival": "nodes.eap", "near": 2} | said
    assert edges["fail_accuracy"] == edges["fail_any"] == edges["near"] == 1
    assert both == {"rival": "all", "near": 3} | said | {"fail_accuracy": 1, "fail_any": 3}
