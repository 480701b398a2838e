"""Refuse an extraction that cannot run, before any work."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax import meta
from hagd_jax.corpus import Corpus
from hagd_jax.errors import ConfigError, InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline.config import TRANSCODER, ExtractConfig
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.features import require_text, width
from hagd_jax.pipeline.graph import graph_size
from hagd_jax.pipeline.repairing import swaps
from hagd_jax.pipeline.selecting import loss_of
from hagd_jax.pipeline.starts import require_choosable
from hagd_jax.search.config import shares
from hagd_jax.search.split_spans import require_affordable
from hagd_jax.search.unit_plan import least_steps
from hagd_jax.tasks import Task
from hagd_jax.units import Space, blocks, directed
from hagd_jax.units.dictionary import MLPS, NEURONS
from hagd_jax.units.tree import BANDWIDTH


def require_kinds(model: Any, task: Any, config: Any, corpus: Any) -> None:
    """Refuse inputs of another class than the extraction reads.

    Args:
        model: A `LanguageModel`.
        task: A `Task`, or the name of one.
        config: An `ExtractConfig`.
        corpus: A `Corpus`, or None.

    Raises:
        InputError: If one of them is something else.
    """
    require_is("model", model, LanguageModel, mend="Load one with `hagd.models.load(...)`.")
    name = 'Give a name such as "ioi", or what `hagd.tasks.task("ioi", model)` returns.'
    require_is("task", task, Task, str, mend=name)
    require_is("config", config, ExtractConfig, mend='Write ExtractConfig(nodes="5%").')
    opened = "Open it with `hagd.corpus.open_corpus(source, model)`, or name it in the config."
    if corpus is not None:
        require_is("corpus", corpus, Corpus, mend=opened)


def require_runnable(context: Context) -> tuple[str, ...]:
    """Refuse configurations that would fail late, and warn of what cannot decide anything.

    Args:
        context: The extraction.

    Returns:
        Notes for the user, one sentence each.

    Raises:
        ConfigError: If the size, the levels or the dictionary cannot be had from this model.
        InputError: If the task lacks a split, or the dictionary is one for another model.
        CheckpointError: If the meta-learner cannot be read.
    """
    config, task = context.config, context.task
    require_kinds(context.model, task, config, context.corpus)
    for split in ("discover", "test"):
        if split not in task.splits:
            raise InputError(f"task {task.name!r}", got=sorted(task.splits), expected=repr(split))
    require_choosable(context)
    if config.chooses_size and "select" not in task.splits:
        raise InputError(
            f"task {task.name!r}", got=sorted(task.splits), expected="'select', which chooses the "
            "size", mend="Ask for a size with --nodes.",
        )  # fmt: skip
    if config.by_span:
        _require_spans(context)
    if context.dictionary is not None and config.features != NEURONS:
        raise ConfigError(
            "features", got=f"{config.features!r} beside a dictionary", expected="one of them"
        )
    if config.prior == "learner":
        meta.load()
    if config.features == TRANSCODER:
        require_text(context)
    elif context.corpus is not None or config.corpus is not None:
        raise ConfigError(
            "corpus", got=f"one beside features {config.features!r}, which are not learned",
            expected="text for a transcoder that is learned in this run",
            mend="Add --features transcoder, or leave the corpus out.",
        )  # fmt: skip
    features = width(context)
    if features is not None:
        own = context.model.config
        _require_sizes(context, Space(own.n_layers, own.n_heads, features))
    return (*task.notes, *_notes(context))


def _require_spans(context: Context) -> None:
    """Refuse a split by span of a task without spans, or of more pairs than can be measured."""
    task, config = context.task, context.config
    if not task.spans:
        raise InputError(
            f"task {task.name!r}", got="prompts without spans",
            expected="prompts whose tokens have spans, beside by_span",
            mend="Leave out --by-span, or take a task that names spans (tasks.with_spans).",
        )  # fmt: skip
    require_affordable(config.units * len(task.spans), config.unit_spans)


def _require_sizes(context: Context, space: Space) -> None:
    """Refuse a circuit or levels larger than the model."""
    config = context.config
    size = config.size(space.nodes)
    if config.search == "units":
        _require_units(config, space)
    graph = config.search != "top" and size < space.nodes
    possible = len(graph_size(dataclasses.replace(config, levels=config.levels or 0), space).levels)
    if graph and possible < (config.levels or 0):
        raise ConfigError(
            "levels", got=config.levels,
            expected=f"at most {possible}, to which {space.nodes} nodes shrink by "
            f"{config.hierarchy.ratio:.3g} a level down to {config.hierarchy.least}",
            mend="Ask for fewer --levels, or for a larger --hierarchy.ratio.",
        )  # fmt: skip
    if graph and (config.levels or config.prior == "learner"):
        if config.features == MLPS:
            directed(context.model, blocks(context.model))
        elif context.dictionary is not None:
            directed(context.model, context.dictionary)


def _require_units(config: ExtractConfig, space: Space) -> None:
    """Refuse sizes that no circuit of units has, and fewer steps than there are sizes to read."""
    sizes, bands = config.unit_sizes(space.nodes), -(-space.layers // BANDWIDTH)
    if sizes[-1][1] == space.nodes and sizes[-1][0] < bands:
        raise ConfigError(
            "units", got=f"{config.units} for all {space.nodes} nodes",
            expected=f"{bands} or more, one for each band of {BANDWIDTH} layers",
            mend="Ask for more --units, or for fewer --nodes.",
        )  # fmt: skip
    own = config.unit_masks
    least = least_steps(len(sizes), own.plateau)
    if sizes[-1][1] < space.nodes and own.steps < least:
        raise ConfigError(
            "unit_masks.steps", got=own.steps,
            expected=f"{least} or more, so that each of {len(sizes)} sizes has a step",
            mend=f"Ask for --unit-masks.steps {least}, or for a larger --unit-masks.plateau.",
        )  # fmt: skip


def _notes(context: Context) -> list[str]:
    config = context.config
    if config.search == "units":
        used = {context.baseline, *config.unit_ablations}
    else:
        used = {"counterfactual", *shares(loss_of(config)), *shares(swaps(config))}
    if set(config.judge.ablations) <= used:
        mend = "add another to --judge.ablations, such as resample"
        if "resample" in used:
            mend = "leave one out of --unit-masks.ablations and those of repair and pruning"
        return [
            f"note: the circuit is found with {' and '.join(sorted(used))} ablation and judged "
            f"under no other, so the judge cannot accept it; {mend}"
        ]
    return []
