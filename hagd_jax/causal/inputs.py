"""What the judge reads: circuits, models and tasks that belong together, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.config import ValidateConfig
from hagd_jax.causal.edge_circuit import EdgeCircuit
from hagd_jax.causal.trials import AnyCircuit
from hagd_jax.causal.wiring import Wiring
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.units import Source, Spanned, as_dictionary
from hagd_jax.units.components import AnyParts, components


def parts_of(model: LanguageModel, circuit: AnyCircuit, dictionary: Source | None) -> AnyParts:
    """What the circuit consists of; edges need no dictionary."""
    if isinstance(circuit, Wiring):
        return circuit.on(model)
    if isinstance(circuit, EdgeCircuit):
        return components(model)
    nodes = as_dictionary(model, dictionary)
    # The circuit says by which spans its nodes are split.
    split = circuit.spans and not isinstance(nodes, Spanned)
    return (nodes.by_span(circuit.spans) if split else nodes).bare()


def require_kinds(
    model: Any, circuit: Any, task: Any, config: Any, again: Any, others: Any
) -> tuple[list[AnyCircuit], list[Task]]:
    """Refuse inputs of another class than the judge reads; return the last two as lists."""
    require_is("model", model, LanguageModel, mend="Load one with `hagd.models.load(...)`.")
    again = require_list("again", again, "circuits")
    others = require_list("others", others, "tasks")
    read = "Read a file with `hagd.causal.load_circuit(path)`."
    for what, found in (("circuit", circuit), *(("again", found) for found in again)):
        require_is(what, found, Circuit, EdgeCircuit, Wiring, mend=read)
    make = 'Make one with `hagd.tasks.task("ioi", model)`.'
    for what, other in (("task", task), *(("others", other) for other in others)):
        require_is(what, other, Task, mend=make)
    write = 'Write ValidateConfig(ablations=("mean",)).'
    require_is("config", config, ValidateConfig, mend=write)
    return again, others


def require_own(circuit: AnyCircuit, again: Sequence[AnyCircuit], parts: Any, task: Task) -> None:
    """Refuse circuits of another model, dictionary or task."""
    for found in (circuit, *again):
        found.check_model(parts)
        if found.task != task.name:
            raise InputError(
                "circuit", got=f"one for {found.task!r}", expected=f"one for {task.name!r}"
            )


def require_spans(circuit: AnyCircuit, tasks: Sequence[Task]) -> None:
    """Refuse tasks without the spans by which the nodes of a circuit are split."""
    names = circuit.spans if isinstance(circuit, Circuit) else ()
    for task in tasks:
        if names and task.spans != names:
            raise InputError(
                f"circuit of {circuit.task!r}, split by the spans {', '.join(names)}",
                got=f"the task {task.name!r} with " + (f"the spans {', '.join(task.spans)}"
                                                       if task.spans else "no spans"),
                expected="a task with those spans",
                mend="Judge the circuit on the task that it was split on, beside others with its "
                "spans only.",
            )  # fmt: skip


def require_others(task: Task, others: Sequence[Task]) -> None:
    """Refuse the circuit's own task, and one named twice, among the tasks that should be others."""
    names = [other.name for other in others]
    if task.name in names or len(set(names)) < len(names):
        raise InputError(
            "others", got=quoted(names), expected=f"tasks other than {task.name!r}, each once",
            mend="Specificity is about tasks that should not need the circuit.",
        )  # fmt: skip
