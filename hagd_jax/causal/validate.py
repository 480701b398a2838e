"""Validation: one verdict for every claim, under ablations that the circuit was not found with."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hagd_jax.causal.ablation import ABLATIONS, Behaviour, behaviour
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.claims import CORE, HOLDS, TESTS, UNKNOWN, Claim, Runs
from hagd_jax.causal.evaluate import random_controls
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import Nodes
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.base import Task
from hagd_jax.transcoders import Dictionary, Transcoder, as_dictionary


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """How hard a circuit is tested.

    Attributes:
        ablations: What ablated nodes are set to, each in turn. The circuit's own does not count
            for its acceptance.
        alpha: Level of every test.
        controls: Random circuits of the same size: half of them layer by layer, half from all
            nodes of a kind; and as many random sets of nodes outside the circuit, to be taken
            out. 19 are the least with which a level of 0.05 can be reached.
        draws: Partners of each prompt under `resample`; what they give is averaged.
        members: At most so many members are left out one by one.
        subsets: Random parts that are taken out of circuit and model.
        least: With fewer prompts there is no verdict.
        batch_size: Prompts in one call.

    Raises:
        ConfigError: If a number is impossible, or an ablation does not exist.
    """

    ablations: tuple[str, ...] = ("mean", "resample", "counterfactual")
    alpha: float = 0.05
    controls: int = 100
    draws: int = 8
    members: int = 64
    subsets: int = 16
    least: int = 8
    batch_size: int = 16

    def __post_init__(self):
        unknown = [name for name in self.ablations if name not in ABLATIONS]
        if unknown or not self.ablations:
            raise ConfigError("ablations", got=self.ablations, expected=f"some of {ABLATIONS}")
        if not 0 < self.alpha < 1:
            raise ConfigError("alpha", got=self.alpha, expected="between 0 and 1")
        for field in ("controls", "draws", "members", "subsets", "least", "batch_size"):
            if getattr(self, field) < 1:
                raise ConfigError(field, got=getattr(self, field), expected="1 or more")


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """What was claimed of a circuit, and what came of it.

    Attributes:
        circuit: The circuit.
        claims: One for each test and ablation.
        prompts: On how many.
        split: Which.
    """

    circuit: Circuit
    claims: tuple[Claim, ...]
    prompts: int
    split: str

    @property
    def decisive(self) -> tuple[Claim, ...]:
        """Core claims under ablations that the circuit was not found with."""
        own = self.circuit.ablation
        return tuple(c for c in self.claims if c.name in CORE and c.ablation != own)

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
            "nodes": len(self.circuit),
            "found_with": self.circuit.ablation,
            "split": self.split,
            "prompts": self.prompts,
            "claims": [claim.to_json() for claim in self.claims],
        }


def validate(
    model: LanguageModel,
    circuit: Circuit,
    task: Task,
    config: ValidateConfig = ValidateConfig(),
    *,
    dictionary: Dictionary | Transcoder | None = None,
    split: str = "test",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ValidationReport:
    """Test what is claimed of a circuit.

    Args:
        model: The model that the circuit was found in.
        circuit: The circuit.
        task: The behaviour.
        config: How hard.
        dictionary: Whose nodes the circuit's are; neurons by default.
        split: Prompts that neither discovery nor selection has seen.
        seed: Of controls, subsets, bootstraps, permutations.
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
    nodes = as_dictionary(model, dictionary)
    circuit.check_model(nodes)
    if circuit.task != task.name:
        raise InputError(
            "circuit", got=f"one for {circuit.task!r}", expected=f"one for {task.name!r}"
        )
    if split not in task.splits:
        raise InputError(f"task {task.name!r}", got=sorted(task.splits), expected=repr(split))
    prompts = task.splits[split]
    members = jax.tree.map(np.asarray, circuit.mask())
    few = len(prompts) < config.least
    masks, places = _masks(members, config, seed)
    claims: list[Claim] = []
    for ablation in config.ablations:
        draws = config.draws if ablation == "resample" else 1
        several = [
            behaviour(
                model,
                prompts,
                masks,
                ablation=ablation,
                dictionary=nodes,
                candidates=task.candidates,
                reference=task.splits.get("discover", prompts),
                batch_size=config.batch_size,
                seed=seed + draw,
            )
            for draw in range(draws)
        ]
        found = Behaviour(*(np.mean(column, 0) for column in zip(*several, strict=True)))
        runs = Runs(
            found=found, members=len(circuit), alpha=config.alpha, ablation=ablation, split=split,
            seed=seed, **places,
        )  # fmt: skip
        made = [test(runs) for test in TESTS]
        if few:
            says = f"{len(prompts)} prompts, {config.least} are the least"
            made = [dataclasses.replace(c, verdict=UNKNOWN, says=says) for c in made]
        claims += made
        if progress is not None:
            progress(ablation)
    return ValidationReport(circuit, tuple(claims), len(prompts), split)


def _masks(members: Nodes, config: ValidateConfig, seed: int) -> tuple[list[Nodes], dict[str, Any]]:
    """All circuits that are run, and where in the list they stand."""
    rng = np.random.default_rng(seed)
    full, empty = (Nodes.full(members.space, value) for value in (True, False))
    flat = members.flat().astype(bool)
    inside, outside = np.flatnonzero(flat), np.flatnonzero(~flat)
    controls = _controls(members, config.controls, seed)
    left = rng.permutation(inside)[: config.members]
    single = [_changed(members, flat, [place]) for place in np.sort(left)]
    parts = [rng.permutation(inside)[: rng.integers(1, max(len(inside), 2))] for _ in
             range(config.subsets)]  # fmt: skip
    whole = np.ones_like(flat)
    others = [rng.permutation(outside)[: len(inside)] for _ in range(config.controls)]
    groups = [
        [full, empty, members, ~members],
        controls,
        [_changed(members, whole, out) for out in others],
        single,
        [_changed(members, flat, part) for part in parts],
        [_changed(members, whole, part) for part in parts],
    ]
    ends = np.cumsum([0, *map(len, groups)]).tolist()
    rows = [slice(a, b) for a, b in itertools.pairwise(ends)]
    places = {
        "controls": rows[1], "without_others": rows[2], "without_member": rows[3],
        "subsets": (rows[4], rows[5]),
    }  # fmt: skip
    return [jax.tree.map(np.asarray, mask) for group in groups for mask in group], places


def _controls(members: Nodes, count: int, seed: int) -> list[Nodes]:
    """Other circuits of the same size; the circuit itself is no control of itself."""
    own, kept, rng = members.flat(), [], np.random.default_rng([seed, 1])
    for turn in range(20):
        tried = random_controls(members, count, seed + 1000 * turn)[: count - count // 2]
        tried += [jax.tree.map(lambda x: rng.permuted(x.ravel()).reshape(x.shape), members)
                  for _ in range(count // 2)]  # fmt: skip
        kept += [control for control in tried if (control.flat() != own).any()]
        if len(kept) >= count:
            break
    return kept[:count]


def _changed(like: Nodes, flat: np.ndarray, out: Any) -> Nodes:
    """`flat` without some places, as `Nodes`."""
    changed = flat.copy()
    changed[np.asarray(out, int)] = False
    return Nodes.from_flat(like.space, changed)
