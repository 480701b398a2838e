"""From a model and a behaviour to a circuit that was tested."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hagd_jax
from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, SizePoint, ValidationReport
from hagd_jax.corpus import Corpus
from hagd_jax.errors import require_callable, require_is
from hagd_jax.files import as_path, digest
from hagd_jax.models import LanguageModel
from hagd_jax.models.digest import digest as weights_digest
from hagd_jax.pipeline.checks import require_kinds, require_runnable
from hagd_jax.pipeline.config import ExtractConfig, Progress
from hagd_jax.pipeline.context import Context, Left, silent
from hagd_jax.pipeline.fused.run import run_fused
from hagd_jax.pipeline.opening import open_run
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.staged import run_staged
from hagd_jax.pipeline.stages import (
    LAST,
    NAMES,
    fields_after,
    fields_from,
    files_from,
    require_stage,
)
from hagd_jax.pipeline.unit_choice import choice_words
from hagd_jax.report import Report
from hagd_jax.tasks import Task, prompt_digests
from hagd_jax.tasks import task as find_task
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary, Nodes


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an extraction holds the circuit, its verdict and what led to it.

    Attributes:
        circuit: The circuit, with its provenance; printed it is a table of its units.
        report: The verdict of the judge, on the test split.
        curve: Faithfulness against size, under the first ablation.
        scores: Every node's score.
        task: The behaviour, with its prompts.
        dictionary: The nodes inside MLPs.
        page: The report that the page shows.
        notes: What a user should know of the run, one sentence each.
    """

    circuit: Circuit
    report: ValidationReport
    curve: tuple[SizePoint, ...]
    scores: Nodes
    task: Task
    dictionary: Dictionary
    page: Report
    notes: tuple[str, ...] = ()

    __repr__ = one_line


def extract(
    model: LanguageModel,
    task: Task | str,
    config: ExtractConfig = ExtractConfig(),
    *,
    out: str | Path | RunFolder | None = None,
    dictionary: Dictionary | Transcoder | None = None,
    corpus: Corpus | None = None,
    progress: Progress = silent,
    facts: Mapping[str, str] | None = None,
) -> Result:
    """Find the circuit of a task in a model, and test it on held-out prompts.

    Nodes are scored on the discover split and clustered by the graph of the task, masks over
    heads, MLPs and nodes are trained from the scores, and the circuit is judged on the test split,
    under ablations that masks were not trained under. With `search` = `masks` masks are trained
    over nodes; if they are no closer to the model on the select split than the nodes with the
    highest scores, those are the circuit. The circuit records all data that it was chosen by
    looking at.

    Args:
        model: The model, on any mesh.
        task: The behaviour: a name, or a `Task` of this model's tokens.
        config: The configuration.
        out: Folder of the run, or one that `open_extraction` gave. It keeps checkpoints, the
            circuit and a page; an interrupted run continues there. Nothing is kept if None.
        dictionary: The nodes inside MLPs, if they are not named in the configuration: a
            transcoder, or a `Dictionary`.
        corpus: Text to learn a transcoder from, if it is not named in the configuration.
        progress: Called with (stage, steps done, steps in all).
        facts: More provenance for the page: name → value.

    Returns:
        The circuit and its test.

    Raises:
        ConfigError: If the configuration cannot run on this model.
        InputError: If the task is unknown, has no discover or test split, or does not fit; or
            if the dictionary is one for another model.
        CheckpointError: If the folder holds something else, or the run in it cannot be continued.
        NoCircuitError: If the circuit that was found is no closer to the model than the empty one.

    Example:
        >>> case = hagd.testbeds.hand_built()[1]
        >>> config = ExtractConfig(units=3, nodes="3")
        >>> result = extract(case.model, hagd.testbeds.as_task(case, test=27), config)
        >>> [unit.name for unit in result.circuit.units], result.report.verdict
        (['head 0.0', 'head 0.1', 'neuron 0.0'], 'accepted')
    """
    require_callable("progress", progress, "(stage, done, total)")
    require_is("facts", facts or {}, Mapping)
    given = prepare(model, task, config, out=out, dictionary=dictionary, corpus=corpus)
    context, notes = given
    context = dataclasses.replace(context, progress=progress, facts=facts or {})
    return _result(run(context), context, notes)


def run(context: Context, until: str = LAST) -> Left:
    """Run the stages with the executor that the configuration names."""
    execute = run_fused if context.config.executor == "fused" else run_staged
    return execute(context, until)


def run_until(
    until: str,
    model: LanguageModel,
    task: Task | str,
    config: ExtractConfig = ExtractConfig(),
    *,
    out: str | Path | RunFolder | None = None,
    dictionary: Dictionary | Transcoder | None = None,
    corpus: Corpus | None = None,
    progress: Progress = silent,
) -> Left:
    """Run the stages of `extract` up to one, that one included; another call continues.

    Args:
        until: The last stage to run, one of `NAMES`.
        model: The model.
        task: The behaviour.
        config: The configuration.
        out: Folder of the run. Nothing is kept if None.
        dictionary: As in `extract`.
        corpus: As in `extract`.
        progress: As in `extract`.

    Returns:
        The results of the stages.

    Raises:
        ConfigError: If there is no such stage.
        InputError: As in `extract`.
    """
    last = require_stage(until, "--until")
    require_callable("progress", progress, "(stage, done, total)")
    context, _ = prepare(model, task, config, out=out, dictionary=dictionary, corpus=corpus)
    return run(dataclasses.replace(context, progress=progress), last)


def prepare(
    model: LanguageModel,
    task: Task | str,
    config: ExtractConfig,
    *,
    out: str | Path | RunFolder | None = None,
    dictionary: Dictionary | Transcoder | None = None,
    corpus: Corpus | None = None,
) -> tuple[Context, tuple[str, ...]]:
    """Check the inputs of an extraction, and open its folder.

    Args:
        model: The model.
        task: The behaviour.
        config: The configuration.
        out: Folder of the run, if any.
        dictionary: As in `extract`.
        corpus: As in `extract`.

    Returns:
        The inputs of all stages, and notes for the user.

    Raises:
        ConfigError: If the configuration cannot run on this model.
        InputError: If an input does not fit.
        CheckpointError: If the folder cannot be used.
    """
    require_kinds(model, task, config, corpus)
    if out is not None and not isinstance(out, RunFolder):
        out = as_path(out)
    if isinstance(task, str):
        task = find_task(task, model, sizes=config.sizes, seed=config.seed)
    context = Context(model, task, config, dictionary, corpus)
    notes = require_runnable(context)
    if out is not None and not isinstance(out, RunFolder):
        out = open_extraction(out, model, task, config, dictionary=dictionary, corpus=corpus)
    later = fields_from("judge")
    finding = {k: v for k, v in config.record().items() if k not in later}
    return dataclasses.replace(context, run=out, finding=finding), notes


def open_extraction(
    out: str | Path,
    model: LanguageModel,
    task: Task,
    config: ExtractConfig,
    *,
    overwrite: bool = False,
    begin: str | None = None,
    dictionary: Dictionary | Transcoder | None = None,
    corpus: Corpus | None = None,
) -> RunFolder:
    """Open the folder of an extraction: a new one, or one to continue.

    Args:
        out: The folder.
        model: The model.
        task: The behaviour.
        config: The configuration.
        overwrite: Whether a run with another configuration is discarded.
        begin: The first stage to do again, one of `NAMES`. What it and later stages left is
            discarded, and the fields that decide those alone may differ.
        dictionary: As in `extract`.
        corpus: As in `extract`.

    Returns:
        The folder.

    Raises:
        ConfigError: If there is no such stage, or the configuration cannot run on this model.
        CheckpointError: If the folder holds something else.
    """
    out = as_path(out)
    require_runnable(Context(model, task, config, dictionary, corpus))
    first = None if begin is None else require_stage(begin, "--from")
    return open_run(
        out,
        _record(model, task, config),
        overwrite=overwrite,
        leaves=(*files_from(NAMES[0]), "model"),
        forget=() if first is None else files_from(first),
        free=() if first is None else fields_from(first),
        later=fields_after(),
    )


def _record(model: LanguageModel, task: Task, config: ExtractConfig) -> dict[str, Any]:
    """What decides a run's results, as JSON; where it runs and where it writes do not."""
    prompts = {split: prompt_digests(own) for split, own in task.splits.items()}
    return {
        "model": model.name,
        "weights": weights_digest(model),
        "dtype": model.config.dtype,
        "task": task.name,
        "prompts": digest(json.dumps(prompts, sort_keys=True).encode()),
        "config": config.record(),
        "version": hagd_jax.__version__,
    }


def _result(left: Left, context: Context, notes: tuple[str, ...]) -> Result:
    basis, judged = left["features"], left["judge"]
    found = [basis.evaluation] if basis.evaluation is not None else []
    learned = [
        f"features explain {1 - each.mean_fvu:.1%} of what MLPs write on held-out text, "
        f"{sum(each.l0) / len(each.l0):.0f} at a time"
        for each in found
    ]
    if judged.report.evidence and not judged.report.able:
        right = judged.report.evidence[0].accuracy[0].value
        learned.append(
            f"warning: the model is right on only {right:.0%} of the test prompts; a circuit of a "
            "behaviour that it lacks means nothing"
        )
    if left["score"].choice is not None:
        learned.append(f"starts: {left['score'].choice.words()}")
    if context.config.chooses_size:
        learned.append(choice_words(left["search"].circuits, left["search"].gates))
    if left["select"].note:
        learned.append(left["select"].note)
    return Result(
        circuit=left["select"].circuit,
        report=judged.report,
        curve=judged.curve,
        scores=left["score"],
        task=context.task,
        dictionary=basis.nodes,
        page=left["page"],
        notes=(*notes, *learned),
    )
