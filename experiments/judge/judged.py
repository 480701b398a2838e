"""Does the judge accept true circuits and reject all others? A test on known circuits.

    pip install -e '.[tracr]'
    python -m experiments.judge.judged            # some hours on two CPU cores, in small pieces
    python -m experiments.judge.judged --models either parity --prompts 16 64

The judge runs at its defaults (the core claims, which decide) on every model of
`testbeds.known_cases`: models written by hand, planted, or compiled from programs, each hidden
among idle units. The test split has 4, 8, 16, 32 or 64 distinct prompts, drawn at random; reference
values come from the other prompts. Circuits are recorded as found under the counterfactual, so mean
and resample ablation decide. Expected, among verdicts with enough data:

- 98% of true circuits are accepted, and none is rejected, however few prompts there are;
- at most 5% of random circuits of the same size are accepted;
- 95% of true circuits without one of their units are rejected;
- 95% of true circuits with one additional idle unit are not accepted;
- no true circuit is accepted on a model whose weights were permuted.

"Not enough data" is a separate verdict: it is counted, and it is no error. A cell is one model with
one number of prompts. Finished cells are kept, and `results/judge_known.json` is written after each
cell, so the script can be stopped and started again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from experiments.common.cells import Row, measure_cells
from experiments.common.known import places
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit, ValidateConfig, validate
from hagd_jax.causal.negative import permuted
from hagd_jax.models import LanguageModel
from hagd_jax.tasks import Seen, Task, Text, prompt_digests
from hagd_jax.testbeds import Case, known_cases, known_names
from hagd_jax.units import neurons

KINDS = ("true", "random", "one unit less", "one idle unit more", "permuted weights")
# History of a circuit that was found on other prompts than those of the case.
ELSEWHERE = Seen(ablations=("counterfactual",), splits=("discover",), prompts=("00000000",))


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for judging known circuits.

    Attributes:
        models: Names of the models; all of them if empty.
        prompts: Numbers of distinct test prompts.
        random: Random circuits per model.
        less: Largest number of circuits per model that lack one unit; 0 for all of them.
        judge: Settings of the judge.
    """

    models: tuple[str, ...] = ()
    prompts: tuple[int, ...] = (4, 8, 16, 32, 64)
    random: int = 4
    less: int = 0
    judge: ValidateConfig = ValidateConfig(claims="core", batch_size=64)


def main(config: Config) -> None:
    """Judge all circuits, one model and one number of prompts at a time."""
    names = config.models or known_names()
    cells = [{"model": name, "prompts": count} for name in names for count in config.prompts]
    case_of = functools.lru_cache(maxsize=1)(_case)
    measure_cells(
        "judge_known", cells, lambda cell: list(judged(case_of(cell["model"]), cell, config)),
        config, varied=("models", "prompts"), packages=("tracr-pypi",),
    )  # fmt: skip


def _case(name: str) -> Case:
    return next(known_cases([name]))


def task_of(case: Case, count: int, seed: int) -> Task | None:
    """Return a task with `count` distinct test prompts; None if the case has fewer.

    A prompt that is asked at several positions keeps all of its rows. The discover split has the
    other prompts, or all prompts if too few are left for reference values.
    """
    keys = np.array(prompt_digests(case.prompts))
    every = np.random.default_rng(seed).permutation(np.unique(keys))
    if len(every) < count:
        return None
    test = np.isin(keys, every[:count])
    rest = ~test if len(every) - count > 24 else np.ones(len(keys), bool)
    splits = {"discover": case.prompts[rest], "test": case.prompts[test]}
    said = Text("", "", "", "", case.name)
    texts = {name: (said,) * len(prompts) for name, prompts in splits.items()}
    return Task(case.name, case.why, splits, texts)


def judged(case: Case, cell: Row, config: Config) -> Iterator[Row]:
    """Yield the verdicts on all circuits of one model, the true circuit first."""
    task = task_of(case, cell["prompts"], seed=cell["prompts"])
    if task is None:
        return
    space = neurons(case.model).space
    every = list(places(space))
    truth = frozenset(case.truth["mean"])
    # A unit that carries a constant is needed under zero ablation, so it is not called idle.
    idle = [node for node in every if node not in case.truth.get("zero", truth)]
    rng = np.random.default_rng(cell["prompts"])

    def row(kind: str, nodes: Iterable[Any], model: LanguageModel | None = None) -> Row:
        chosen = tuple(sorted(nodes))
        circuit = Circuit(chosen, (1.0,) * len(chosen), space, case.model.name, case.name,
                          seen=ELSEWHERE)  # fmt: skip
        report = validate(model or case.model, circuit, task, config.judge)
        failed = [f"{c.name} {c.ablation}".strip() for c in report.decisive if c.verdict == "fails"]
        return {"kind": kind, "verdict": report.verdict, "failed": failed}

    yield row("true", truth)
    for node in sorted(truth)[: config.less or None]:
        yield row("one unit less", truth - {node})
    yield row("one idle unit more", {*truth, idle[rng.integers(len(idle))]})
    for _ in range(config.random):
        chosen = {every[i] for i in rng.permutation(len(every))[: len(truth)]}
        yield row("random", chosen)
    yield row("permuted weights", truth, permuted(case.model, int(rng.integers(1000))))


if __name__ == "__main__":
    run(main, Config, __doc__)
