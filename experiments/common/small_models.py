"""What experiments on small trained models share: features, circuits, verdicts."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

import hagd_jax as hagd
from experiments.common.record import half_interval
from hagd_jax import tasks, testbeds, transcoders, units
from hagd_jax.causal import behaviour
from hagd_jax.cli.extract import SMALL_FEATURES
from hagd_jax.corpus import corpus_of_tokens
from hagd_jax.scores import GradientConfig
from hagd_jax.search import MaskConfig, RepairConfig, repair, search_masks
from hagd_jax.units import Nodes

Row = dict
# Found under counterfactual ablation; the others nobody optimised for.
ABLATIONS = ("counterfactual", "mean", "resample", "zero")
SEARCH = MaskConfig(steps=800, batch_size=64, learning_rate=0.1, start=1.0)
REPAIR = RepairConfig(rounds=20, pairs=6, batch_size=256)
STEPS = 1500


def trained(algorithm: tasks.Algorithm, seed: int, layers: int = 0) -> hagd.models.LanguageModel:
    config = dataclasses.replace(testbeds.SmallTrainConfig(), n_layers=layers)
    return testbeds.train_small(algorithm, seed=seed, config=config)


def learnt(
    name: str, seed: int, sizes: tasks.Sizes
) -> tuple[hagd.models.LanguageModel, tasks.Task, int]:
    """The first model of seeds `seed`, `seed + 100`, ... that can do it; and how many could not."""
    algorithm = tasks.small_algorithm(name)
    assert algorithm is not None
    for failed in range(5):
        model = trained(algorithm, seed + 100 * failed)
        task = tasks.task(name, model, sizes=sizes, seed=seed)
        prompts = task.splits["select"]
        everything = Nodes.full(units.neurons(model).space, True)
        found = behaviour(
            model, prompts, [everything], ablation="counterfactual", candidates=task.candidates,
            batch_size=128,
        )  # fmt: skip
        if np.mean(found.correct[0]) >= 0.95:
            return model, task, failed
    raise SystemExit(f"{name}: five models in a row did not learn it")


def features_of(
    model: hagd.models.LanguageModel, algorithm: tasks.Algorithm, count: int, seed: int
) -> transcoders.Transcoder:
    """A transcoder of `count` features a layer, half of them active, and a bit more."""
    seen, _ = algorithm.table("train", testbeds.MOST_EXAMPLES)
    corpus = corpus_of_tokens("what the model was trained on", seen, model)
    config = dataclasses.replace(
        SMALL_FEATURES, features=str(count), k=max(1, round(0.6 * count)), seed=seed,
        tokens=STEPS * SMALL_FEATURES.batch_size * seen.shape[-1],
    )  # fmt: skip
    return transcoders.train(model, corpus, config)


def circuit_of(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, size: int,
    seed: int,
) -> tuple[Nodes, float]:  # fmt: skip
    """Masks from signed IG, then repair; and how many seconds they took."""
    prompts, began = task.splits["discover"], time.monotonic()
    if size >= nodes.space.nodes:
        return Nodes.full(nodes.space, True), 0.0
    scores = hagd.scores.mean_scores(
        model, prompts[:256], GradientConfig(batch_size=64), dictionary=nodes
    )
    found, _ = search_masks(model, prompts, scores, [size], SEARCH, dictionary=nodes, seed=seed)
    mask = repair(model, prompts, found[size], REPAIR, dictionary=nodes).mask
    jax.block_until_ready(mask.heads)
    return mask, time.monotonic() - began


def judged(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, mask: Nodes,
    seed: int,
) -> list[Row]:  # fmt: skip
    """One row an ablation: what is kept of accuracy, and what is left without the circuit."""
    rows = []
    for ablation in ABLATIONS:
        empty = Nodes.full(nodes.space, False)
        found = behaviour(
            model, task.splits["test"], [mask, ~mask, empty], dictionary=nodes, ablation=ablation,
            candidates=task.candidates, reference=task.splits["discover"], batch_size=256,
            seed=seed, with_model=True,
        )  # fmt: skip
        right = found.correct.mean(1)
        rows.append({
            "nodes": int(mask.flat().sum()), "heads": int(np.asarray(mask.heads).sum()),
            "of": nodes.space.nodes, "ablation": ablation,
            "optimised_for": ablation == "counterfactual",
            "accuracy_model": round(float(right[0]), 4), "accuracy": round(float(right[1]), 4),
            "preservation": round(float(right[1] / right[0]), 4),
            "accuracy_without": round(float(right[2]), 4),
            "kl": round(float(found.kl[1].mean()), 4),
            "kl_empty": round(float(found.kl[3].mean()), 4),
        })  # fmt: skip
    return rows


def summary(rows: list[Row], *by: str) -> list[Row]:
    """Mean and 95% interval over seeds (Student's t) of preservation, by columns."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    found = []
    for key, own in groups.items():
        values = np.array([row["preservation"] for row in own])
        half = half_interval(values)
        found.append(dict(zip(by, key, strict=True)) | {
            "seeds": len(values), "preservation": round(float(values.mean()), 4),
            "low": round(float(values.mean() - half), 4),
            "high": round(float(values.mean() + half), 4), "least": round(float(values.min()), 4),
        })  # fmt: skip
    return found
