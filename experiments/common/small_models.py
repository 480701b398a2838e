"""Train small models and their transcoders, find their circuits, and measure them."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np

import hagd_jax as hagd
from experiments.common.record import half_interval, share, write
from hagd_jax import tasks, testbeds, transcoders, units
from hagd_jax.causal import Ablation, behaviour
from hagd_jax.corpus import corpus_of_tokens
from hagd_jax.errors import ConfigError
from hagd_jax.pipeline.features import SMALL_FEATURES
from hagd_jax.scores import GradientConfig
from hagd_jax.search import MaskConfig, RepairConfig, repair, search_masks
from hagd_jax.tasks import Sizes
from hagd_jax.units import Nodes

Row = dict
ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class Small:
    """Small holds the settings for training small models, and for testing their circuits.

    Attributes:
        train: Training of the models.
        least_accuracy: Least accuracy on the select split; a model below it is trained again.
        feature_steps: Training steps of a transcoder.
        feature_batch: Sequences per training step of a transcoder.
        scored: Number of discover prompts over which integrated gradients are averaged.
        search: Training of the masks.
        repair: Swaps that are measured after the search.
        sizes: Number of prompts in each split.
        batch_size: Prompts per call when circuits are tested; larger values use more memory.
        ablations: Ablations that circuits are tested under. The search uses the counterfactual.
    """

    train: testbeds.SmallTrainConfig = testbeds.SmallTrainConfig()
    least_accuracy: float = 0.95
    feature_steps: int = 1500
    feature_batch: int = SMALL_FEATURES.batch_size
    scored: int = 256
    search: MaskConfig = MaskConfig(steps=800, batch_size=64, learning_rate=0.1, start=1.0)
    repair: RepairConfig = RepairConfig(rounds=20, pairs=6, batch_size=256)
    sizes: Sizes = Sizes(discover=512, select=128, test=256)
    batch_size: int = 256
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample", "zero")


def trained(
    algorithm: tasks.Algorithm, seed: int, small: Small, layers: int = 0
) -> hagd.models.LanguageModel:
    """Train a model on an algorithm; 0 layers means as many as the algorithm needs."""
    config = dataclasses.replace(small.train, n_layers=layers)
    return testbeds.train_small(algorithm, seed=seed, config=config)


def learnt(name: str, seed: int, small: Small) -> tuple[hagd.models.LanguageModel, tasks.Task, int]:
    """Train models with seeds `seed`, `seed + 100`, ... until one is accurate enough.

    Returns:
        The model, its task, and the number of models that were not accurate enough.
    """
    algorithm = algorithm_of(name)
    for failed in range(ATTEMPTS):
        model = trained(algorithm, seed + 100 * failed, small)
        task = tasks.task(name, model, sizes=small.sizes, seed=seed)
        everything = Nodes.full(units.neurons(model).space, True)
        found = behaviour(
            model, task.splits["select"], [everything], ablation="counterfactual",
            candidates=task.candidates, batch_size=small.batch_size,
        )  # fmt: skip
        if np.mean(found.correct[0]) >= small.least_accuracy:
            return model, task, failed
    raise ConfigError(
        f"{ATTEMPTS} models of {name}", got="none of them accurate enough",
        expected=f"accuracy of {small.least_accuracy} on the select split",
        mend="Allow more --small.train.steps.",
    )  # fmt: skip


def algorithm_of(name: str, **options: int) -> tasks.Algorithm:
    """Return the algorithm of that name, on which small models are trained."""
    algorithm = tasks.small_algorithm(name, **options)
    if algorithm is None:
        raise ConfigError("task", got=name, expected="an algorithm, such as parity")
    return algorithm


def features_of(
    model: hagd.models.LanguageModel, algorithm: tasks.Algorithm, count: int, seed: int,
    small: Small,
) -> transcoders.Transcoder:  # fmt: skip
    """Train a transcoder with `count` features per layer, 60% of them active."""
    seen, _ = algorithm.table("train", testbeds.MOST_EXAMPLES)
    corpus = corpus_of_tokens("what the model was trained on", seen, model)
    config = dataclasses.replace(
        SMALL_FEATURES, features=str(count), k=max(1, round(0.6 * count)), seed=seed,
        batch_size=small.feature_batch,
        tokens=small.feature_steps * small.feature_batch * seen.shape[-1],
    )  # fmt: skip
    return transcoders.train(model, corpus, config)


def circuit_of(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, size: int,
    seed: int, small: Small,
) -> tuple[Nodes, float]:  # fmt: skip
    """Find a circuit with masks that start at signed IG, and repair it.

    Returns:
        The circuit, and the runtime in seconds.
    """
    prompts, began = task.splits["discover"], time.monotonic()
    if size >= nodes.space.nodes:
        return Nodes.full(nodes.space, True), 0.0
    gradients = GradientConfig(batch_size=small.search.batch_size)
    scores = hagd.scores.mean_scores(model, prompts[: small.scored], gradients, dictionary=nodes)
    found = search_masks(model, prompts, scores, [size], small.search, dictionary=nodes, seed=seed)
    better = repair(model, prompts, found.circuits[size], small.repair, dictionary=nodes)
    mask = better.mask.mask
    jax.block_until_ready(mask.heads)
    return mask, time.monotonic() - began


def judged(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, mask: Nodes,
    seed: int, small: Small,
) -> list[Row]:  # fmt: skip
    """Measure a circuit and its complement on the test split; return one row per ablation."""
    rows = []
    for ablation in small.ablations:
        empty = Nodes.full(nodes.space, False)
        found = behaviour(
            model, task.splits["test"], [mask, ~mask, empty], dictionary=nodes,
            ablation=Ablation(ablation, task.splits["discover"], seed), candidates=task.candidates,
            batch_size=small.batch_size, with_model=True,
        )  # fmt: skip
        right = found.correct.mean(1)
        rows.append({
            "nodes": int(mask.flat().sum()), "heads": int(np.asarray(mask.heads).sum()),
            "of": nodes.space.nodes, "ablation": ablation,
            "optimised_for": ablation == "counterfactual",
            "accuracy_model": round(float(right[0]), 4), "accuracy": round(float(right[1]), 4),
            "preservation": share(right[1], right[0]),
            "accuracy_without": round(float(right[2]), 4),
            "kl": round(float(found.kl[1].mean()), 4),
            "kl_empty": round(float(found.kl[3].mean()), 4),
        })  # fmt: skip
    return rows


def summarise(file: Path, rows: list[Row], *by: str) -> None:
    """Add a `summary` of the rows to a record, grouped by the columns `by`."""
    write(file, json.loads(file.read_text()) | {"summary": summary(rows, *by)})


def summary(rows: list[Row], *by: str) -> list[Row]:
    """Return mean and 95% interval of preservation over seeds (Student's t), by columns."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    found = []
    for key, own in groups.items():
        values = np.array([row["preservation"] for row in own], float)
        half = half_interval(values.tolist())
        found.append(dict(zip(by, key, strict=True)) | {
            "seeds": len(values), "preservation": round(float(values.mean()), 4),
            "low": round(float(values.mean() - half), 4),
            "high": round(float(values.mean() + half), 4), "least": round(float(values.min()), 4),
        })  # fmt: skip
    return found
