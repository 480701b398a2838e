"""Circuits of many behaviours of one model at once: one program, a batch axis of tasks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import ConfigError, InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run, require_sizes
from hagd_jax.search.config import MaskConfig
from hagd_jax.search.mask_search import (
    Searched,
    read_circuits,
    searched,
    seen_by_masks,
)
from hagd_jax.search.mask_steps import Search, init_masks, scan_steps, traced
from hagd_jax.search.objective import target_of
from hagd_jax.search.parts import Given, read
from hagd_jax.search.schedule import schedule, trained_at
from hagd_jax.search.tree import Tree
from hagd_jax.tasks.batching import batch_rows
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Source, parts_of
from hagd_jax.units.rows import count


def search_many(
    model: LanguageModel,
    prompts: Mapping[str, Prompts],
    scores: Mapping[str, Given],
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    dictionary: Source | None = None,
    seed: int = 0,
) -> dict[str, Searched]:
    """Search circuits of several tasks in one program, without hierarchies.

    Each task has masks, noise and batches of its own, as `search_masks` would give it alone.
    Prompts are padded to one length, and repeated to one number.

    Args:
        model: A causal model, on one device.
        prompts: Task → prompts to discover on; not `Choices`.
        scores: Task → membership scores where its search begins.
        sizes: Circuit sizes to return, in nodes.
        config: How masks are trained; `mean` must be 0.
        dictionary: As in `search_masks`.
        seed: Seed of batches and noise, the same for all tasks.

    Returns:
        Task → what its search came to.

    Raises:
        InputError: If there is no task, or tasks and scores differ, or a size does not fit, or
            prompts are `Choices`, or the model reads both ways, or lies on several devices.
        ConfigError: If masks are to be trained under mean ablation.

    Example:
        >>> from hagd_jax.baselines import random_scores
        >>> from hagd_jax.search import MaskConfig, search_many
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.units import neurons
        >>> case = hand_built()[0]
        >>> tasks = {"one": case.prompts, "half": case.prompts[::2]}
        >>> own = random_scores(neurons(case.model).space)
        >>> found = search_many(
        ...     case.model, tasks, dict.fromkeys(tasks, own), [3], MaskConfig(steps=10))
        >>> {name: len(task.circuits[3]) for name, task in found.items()}
        {'one': 3, 'half': 3}
    """
    _require_named_alike(prompts, scores)
    for own in prompts.values():
        require_run(model, own, config, MaskConfig, seed=seed)
    _require_alone(model, prompts, config)
    parts = parts_of(model, dictionary)
    sizes = require_sizes(sizes, count(parts))
    rows = {name: read(parts, scores[name], f"scores of {name}")[0] for name in prompts}
    alike = dict(zip(prompts, _alike(list(prompts.values())), strict=True))
    stack = functools.partial(jax.tree.map, lambda *values: jnp.stack(values))
    targets = stack(*[target_of(model, own, config.batch_size) for own in alike.values()])
    key = jax.random.key(seed)
    states = [init_masks(key, row, config, sizes=len(sizes)) for row in rows.values()]
    plan = schedule(config, count(parts), min(sizes), 0)
    search = Search(parts, Tree(()), trained_at(sizes, config, plan))
    batch = batch_rows(targets.metric.shape[1], config.batch_size, None)
    state = _many(model.bare(), search, targets, stack(*states), tuple(plan), traced(config), batch)
    results = {}
    for number, name in enumerate(prompts):
        own = jax.tree.map(lambda x, n=number: x[n], state)
        seen = seen_by_masks(model, prompts[name], scores[name], config, dictionary=dictionary)
        results[name] = searched(
            model, alike[name], read_circuits(parts, own, sizes, seen), own, config, dictionary
        )
    return results


def _require_named_alike(prompts: Mapping[str, Prompts], scores: Mapping[str, Given]) -> None:
    """Refuse anything but prompts and scores of the same tasks, by name."""
    for what, value in (("prompts", prompts), ("scores", scores)):
        require_is(what, value, Mapping, mend="Give one for each task, by name.")
    if not prompts or set(prompts) != set(scores):
        raise InputError(
            "scores",
            got=sorted(map(str, scores)),
            expected=f"of {sorted(map(str, prompts)) or 'a task'}",
        )


def _require_alone(
    model: LanguageModel, prompts: Mapping[str, Prompts], config: MaskConfig
) -> None:
    """Refuse what can only be searched task by task."""
    mend = "Search each task by itself, with search_masks."
    if not model.config.causal:
        raise InputError("model", got="a bidirectional model (causal=False)",
                         expected="a causal one", mend=mend)  # fmt: skip
    if model.mesh is not None:
        raise InputError("model", got="one on a mesh", expected="one on one device", mend=mend)
    if config.mean:
        raise ConfigError("mean", got=config.mean, expected="0 for several tasks", mend=mend)
    for name, own in prompts.items():
        if type(own) is not Prompts:
            raise InputError(f"prompts of {name}", got=type(own).__name__, expected="Prompts",
                             mend=mend)  # fmt: skip


@functools.partial(jax.jit, static_argnames=("config", "rows"))
def _many(
    model: LanguageModel, search: Search, targets: Any, states: Any, plan: Any,
    config: MaskConfig, rows: int,
) -> Any:  # fmt: skip
    def one(target: Any, state: Any) -> Any:
        return scan_steps(model, search, target, state, plan, config, rows)[0]

    return jax.vmap(one)(targets, states)


def _alike(tasks: Sequence[Prompts]) -> list[Prompts]:
    """The same number of rows, of one length, with as many columns of answers."""
    most = max(len(own) for own in tasks)
    length = max(own.clean.shape[-1] for own in tasks)
    width = {
        side: max(np.shape(getattr(own, side))[1] if np.ndim(getattr(own, side)) > 1 else 1
                  for own in tasks)
        for side in ("answer", "distractor")
    }  # fmt: skip

    def fit(own: Prompts) -> Prompts:
        rows = own[np.resize(np.arange(len(own)), most)]
        longer = ((0, 0), (0, length - rows.clean.shape[-1]))
        ends = {}
        for side, columns in width.items():
            values = np.asarray(getattr(rows, side)).reshape(most, -1)
            ends[side] = np.pad(
                values, ((0, 0), (0, columns - values.shape[1])), constant_values=-1
            )
        return dataclasses.replace(
            rows, clean=np.pad(rows.clean, longer), corrupted=np.pad(rows.corrupted, longer),
            group=None, **ends,
        )  # fmt: skip

    return [fit(own) for own in tasks]
