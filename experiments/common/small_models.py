"""Train small models and their transcoders, find their circuits, and measure them."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import hagd_jax as hagd
from experiments.common.record import half_interval, share, write
from hagd_jax import tasks, testbeds, transcoders, units
from hagd_jax.causal import Ablation, Behaviour, behaviour
from hagd_jax.corpus import corpus_of_tokens
from hagd_jax.errors import ConfigError
from hagd_jax.pipeline.features import SMALL_FEATURES
from hagd_jax.search import EliminateConfig, eliminate
from hagd_jax.tasks import Sizes
from hagd_jax.transcoders import LossConfig
from hagd_jax.units import Nodes
from hagd_jax.units.dictionary import NEURONS

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
        features: Features per layer of a transcoder.
        active: Largest number of features that are active at a token.
        prefixes: Numbers of features that reconstruct the MLP alone, see `LossConfig.prefixes`.
        eliminate: Elimination of nodes; its ablations are those that circuits are found under.
        keeps: Share of the model's accuracy that the smallest circuit must keep on the select
            split, under every ablation.
        draws: Number of random circuits of the same size.
        sizes: Number of prompts in each split.
        batch_size: Prompts per call when circuits are tested; larger values use more memory.
        ablations: Ablations that circuits are tested under.
    """

    train: testbeds.SmallTrainConfig = testbeds.SmallTrainConfig()
    least_accuracy: float = 0.95
    feature_steps: int = 1500
    feature_batch: int = SMALL_FEATURES.batch_size
    features: int = 256
    active: int = 32
    prefixes: tuple[int, ...] = (16, 32, 64, 128)
    eliminate: EliminateConfig = EliminateConfig(swaps=4, least=0.02)
    keeps: float = 0.98
    draws: int = 20
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
    model: hagd.models.LanguageModel, algorithm: tasks.Algorithm, seed: int, small: Small
) -> units.Dictionary:
    """Train a transcoder for prefixes of its features; its errors are in no circuit."""
    seen, _ = algorithm.table("train", testbeds.MOST_EXAMPLES)
    corpus = corpus_of_tokens("what the model was trained on", seen, model)
    config = dataclasses.replace(
        SMALL_FEATURES, features=str(small.features), k=small.active, seed=seed,
        batch_size=small.feature_batch,
        tokens=small.feature_steps * small.feature_batch * seen.shape[-1],
        loss=LossConfig(prefixes=small.prefixes),
    )  # fmt: skip
    found = transcoders.train(model, corpus, config)
    return units.as_dictionary(model, found, keep_error=False)


def rows_of(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, size: int,
    seed: int, small: Small,
) -> list[Row]:  # fmt: skip
    """Find circuits over a dictionary, and test them: the rows of a cell."""
    found, rows = circuits_of(model, task, nodes, size, seed, small), []
    everything = Nodes.full(nodes.space, True)
    (whole,) = kept_by(model, task, nodes, [everything], "test", seed, small)
    circuits = {"asked": found.asked, "smallest": found.smallest}
    if nodes.label != NEURONS:  # which have no order
        circuits["first"] = first_features(nodes.space, found.asked)
    for by, mask in circuits.items():
        if mask is not None:
            own = {"by": by, "all_nodes": round(float(whole), 4), "evaluations": found.evaluations,
                   "search_seconds": round(found.seconds, 1)}  # fmt: skip
            rows += [own | row for row in judged(model, task, nodes, mask, seed, small)]
    return rows


class Found(NamedTuple):
    """Found holds the circuits of a model over one dictionary, and what they cost.

    Attributes:
        asked: The circuit of the size asked for.
        smallest: The smallest circuit on the way that keeps enough on the select split; None if
            none does.
        evaluations: Number of circuits measured, each under every ablation.
        seconds: Runtime of the search.
    """

    asked: Nodes
    smallest: Nodes | None
    evaluations: int
    seconds: float


def circuits_of(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, size: int,
    seed: int, small: Small,
) -> Found:  # fmt: skip
    """Eliminate nodes on the discover split down to a size, and then to half of it.

    The select split decides whether swaps made the circuit better, and which one is the smallest
    that keeps enough.
    """
    prompts, began = task.splits["discover"], time.monotonic()
    size = min(size, nodes.space.nodes)
    made = eliminate(model, prompts, None, size, small.eliminate, dictionary=nodes)
    without = dataclasses.replace(small.eliminate, swaps=0)
    fewer = eliminate(model, prompts, made.mask, max(1, size // 2), without, dictionary=nodes)
    seconds = time.monotonic() - began
    every = [step.mask.mask for step in (*made.path, *fewer.path)]
    kept = kept_by(model, task, nodes, every, "select", seed, small)
    eliminated, swapped = len(made.path) - 1, len(made.path)
    asked = eliminated if kept[eliminated] > kept[swapped] else swapped
    enough = [mask for mask, share in zip(every, kept, strict=True) if share >= small.keeps]
    smallest = min(enough, key=lambda mask: mask.flat().sum(), default=None)
    return Found(every[asked], smallest, made.evaluations + fewer.evaluations, seconds)


def kept_by(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary,
    masks: list[Nodes], split: str, seed: int, small: Small,
) -> np.ndarray:  # fmt: skip
    """Return the share of the model's accuracy that each circuit keeps under its worst ablation."""
    shares = []
    for name in small.ablations:
        right = _behaviour(model, task, nodes, masks, split, name, seed, small).correct.mean(1)
        shares.append(right[1:] / max(right[0], 1e-9))
    return np.min(shares, axis=0)


def random_circuits(space: units.Space, like: Nodes, draws: int, seed: int) -> list[Nodes]:
    """Draw random circuits with as many heads and as many features as a circuit has."""
    rng, heads = np.random.default_rng([seed, 1]), space.layers * space.heads
    row = np.asarray(like.flat())
    parts = row[:heads], row[heads:]
    return [Nodes.from_flat(space, np.concatenate([rng.permutation(part) for part in parts]))
            for _ in range(draws)]  # fmt: skip


def first_features(space: units.Space, like: Nodes) -> Nodes:
    """Return a circuit with the heads of another, and in each layer the first features.

    Its layers have equally many, and all together as many as the other circuit. The order that
    training gives to features is the rival that a search of the dictionary should not fall behind.
    """
    count = int(np.asarray(like.features).sum())
    place = np.arange(space.features) * space.layers + np.arange(space.layers)[:, None]
    return Nodes(like.heads, place < count)


def judged(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary, mask: Nodes,
    seed: int, small: Small,
) -> list[Row]:  # fmt: skip
    """Measure a circuit, its complement and random circuits on the test split, by ablation.

    The last row is the worst: the least that the circuit keeps under any ablation, and for each
    random circuit likewise.
    """
    drawn = random_circuits(nodes.space, mask, small.draws, seed)
    masks = [mask, ~mask, Nodes.full(nodes.space, False), *drawn]
    size = {
        "nodes": int(mask.flat().sum()), "heads": int(np.asarray(mask.heads).sum()),
        "of": nodes.space.nodes, "of_heads": nodes.space.layers * nodes.space.heads,
    }  # fmt: skip
    rows, chance = [], []
    for name in small.ablations:
        found = _behaviour(model, task, nodes, masks, "test", name, seed, small)
        right = found.correct.mean(1)
        chance.append(right[4:] / max(right[0], 1e-9))
        rows.append(size | {
            "ablation": name, "optimised_for": name in small.eliminate.ablations,
            "accuracy_model": round(float(right[0]), 4), "accuracy": round(float(right[1]), 4),
            "preservation": share(right[1], right[0]),
            "accuracy_without": round(float(right[2]), 4),
            "kl": round(float(found.kl[1].mean()), 4),
            "kl_empty": round(float(found.kl[3].mean()), 4),
        } | _chance(chance[-1]))  # fmt: skip
    least = min(rows, key=lambda row: row["accuracy"])
    return [*rows, least | {"ablation": "worst", "of_worst": least["ablation"]}
            | _chance(np.min(chance, axis=0))]  # fmt: skip


def _chance(kept: np.ndarray) -> Row:
    return {"random": round(float(kept.mean()), 4), "random_best": round(float(kept.max()), 4)}


def _behaviour(
    model: hagd.models.LanguageModel, task: tasks.Task, nodes: units.Dictionary,
    masks: list[Nodes], split: str, name: str, seed: int, small: Small,
) -> Behaviour:  # fmt: skip
    """What the model and some circuits do; references are discover prompts."""
    return behaviour(
        model, task.splits[split], masks, dictionary=nodes,
        ablation=Ablation(name, task.splits["discover"], seed), candidates=task.candidates,
        batch_size=small.batch_size, with_model=True,
    )  # fmt: skip


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
            name: sorted({row[name] for row in own}) for name in ("nodes", "heads", "of")
        } | {
            "random": round(float(np.mean([row["random"] for row in own])), 4),
            "random_best": max(row["random_best"] for row in own),
            "seeds": len(values), "preservation": round(float(values.mean()), 4),
            "low": round(float(values.mean() - half), 4),
            "high": round(float(values.mean() + half), 4), "least": round(float(values.min()), 4),
        })  # fmt: skip
    return found
