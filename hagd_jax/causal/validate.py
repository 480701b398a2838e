"""The one judge: a verdict on a circuit, from what it was not found by looking at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from hagd_jax.causal.alike import drawing
from hagd_jax.causal.bench import Bench, Test
from hagd_jax.causal.beside import BESIDE, control, robust, specificity, stable
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.claim import FAILS, UNKNOWN, Claim, Runs
from hagd_jax.causal.claims import TESTS, size
from hagd_jax.causal.config import ValidateConfig
from hagd_jax.causal.edge_circuit import EdgeCircuit
from hagd_jax.causal.evidence import Evidence, evidence
from hagd_jax.causal.inputs import (
    parts_of,
    require_kinds,
    require_others,
    require_own,
    require_spans,
)
from hagd_jax.causal.judged import reference_words
from hagd_jax.causal.negative import permuted
from hagd_jax.causal.trials import AnyCircuit, Trials, existing, make_trials
from hagd_jax.causal.verdict import ValidationReport
from hagd_jax.causal.wiring import Wiring
from hagd_jax.errors import require_callable
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Source


def validate(
    model: LanguageModel,
    circuit: AnyCircuit,
    task: Task,
    config: ValidateConfig = ValidateConfig(),
    *,
    dictionary: Source | None = None,
    others: Sequence[Task] = (),
    again: Sequence[AnyCircuit] = (),
    progress: Callable[[str], None] | None = None,
) -> ValidationReport:
    """Test a circuit's claims by ablation, and return a verdict on it.

    Only what the circuit was not found by looking at decides (`circuit.seen`): prompts that it has
    seen are left out, ablations that it was found with are measured and decide nothing, and the
    report says so. A circuit whose history is not known is measured and never accepted.

    A circuit may have units at any resolution. Its complement, all that no unit covers, is ablated;
    members are units, removed whole; random circuits have units like its own.

    Of a wiring the members are edges. All that no unit covers stays ablated in every trial but the
    model's own: random wirings have as many edges between the same units.

    Args:
        model: The model that the circuit was found in.
        circuit: The circuit, of nodes, of edges, or a wiring of edges between its units.
        task: The behaviour.
        config: How hard, and on which split.
        dictionary: Whose nodes the circuit's are; neurons by default. Edges need none. It is split
            by span if the circuit is.
        others: Other tasks of this model, that should not need the circuit (specificity).
        again: Circuits found with other seeds or other prompts (stability).
        progress: Called with the name of each finished ablation.

    Returns:
        The report. With too few prompts its verdict is "not enough data", never "accepted".

    Raises:
        InputError: If the circuit is of another model, dictionary or task, if the task has no
            such split, if it is one of the others itself, or if nodes are split by spans that a
            task lacks.

    Example:
        >>> from hagd_jax.tasks import Seen
        >>> from hagd_jax.testbeds import as_task, hand_built
        >>> case = hand_built()[0]
        >>> nodes = tuple(sorted(case.truth["mean"]))
        >>> space = hagd.units.neurons(case.model).space
        >>> circuit = hagd.causal.Circuit(nodes, (1.0,) * len(nodes), space, case.model.name,
        ...                               case.name, seen=Seen.nothing())
        >>> config = ValidateConfig(claims="core", ablations=("mean",), batch_size=128)
        >>> validate(case.model, circuit, as_task(case), config).headline
        'accepted on 81 test prompts under mean'
    """
    again, others = require_kinds(model, circuit, task, config, again, others)
    if progress is not None:
        require_callable("progress", progress, "(ablation)")
    parts = parts_of(model, circuit, dictionary)
    require_own(circuit, again, parts, task)
    require_others(task, others)
    require_spans(circuit, (task, *others))
    bench = Bench(model, parts, config)
    tests = [bench.test(task, circuit.seen), *(bench.test(other, Seen()) for other in others)]
    trials = make_trials(
        circuit, parts, controls=config.controls, members=config.members, pairs=config.pairs,
        subsets=config.subsets, supersets=config.supersets, seed=config.seed,
    )  # fmt: skip
    judge = _all if config.claims == "all" else _core
    claims, seen = judge(bench, circuit, trials, tests, progress or (lambda ablation: None))
    units, own = int(existing(parts).sum()), tests[0]
    decides = any(claim.decides for claim in claims)
    whole = size(
        circuit.leaves, units, config.split, decides=decides, parts=len(circuit),
        what=_WHAT[type(circuit)],
    )  # fmt: skip
    claims = [whole, *claims]
    if again and config.claims == "all":
        claims.append(_found_again(circuit, again, units, config))
    clusters = own.judged.clusters
    return ValidationReport(
        circuit, tuple(claims), len(own.judged), config.split, units, tuple(seen),
        (*own.aside, *_without_tree(circuit)),
        1 if clusters is None else int(clusters.max()) + 1,
    )  # fmt: skip


# What the members of circuits of each kind are.
_WHAT = {Circuit: "nodes", EdgeCircuit: "edges", Wiring: "edges between its units"}


def _without_tree(circuit: AnyCircuit) -> tuple[str, ...]:
    """What is said where controls cannot have clusters, since no tree has any."""
    if not isinstance(circuit, Circuit) or not (circuit.grouping and circuit.grouping.incomplete):
        return ()
    return ("the clusters of the circuit's tree, which was not given: in random circuits as many "
            "nodes of the same block stand in for a cluster",)  # fmt: skip


def _found_again(
    circuit: AnyCircuit, again: Sequence[AnyCircuit], units: int, config: ValidateConfig
) -> Claim:
    """Compare a circuit with those that were found with other seeds or other prompts."""
    # A copy of a circuit, of the same seed and history, was not found again.
    several = [one for i, one in enumerate(again) if one not in (circuit, *again[:i])]
    every = (circuit, *several)
    sets = [set(found.places().tolist()) for found in every]
    draws = [drawing(found, units) for found in every]
    return stable(sets[0], sets[1:], draws, alpha=config.alpha, seed=config.seed)


def _all(
    bench: Bench,
    circuit: AnyCircuit,
    trials: Trials,
    tests: Sequence[Test],
    tell: Callable[[str], None],
) -> tuple[list[Claim], list[Evidence]]:
    """All claims under every ablation."""
    claims, seen = [], []
    test, *others = tests
    for ablation in test.decides:
        runs = bench.runs(test, trials, ablation)
        runs = dataclasses.replace(runs, greedy=bench.greedy(test, circuit, ablation))
        made = [claim(runs) for claim in (*TESTS, *BESIDE)]
        if others:
            ends = {x.task.name: bench.runs(x, trials, ablation, trials.ends) for x in others}
            made.append(specificity(runs, ends))
        for turn in range(bench.config.permuted):
            lost = bench.of(permuted(bench.model, bench.config.seed + turn))
            made.append(control(lost.runs(test, trials, ablation, trials.ends)))
        claims += _enough(made, test, ablation)
        seen.append(evidence(runs, circuit, reference_words(test.judged)))
        tell(ablation)
    return claims, seen


def _core(
    bench: Bench,
    circuit: AnyCircuit,
    trials: Trials,
    tests: Sequence[Test],
    tell: Callable[[str], None],
) -> tuple[list[Claim], list[Evidence]]:
    """The claims that decide: first what three circuits tell, and more only if that leaves it open.

    A circuit that fails under one ablation is rejected, so nothing more is run for it.
    """
    test = tests[0]
    ablations = list(test.decides)
    runs = {name: bench.runs(test, trials, name, trials.ends) for name in ablations}
    made = {name: _core_claims(found, test) for name, found in runs.items()}
    for name in ablations:
        failed = any(c.decides and c.verdict == FAILS for several in made.values() for c in several)
        if test.decides[name] and test.enough[name] and not failed:
            first = trials.supersets.stop - 1 if bench.config.robust else trials.core
            runs[name] = bench.runs(test, trials, name, first)
        elif test.enough[name]:
            here = any(claim.verdict == FAILS for claim in made[name])
            why = _SKIPPED["here" if here else "rejected" if failed else "open"]
            runs[name] = dataclasses.replace(runs[name], skipped=why)
        made[name] = _core_claims(runs[name], test)
        tell(name)
    words = reference_words(test.judged)
    seen = [evidence(found, circuit, words) for found in runs.values()]
    return [claim for several in made.values() for claim in several], seen


# Why no more is run of a circuit.
_SKIPPED = {
    "here": "the circuit fails its gates here",
    "rejected": "the circuit is rejected already",
    "open": "nothing is decided under this ablation",
}


def _core_claims(runs: Runs, test: Test) -> list[Claim]:
    tests = (*TESTS, robust) if runs.robust else TESTS
    return _enough([claim(runs) for claim in tests], test, runs.ablation)


def _enough(claims: list[Claim], test: Test, ablation: str) -> list[Claim]:
    """No verdict where there is too little to read."""
    if test.enough[ablation]:
        return claims
    few = f"{len(test.judged)} distinct prompts, and {test.judged.others} to take values from"
    return [
        dataclasses.replace(c, verdict=UNKNOWN, untested="", says=f"{few}: {c.says}")
        for c in claims
    ]
