"""Validation: one verdict for every claim, under ablations that the circuit was not found with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import ABLATIONS, Behaviour, behaviour
from hagd_jax.causal.claims import (
    CORE,
    HOLDS,
    TESTS,
    UNKNOWN,
    Claim,
    Runs,
    control,
    plain,
    specificity,
    stable,
)
from hagd_jax.causal.edge_circuit import EdgeCircuit
from hagd_jax.causal.evidence import Evidence, evidence
from hagd_jax.causal.negative import permuted
from hagd_jax.causal.trials import AnyCircuit, Mask, Trials, existing, make_trials, without
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary
from hagd_jax.units.components import Parts, components, parts_of


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """How hard a circuit is tested.

    Attributes:
        ablations: What ablated nodes are set to, each in turn. Those that the circuit was found
            with do not count for its acceptance.
        alpha: Level of every test.
        controls: Random circuits of the same size: half of them layer by layer, half from all
            nodes of a kind; and as many random sets of nodes outside the circuit, to be taken
            out. 19 are the least with which a level of 0.05 can be reached.
        draws: Partners of each prompt under `resample`; what they give is averaged.
        members: At most so many members are left out one by one.
        pairs: At most so many pairs of those.
        subsets: Random parts that are taken out of circuit and model.
        greedy: Steps of a search for the part without which they differ most.
        permuted: Models with permuted weights on which the circuit must not pass.
        least: With fewer prompts there is no verdict.
        batch_size: Prompts in one call.

    Raises:
        ConfigError: If a number is impossible, or an ablation does not exist.
    """

    ablations: tuple[str, ...] = ("mean", "resample", "counterfactual")
    alpha: float = 0.05
    controls: int = 40
    draws: int = 1
    members: int = 64
    pairs: int = 32
    subsets: int = 16
    greedy: int = 3
    permuted: int = 1
    least: int = 8
    batch_size: int = 16

    def __post_init__(self):
        unknown = [name for name in self.ablations if name not in ABLATIONS]
        if unknown or not self.ablations:
            raise ConfigError("ablations", got=self.ablations, expected=f"some of {ABLATIONS}")
        if not 0 < self.alpha < 1:
            raise ConfigError("alpha", got=self.alpha, expected="between 0 and 1")
        for field in ("controls", "draws", "members", "pairs", "subsets", "least", "batch_size"):
            if getattr(self, field) < 1:
                raise ConfigError(field, got=getattr(self, field), expected="1 or more")
        for field in ("greedy", "permuted"):
            if getattr(self, field) < 0:
                raise ConfigError(field, got=getattr(self, field), expected="0 or more")


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """What was claimed of a circuit, and what came of it.

    Attributes:
        circuit: The circuit.
        claims: One for each test and ablation.
        prompts: On how many.
        split: Which.
        evidence: What was measured, by ablation.
    """

    circuit: AnyCircuit
    claims: tuple[Claim, ...]
    prompts: int
    split: str
    evidence: tuple[Evidence, ...] = ()

    __repr__ = one_line

    @property
    def decisive(self) -> tuple[Claim, ...]:
        """Core claims under ablations that the circuit was not found with, as far as is known."""
        seen = self.circuit.seen
        core = (c for c in self.claims if c.name in CORE and c.ablation not in seen.ablations)
        return tuple(core) if seen.known else ()

    @property
    def accepted(self) -> bool:
        """Whether all decisive claims hold, and there are some."""
        return bool(self.decisive) and all(c.verdict == HOLDS for c in self.decisive)

    @property
    def verdict(self) -> str:
        """`accepted`, `rejected`, or `not enough data`."""
        if self.accepted:
            return "accepted"
        undecided = {c.verdict for c in self.decisive} <= {HOLDS, UNKNOWN}
        return UNKNOWN if undecided else "rejected"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.verdict,
            "model": self.circuit.model,
            "task": self.circuit.task,
            "members": len(self.circuit),
            "seen": self.circuit.seen.to_json(),
            "split": self.split,
            "prompts": self.prompts,
            "claims": [claim.to_json() for claim in self.claims],
            "evidence": [plain(dataclasses.asdict(found)) for found in self.evidence],
        }


def validate(
    model: LanguageModel,
    circuit: AnyCircuit,
    task: Task,
    config: ValidateConfig = ValidateConfig(),
    *,
    dictionary: Dictionary | Transcoder | None = None,
    split: str = "test",
    seed: int = 0,
    others: Sequence[Task] = (),
    again: Sequence[AnyCircuit] = (),
    progress: Callable[[str], None] | None = None,
) -> ValidationReport:
    """Test what is claimed of a circuit.

    Args:
        model: The model that the circuit was found in.
        circuit: The circuit, of nodes or of edges.
        task: The behaviour.
        config: How hard.
        dictionary: Whose nodes the circuit's are; neurons by default. Edges need none.
        split: Prompts that neither discovery nor selection has seen.
        seed: Of controls, subsets, bootstraps, permutations.
        others: Other tasks of this model, that should not need the circuit (specificity).
        again: Circuits found with other seeds or other prompts (stability).
        progress: Called with the name of each finished ablation.

    Returns:
        The report. With too few prompts its verdict is "not enough data", never "accepted".

    Raises:
        InputError: If the circuit is of another model, dictionary or task, or the task has no
            such split.

    Example:
        >>> report = validate(model, Circuit.load("circuit.json"), task)
        >>> report.verdict, [c.name for c in report.claims if c.verdict != "holds"]
        ('rejected', ['minimality'])
    """
    edges = isinstance(circuit, EdgeCircuit)
    parts = parts_of(model, components(model) if edges else dictionary)
    _require_own(circuit, again, parts, task, split)
    for other in others:
        if split not in other.splits:
            raise InputError(f"task {other.name!r}", got=sorted(other.splits), expected=repr(split))
    bench = _Bench(model, parts, config, split, seed)
    trials = make_trials(
        circuit, parts, controls=config.controls, members=config.members, pairs=config.pairs,
        subsets=config.subsets, seed=seed,
    )  # fmt: skip
    claims: list[Claim] = []
    seen: list[Evidence] = []
    for ablation in config.ablations:
        runs = bench.runs(task, trials, ablation, len(circuit))
        runs = dataclasses.replace(runs, greedy=bench.greedy(task, circuit, ablation))
        made = [test(runs) for test in TESTS]
        ends = dataclasses.replace(trials, masks=trials.masks[:3])
        if others:
            theirs = {other.name: bench.runs(other, ends, ablation, 0) for other in others}
            made.append(specificity(runs, theirs))
        for turn in range(config.permuted):
            lost = dataclasses.replace(bench, model=permuted(model, seed + turn))
            made.append(control(lost.runs(task, ends, ablation, 0)))
        claims += made
        seen.append(evidence(runs, circuit))
        if progress is not None:
            progress(ablation)
    if again:
        sets = [set(found.places().tolist()) for found in (circuit, *again)]
        claims.append(stable(sets[0], sets[1:], int(existing(parts).sum()), split, seed))
    count = len(task.splits[split])
    if count < config.least:
        says = f"{count} prompts, {config.least} are the least"
        claims = [dataclasses.replace(c, verdict=UNKNOWN, says=says) for c in claims]
    return ValidationReport(circuit, tuple(claims), count, split, tuple(seen))


def _require_own(
    circuit: AnyCircuit, again: Sequence[AnyCircuit], parts: Any, task: Task, split: str
) -> None:
    """Refuse circuits of another model, dictionary or task, and tasks without the split."""
    for found in (circuit, *again):
        found.check_model(parts)
        if found.task != task.name:
            raise InputError(
                "circuit", got=f"one for {found.task!r}", expected=f"one for {task.name!r}"
            )
    if split not in task.splits:
        raise InputError(f"task {task.name!r}", got=sorted(task.splits), expected=repr(split))


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Where circuits are run: a model, what they consist of, and how."""

    model: LanguageModel
    parts: Parts
    config: ValidateConfig
    split: str
    seed: int

    def run(self, task: Task, masks: Sequence[Mask], ablation: str, draws: int) -> Behaviour:
        """The model and the masks on the split's prompts, averaged over draws of partners."""
        prompts: Prompts = task.splits[self.split]
        several = [
            behaviour(
                self.model,
                prompts,
                masks,
                ablation=ablation,
                dictionary=self.parts,
                candidates=task.candidates,
                reference=task.splits.get("discover", prompts),
                batch_size=self.config.batch_size,
                seed=self.seed + draw,
                with_model=True,
            )
            for draw in range(draws if ablation == "resample" else 1)
        ]
        return Behaviour(*(np.mean(column, 0) for column in zip(*several, strict=True)))

    def runs(self, task: Task, trials: Trials, ablation: str, members: int) -> Runs:
        """All trials."""
        found = self.run(task, trials.masks, ablation, self.config.draws)
        c = self.config
        return Runs(found, trials, members, c.alpha, ablation, self.split, self.seed)

    def greedy(self, task: Task, circuit: AnyCircuit, ablation: str) -> np.ndarray:
        """(S, 2) metrics of circuit and model without what tells them apart most, step by step.

        Each step takes out the member that widens the gap most (Wang et al., 2022); of large
        circuits, of as many members as are tried one by one.
        """
        like, there = circuit.mask(), existing(self.parts)
        flat, tried = like.flat().astype(bool), circuit.places()
        rng = np.random.default_rng([self.seed, 2])
        tried = rng.permutation(tried)[: self.config.members]
        out: list[int] = []
        steps = []
        for _ in range(min(self.config.greedy, len(tried))):
            left = [place for place in tried.tolist() if place not in out]
            # Always as many masks, so that one program serves all steps.
            rows = np.resize(left, len(tried))
            pairs = [[without(whole, [*out, place]) for place in rows] for whole in (flat, there)]
            masks = [like.like(row) for side in pairs for row in side]
            found = self.run(task, masks, ablation, 1).metric[1:].mean(1).reshape(2, -1)
            best = int(np.abs(found[0] - found[1]).argmax())
            out.append(int(rows[best]))
            steps.append(found[:, best])
        return np.array(steps).reshape(-1, 2)
