"""Can the judge be fooled? False inputs are planted, and each must be caught.

    python -m experiments.judge.mutations    # less than a minute on two CPU cores

First, a true circuit of a model written by hand is judged honestly, and accepted. Then each lie
changes one input: the circuit's history, the prompts, the judge's settings or internals, or the
members. The verdict must change, or the judge must refuse the input. Writes
results/judge_mutations.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from experiments.common.known import places
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit, Node, ValidateConfig, ValidationReport, trials, validate
from hagd_jax.errors import HagdError
from hagd_jax.tasks import Prompts, Seen, Task
from hagd_jax.testbeds import Case, as_task, hand_built, scrambled
from hagd_jax.units import neurons


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings of the judge that must catch the lies.

    Attributes:
        model: Name of the model written by hand.
        judge: Settings of the judge.
    """

    model: str = "both"
    judge: ValidateConfig = ValidateConfig(claims="core", ablations=("mean",), batch_size=16)


@dataclasses.dataclass(frozen=True)
class Court:
    """Court holds everything the judge is given; a lie changes some of it."""

    case: Case
    circuit: Circuit
    task: Task
    judge: ValidateConfig

    def verdict(self) -> ValidationReport:
        """Run the judge, and return its report."""
        return validate(self.case.model, self.circuit, self.task, self.judge)

    def seeing(self, seen: Seen) -> Court:
        """Return the same circuit with another history."""
        return dataclasses.replace(self, circuit=dataclasses.replace(self.circuit, seen=seen))

    def testing(self, prompts: Prompts, split: str = "test") -> Court:
        """Return the same circuit with other prompts in a split."""
        texts = (self.task.texts["test"][0],) * len(prompts)
        task = dataclasses.replace(
            self.task, splits={**self.task.splits, split: prompts},
            texts={**self.task.texts, split: texts},
        )  # fmt: skip
        return dataclasses.replace(self, task=task)

    def of(self, nodes: set[Node]) -> Court:
        """Return another circuit with the same history."""
        chosen = tuple(sorted(nodes))
        circuit = dataclasses.replace(self.circuit, nodes=chosen, scores=(1.0,) * len(chosen))
        return dataclasses.replace(self, circuit=circuit)


def honest(config: Config) -> Court:
    """Return the true circuit with its whole history, and test prompts it was not found on."""
    case = next(case for case in hand_built() if case.name == config.model)
    case = scrambled(case, 1)
    whole = as_task(case)
    rows = np.random.default_rng(0).permutation(len(case.prompts))
    cut = len(rows) // 2 - 8
    parts = {"discover": rows[:cut], "test": rows[cut:]}
    task = dataclasses.replace(
        whole,
        splits={name: case.prompts[own] for name, own in parts.items()},
        texts={n: tuple(whole.texts["test"][int(i)] for i in own) for n, own in parts.items()},
    )
    space = neurons(case.model).space
    nodes = tuple(sorted(case.truth["mean"]))
    seen = task.look("discover", ablation="counterfactual", model=case.model, dictionary="neurons")
    circuit = Circuit(nodes, (1.0,) * len(nodes), space, case.model.name, case.name, seen=seen)
    return Court(case, circuit, task, config.judge)


Lie = Callable[[Court], Court]


def erased(court: Court) -> Court:
    """Leave out the history, as in a file written before histories were recorded."""
    return court.seeing(Seen.unknown())


def without_prompts(court: Court) -> Court:
    """Keep the ablation in the history, and leave out the prompts."""
    return court.seeing(Seen(ablations=court.circuit.seen.ablations))


def leaked_ablation(court: Court) -> Court:
    """Add the judge's ablation to those the circuit was found under."""
    return court.seeing(court.circuit.seen | Seen(ablations=("mean",)))


def swapped_splits(court: Court) -> Court:
    """Pass the discover split as the test split."""
    return court.testing(court.task.splits["discover"])


def padded_copies(court: Court) -> Court:
    """Pass the discover prompts as new ones, padded and with another dtype."""
    p = court.task.splits["discover"]
    wide = [np.pad(x, ((0, 0), (0, 3))).astype(np.int64) for x in (p.clean, p.corrupted)]
    return court.testing(dataclasses.replace(p, clean=wide[0], corrupted=wide[1]))


def seen_split(court: Court) -> Court:
    """Judge the circuit on the split that it was found on."""
    return dataclasses.replace(court, judge=dataclasses.replace(court.judge, split="discover"))


def repeated(court: Court) -> Court:
    """Pass four prompts, twelve times each, as 48 prompts."""
    return court.testing(court.task.splits["test"][np.repeat(np.arange(4), 12)])


def swapped_answers(court: Court) -> Court:
    """Exchange answers and distractors, so that the model does not have the behaviour."""
    p = court.task.splits["test"]
    return court.testing(dataclasses.replace(p, answer=p.distractor, distractor=p.answer))


def empty_alike(court: Court) -> Court:
    """Replace the circuit by idle units; its loss equals the empty circuit's."""
    idle = court.case.truth["zero"]
    every = [node for node in places(court.circuit.space) if node not in idle]
    return court.of(set(every[: len(court.circuit)]))


def near_whole(court: Court) -> Court:
    """Replace the circuit by all units except one idle unit."""
    idle = court.case.truth["zero"]
    every = set(places(court.circuit.space))
    return court.of(every - {max(node for node in every if node not in idle)})


def one_less(court: Court) -> Court:
    """Remove one member."""
    return court.of(set(court.circuit.nodes[1:]))


def one_more(court: Court) -> Court:
    """Add an idle unit to the members."""
    idle = court.case.truth["zero"]
    extra = next(node for node in places(court.circuit.space) if node not in idle)
    return court.of({*court.circuit.nodes, extra})


def few_controls(court: Court) -> Court:
    """Use only ten random controls, too few for a level of 5%."""
    return dataclasses.replace(court, judge=dataclasses.replace(court.judge, controls=10))


def other_dictionary(court: Court) -> Court:
    """Name a transcoder as the circuit's dictionary, and do not pass it."""
    circuit = dataclasses.replace(court.circuit, dictionary="mine#12345678", nodes=(), scores=())
    return dataclasses.replace(court, circuit=circuit)


def other_task(court: Court) -> Court:
    """Name another task as the circuit's own."""
    return dataclasses.replace(court, circuit=dataclasses.replace(court.circuit, task="another"))


def nothing_ablated(court: Court) -> Court:
    """Use the prompts themselves as counterfactuals, so that nothing is ablated."""
    p = court.task.splits["test"]
    judge = dataclasses.replace(court.judge, ablations=("counterfactual",))
    seen = dataclasses.replace(court.circuit.seen, ablations=("mean",))
    same = court.testing(dataclasses.replace(p, corrupted=p.clean)).seeing(seen)
    return dataclasses.replace(same, judge=judge)


LIES: tuple[Lie, ...] = (
    erased, without_prompts, leaked_ablation, swapped_splits, padded_copies, seen_split, repeated,
    swapped_answers, empty_alike, near_whole, one_less, one_more, few_controls, other_dictionary,
    other_task, nothing_ablated,
)  # fmt: skip


@contextlib.contextmanager
def circuit_as_control() -> Iterator[None]:
    """Replace the random controls of a circuit by the circuit itself."""

    def itself(drawing: trials.Drawing, *_: Any) -> list[np.ndarray]:
        return [drawing.flat] * 40

    with mock.patch.object(trials.Drawing, "controls", itself):
        yield


def verdict_on(court: Court, lie: Lie) -> str:
    """Return the verdict on a lie; `refused` if the judge raises a typed error."""
    try:
        return lie(court).verdict().verdict
    except HagdError:
        return "refused"


def verdicts(config: Config) -> list[dict[str, Any]]:
    """Return the verdicts on the honest input and on every lie."""
    court = honest(config)
    found = [("none", "The truth.", court.verdict().verdict)]
    found += [(lie.__name__, lie.__doc__, verdict_on(court, lie)) for lie in LIES]
    with circuit_as_control():
        last = court.verdict().verdict
    found.append((circuit_as_control.__name__, circuit_as_control.__doc__, last))
    return [
        {"lie": lie, "what": what, "verdict": verdict,
         "caught": (verdict != "accepted") == (lie != "none")}
        for lie, what, verdict in found
    ]  # fmt: skip


def main(config: Config) -> None:
    """Judge all lies, and record which were caught."""
    began = time.monotonic()
    rows = verdicts(config)
    for row in rows:
        print(f"{row['lie']:>18}: {row['verdict']}", flush=True)
    record(config.results / "judge_mutations.json", rows, seconds=time.monotonic() - began, seed=0)


if __name__ == "__main__":
    run(main, Config, __doc__)
