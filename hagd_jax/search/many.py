"""Circuits of many behaviours of one model at once: one program, a batch axis of tasks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.search.mask_search import init_masks, require_sizes, scan_steps
from hagd_jax.search.objective import target_of
from hagd_jax.search.parts import best, count, flat
from hagd_jax.search.schedule import MaskConfig, schedule
from hagd_jax.search.tree import Tree
from hagd_jax.tasks.batching import batch_rows
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary, Edges, Nodes, parts_of


def search_many(
    model: LanguageModel,
    prompts: Mapping[str, Prompts],
    scores: Mapping[str, Nodes | Edges],
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    dictionary: Dictionary | Transcoder | None = None,
    seed: int = 0,
) -> dict[str, dict[int, Any]]:
    """`search_masks` of several tasks in one program, without trees.

    Each task has masks, noise and batches of its own, just as it would have alone. Prompts are
    padded to one length, and repeated to one number.

    Args:
        model: A causal model, on one device.
        prompts: Task → prompts to discover on.
        scores: Task → where its search begins.
        sizes: How many nodes circuits shall have.
        config: How masks are trained; `mean` must be 0.
        dictionary: As in `search_masks`.
        seed: As there; the same for all tasks.

    Returns:
        Task → size → circuit.

    Raises:
        InputError: If there is no task, or tasks and scores differ, or a size does not fit, or the
            model reads both ways, or lies on several devices.

    Example:
        >>> found = search_many(model, {"ioi": one, "agreement": other}, scores, [64])
        >>> found["ioi"][64]
    """
    if not prompts or set(prompts) != set(scores):
        raise InputError("scores", got=sorted(scores), expected=f"of {sorted(prompts) or 'a task'}")
    if not model.config.causal or model.mesh is not None or config.mean:
        raise InputError(
            "model", got="one that reads both ways, or on a mesh, or mean ablation",
            expected="a causal model on one device, under counterfactual ablation",
            mend="Search each task by itself.",
        )  # fmt: skip
    nodes = parts_of(model, dictionary)
    total = count(nodes)
    require_sizes(sizes, total, Tree(()))
    alike = _alike(list(prompts.values()))
    targets = [target_of(model, own, config.batch_size) for own in alike]
    key = jax.random.key(seed)
    states = [
        init_masks(key, flat(nodes, scores[name]), config, sizes=len(sizes)) for name in prompts
    ]
    stack = functools.partial(jax.tree.map, lambda *rows: jnp.stack(rows))
    rows = batch_rows(len(alike[0]), config.batch_size, None)
    plan = schedule(config, total, min(sizes), 0)
    state = _many(
        model.bare(), nodes, stack(*targets), stack(*states), (plan.size, plan.opened),
        jnp.asarray(sizes, jnp.float32), config, rows,
    )  # fmt: skip
    kept = np.asarray(state.kept)
    return {
        name: {size: best(nodes, row, size) for size, row in zip(sizes, own, strict=True)}
        for name, own in zip(prompts, kept, strict=True)
    }


@functools.partial(jax.jit, static_argnames=("config", "rows"))
def _many(
    model: LanguageModel, nodes: Any, targets: Any, states: Any, plan: Any, sizes: jax.Array,
    config: MaskConfig, rows: int,
) -> Any:  # fmt: skip
    def one(target: Any, state: Any) -> Any:
        return scan_steps(model, nodes, target, Tree(()), state, plan, sizes, config, rows)[0]

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
