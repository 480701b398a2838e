"""Do both executors end with the same circuit?

    python -m experiments.parity.executors  # a quarter of an hour on two idle cores

The staged executor (one program per stage) and the fused one (one compiled step) run on modular
addition by a trained model, over neurons and over features that the run learns; on models written
by hand, whose circuits are known; and on IOI in SmolLM2-135M with few steps, over neurons with a
tree, under counterfactual ablation and under mean ablation with repair. Expected: the same members
except for ties, where the ranks on both sides of the cut differ within rounding. Writes
results/executors.json.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import numpy as np

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, tasks
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline import ExtractConfig, Left, run_fused, run_staged
from hagd_jax.pipeline.extract import prepare
from hagd_jax.search import MaskConfig, RepairConfig
from hagd_jax.tasks import Sizes, Task
from hagd_jax.tasks.modular import algorithm
from hagd_jax.testbeds import SmallTrainConfig, hand_built, small_model
from hagd_jax.testbeds.case import as_task
from hagd_jax.transcoders import TrainConfig

# Log-probabilities closer than this are ties, after hundreds of steps of Adam in float32.
TIE = 1e-2


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings of the cases that both executors run.

    Attributes:
        model: Language model for IOI; empty to leave it out.
        prompts: Number of IOI prompts in each split.
        steps: Training steps of the masks over SmolLM2.
        small_steps: Training steps of the masks over small models.
        modulus: Modulus of the trained model; 0 to leave it out.
        tokens: Training tokens of its transcoder.
        train: Training of that model.
        programs: Names of the models written by hand.
    """

    model: str = "smollm2-135m"
    prompts: int = 32
    steps: int = 20
    small_steps: int = 60
    modulus: int = 53
    tokens: int = 200_000
    train: SmallTrainConfig = SmallTrainConfig()
    programs: tuple[str, ...] = ("either", "both", "suppressed", "parity", "rotation", "sorting")


Case = tuple[str, LanguageModel, Task, ExtractConfig]


def main(config: Config) -> None:
    """Run both executors on every case, and record whether their circuits agree."""
    began = time.monotonic()
    rows = [compared(*case) for case in cases(config)]
    bad = [row["case"] for row in rows if row["differ"] and row["gap"] > TIE]
    record(
        config.results / "executors.json", rows, seconds=time.monotonic() - began, tie=TIE,
        same=sum(not row["differ"] for row in rows), as_expected=not bad,
    )  # fmt: skip
    if bad:
        sys.exit(f"NOT as expected: {', '.join(bad)}")


def cases(config: Config) -> list[Case]:
    """Return the cases: name, model, task and configuration."""
    masks = MaskConfig(steps=config.small_steps)
    found: list[Case] = []
    programs = {case.name: case for case in hand_built()}
    for name in config.programs:
        case = programs[name]
        nodes = str(len(case.truth["counterfactual"]))
        own = ExtractConfig(nodes=nodes, search="masks", masks=masks, repair=RepairConfig(rounds=2))
        found.append((name, case.model, as_task(case), own))
    if config.modulus:
        own = algorithm(config.modulus)
        model = small_model(own, config=config.train)
        task = tasks.task(own.name, model, sizes=Sizes(32, 32, 32))
        extraction = ExtractConfig(nodes="25%", search="masks", masks=masks)
        found.append(("modular addition", model, task, extraction))
        train = TrainConfig(features="2x", k=16, batch_size=64, tokens=config.tokens)
        learned = dataclasses.replace(extraction, features="transcoder", train=train)
        found.append(("modular addition, features", model, task, learned))
    if config.model:
        model = models.load(config.model)
        sizes = Sizes(*[config.prompts] * 3)
        task = tasks.task("ioi", model, sizes=sizes)
        ioi = ExtractConfig(
            nodes="10%", search="masks", masks=MaskConfig(steps=config.steps), candidates=1024
        )
        mean = dataclasses.replace(
            ioi, masks=MaskConfig(steps=config.steps, mean=0.5),
            repair=RepairConfig(rounds=1, pairs=2, batch_size=8),
        )  # fmt: skip
        found += [("IOI", model, task, ioi), ("IOI, with mean and repair", model, task, mean)]
    return found


def compared(name: str, model: LanguageModel, task: Task, config: ExtractConfig) -> dict[str, Any]:
    """Run both executors on one case; return a row of differences and times."""
    seconds, ends = [], []
    for execute in (run_staged, run_fused):
        context, _ = prepare(model, task, config)
        began = time.monotonic()
        ends.append(execute(context, "select"))
        seconds.append(time.monotonic() - began)
    row = {"case": name} | apart(*ends)
    print(row, flush=True)
    return row | {"staged_s": round(seconds[0], 1), "fused_s": round(seconds[1], 1)}


def apart(one: Left, other: Left) -> dict[str, Any]:
    """Compare two results; `gap` is the range of the ranks of members that differ."""
    circuits = [left["select"].circuit.mask().flat() for left in (one, other)]
    size = int(circuits[0].sum())
    differ = np.flatnonzero(circuits[0] != circuits[1])
    ranks = [left["search"].ranks[size].flat() for left in (one, other)]
    trees = [left["hierarchy"].tree.clusters for left in (one, other)]
    scores = [left["score"].flat() for left in (one, other)]
    return {
        "nodes": len(circuits[0]),
        "members": size,
        "differ": len(differ) // 2,
        "gap": float(np.ptp(ranks[0][differ])) if len(differ) else 0.0,
        "scores_apart": float(np.abs(scores[0] - scores[1]).max()),
        "ranks_apart": float(np.abs(ranks[0] - ranks[1]).max()),
        "same_tree": all(map(np.array_equal, *trees)) if trees[0] else True,
        "found_by": "/".join(left["select"].circuit.config["found_by"] for left in (one, other)),
    }


if __name__ == "__main__":
    run(main, Config, __doc__)
