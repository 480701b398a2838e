"""Does the judge accept what is true and nothing else? Judged on models whose circuits are known.

    pip install -e '.[tracr]'
    python -m experiments.judge.judged

Takes some fifteen minutes on two CPU cores. Expected: every true circuit accepted; at most 5% of
random circuits of the same size accepted; of true circuits without one of their units at least 95%
rejected; of those with one idle unit more at least 95% fail minimality; nothing accepted on models
whose weights were permuted. Writes results/judge_judged.json.

Two sorts of models. Those written by hand (`testbeds.hand_built`), each in several
guises (heads and neurons change places, the stream is turned at random), with circuits of nodes,
read under mean and resample ablation. And RASP programs compiled by Tracr, with circuits of edges,
read under resample ablation. Circuits are recorded as found under counterfactual ablation. Inputs
are all there are, or 200 of them, so discovery and test data do not differ here: nothing was
discovered.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from experiments.common.known import places, sample, truth_of
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit, EdgeCircuit, ValidateConfig, validate
from hagd_jax.causal.metrics import accuracy
from hagd_jax.causal.negative import permuted
from hagd_jax.models import LanguageModel
from hagd_jax.tasks import SPLITS, Seen, Task, Text
from hagd_jax.testbeds import (
    PROGRAMS,
    Case,
    as_task,
    compile_program,
    compiled_prompts,
    hand_built,
    necessary_edges,
    program_edges,
    scrambled,
)
from hagd_jax.units import components, neurons

# What is told beside the verdict is left out.
CONFIG = ValidateConfig(
    ablations=("mean", "resample"), controls=100, draws=8, pairs=1, subsets=1, greedy=0,
    permuted=0, batch_size=512,
)  # fmt: skip
TARGETS = {
    "true": "accepted, 100%", "random": "accepted, at most 5%", "one unit less": "rejected, 95%",
    "one idle unit more": "fails minimality, 95%", "permuted weights": "accepted, 0%",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Verdicts on circuits whose truth is known.

    Attributes:
        guises: Guises of every model written by hand.
        random: Random circuits of every model.
        by_hand: Names of the models written by hand; all of them if empty.
        programs: Names of the compiled programs.
        less: Most circuits of a model that lack one unit; 0 for all of them.
        inputs: Most inputs of a program.
        judge: Settings of the judge; programs are judged under `resample` alone, with 40 controls
            and 4 draws at most.
    """

    guises: int = 3
    random: int = 10
    by_hand: tuple[str, ...] = ()
    programs: tuple[str, ...] = tuple(PROGRAMS)
    less: int = 0
    inputs: int = 200
    judge: ValidateConfig = CONFIG


@dataclasses.dataclass(frozen=True)
class Known:
    """A model with a known circuit: places of its members in a flat mask."""

    name: str
    model: LanguageModel
    task: Task
    truth: frozenset[int]
    units: tuple[int, ...]
    idle: tuple[int, ...]
    make: Callable[[Iterable[int]], Circuit | EdgeCircuit]
    config: ValidateConfig


def main(config: Config) -> None:
    """Judge all circuits of all models."""
    began, rows, models = time.monotonic(), [], 0
    for known in known_models(config):
        rows += list(judged(known, np.random.default_rng(models), config))
        models += 1
        own = [row for row in rows if row["model"] == known.name]
        print(known.name, len(known.truth), own[0]["verdict"],
              sum(row["verdict"] == "accepted" for row in own[1:]), flush=True)  # fmt: skip
    summary = [summarised(kind, rows) for kind in TARGETS]
    record(
        config.results / "judge_judged.json", summary, seconds=time.monotonic() - began, seed=0,
        models=models, packages=("tracr-pypi",), details=rows,
    )  # fmt: skip


def known_models(config: Config) -> Iterator[Known]:
    """All of them."""
    for guise in range(config.guises):
        for plain in hand_built():
            if not config.by_hand or plain.name in config.by_hand:
                yield by_hand(scrambled(plain, guise), guise, config)
    for name in config.programs:
        known = compiled(name, config)
        if known.truth:  # `length` depends on no input, so under resampling on no edge
            yield known


def by_hand(case: Case, guise: int, config: Config) -> Known:
    """Nodes of a model written by hand."""
    space = neurons(case.model).space
    every = list(places(space))

    def make(members: Iterable[int]) -> Circuit:
        nodes = tuple(every[place] for place in sorted(members))
        return Circuit(nodes, (1.0,) * len(nodes), space, case.model.name, case.name,
                       seen=Seen.nothing())  # fmt: skip

    truth = frozenset(np.flatnonzero(truth_of(case, "mean")).tolist())
    # A unit that carries a constant is needed under zero ablation, so it is not called idle.
    idle = tuple(np.flatnonzero(~truth_of(case, "zero")).tolist())
    name, units = f"{case.name}, guise {guise}", tuple(range(len(every)))
    return Known(name, case.model, as_task(case), truth, units, idle, make, config.judge)


def compiled(name: str, config: Config) -> Known:
    """Edges of a compiled program."""
    found = compile_program(PROGRAMS[name])
    model, prompts = found.model, sample(compiled_prompts(found), config.inputs, 0)
    there = components(model).space
    needed = necessary_edges(model, [prompts], "resample", among=program_edges(model))

    def make(members: Iterable[int]) -> EdgeCircuit:
        flat = np.zeros(len(there.flat()), bool)
        flat[list(members)] = True
        mask = there.like(flat)
        return EdgeCircuit.from_mask(mask, mask, model.config, model=model.name, task=name,
                                     seen=Seen.nothing())  # fmt: skip

    said = tuple(Text("", "", "", "", name) for _ in range(len(prompts)))
    task = Task(name, name, dict.fromkeys(SPLITS, prompts), dict.fromkeys(SPLITS, said))
    truth, units, used = (
        np.flatnonzero(edges.flat()).tolist() for edges in (needed, there, program_edges(model))
    )
    idle = tuple(set(units) - set(used)) or tuple(set(units) - set(truth))
    asked = config.judge
    judge = dataclasses.replace(
        asked, ablations=("resample",), controls=min(asked.controls, 40), draws=min(asked.draws, 4)
    )
    return Known(name, model, task, frozenset(truth), tuple(units), idle, make, judge)


def judged(known: Known, rng: Any, config: Config) -> Iterator[dict[str, Any]]:
    """All circuits of one model, the true one first."""

    def row(
        kind: str, members: Iterable[int], model: LanguageModel | None = None
    ) -> dict[str, Any]:
        report = validate(model or known.model, known.make(members), known.task, known.config)
        minimal = [c.verdict for c in report.claims if c.name == "minimality"]
        return {"kind": kind, "model": known.name, "verdict": report.verdict, "minimality": minimal}

    truth = known.truth
    yield row("true", truth)
    for place in sorted(truth)[: config.less or None]:
        yield row("one unit less", truth - {place})
    yield row("one idle unit more", truth | {known.idle[rng.integers(len(known.idle))]})
    drawn = 0
    while drawn < config.random:
        chosen = frozenset(rng.permutation(known.units)[: len(truth)].tolist())
        # By chance, a small model's true circuit may be drawn; that is not a false one.
        if chosen != truth:
            drawn += 1
            yield row("random", chosen)
    yield row("permuted weights", truth, permuted(known.model, int(rng.integers(1000))))


def summarised(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of verdicts, with Clopper–Pearson's interval."""
    own = [row for row in rows if row["kind"] == kind]
    hit = {
        "one unit less": lambda row: row["verdict"] == "rejected",
        "one idle unit more": lambda row: "fails" in row["minimality"],
    }.get(kind, lambda row: row["verdict"] == "accepted")
    share = accuracy(np.array([hit(row) for row in own], float))
    return {
        "circuits": kind,
        "judged": len(own),
        "share": round(share.value, 4),
        "low": round(share.low, 4),
        "high": round(share.high, 4),
        "target": TARGETS[kind],
    }


if __name__ == "__main__":
    run(main, Config, __doc__)
