"""Mean ablation in the fused executor: sums over groups of prompts, added up batch by batch.

The values are those of `causal.reference`: means over other prompts, a prompt never in its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.causal.reference import Means, Places, group_sums, groups_of, reference_rule
from hagd_jax.models import LanguageModel
from hagd_jax.tasks import Prompts, prompt_digests
from hagd_jax.units import Dictionary

SPLITS = ("discover", "select")


class Tables(struct.PyTreeNode):
    """Tables hold sums of node values over the distinct prompts of each group, at each position.

    Attributes:
        sums: Name → (2, L, G, T, ...) of the discover and the select split.
        count: (2, G, T) how many rows went into them.
    """

    sums: dict[str, Any]
    count: Any

    __repr__ = one_line


class Groups(NamedTuple):
    """Groups give the reference group of each prompt, and the part of the rule that applies.

    Attributes:
        group: (R,) int32 row in the tables.
        shared: (R,) float32 1 where the prompt is one of the discover split.
        once: (R,) float32 1 for the first copy of each prompt, 0 for others.
        near: (G, T) bool whether the group has enough prompts for a mean of its own.
        own: (G, T) float32 1 where those are of the measured split.
    """

    group: Any
    shared: Any
    once: Any
    near: Any
    own: Any

    __repr__ = one_line


def groups_in(splits: dict[str, Prompts]) -> np.ndarray:
    """List the (G,) groups of all prompts that are read, ascending."""
    return np.unique(np.concatenate([groups_of(prompts) for prompts in splits.values()]))


def groups_for(splits: dict[str, Prompts]) -> dict[str, Groups]:
    """Map each split to the groups of its prompts, on the host.

    Args:
        splits: The discover split, and the select split if there is one, of one width.
    """
    every, discover = groups_in(splits), splits["discover"]
    return {name: _groups(prompts, discover, every) for name, prompts in splits.items()}


def _groups(prompts: Prompts, discover: Prompts, every: np.ndarray) -> Groups:
    rule = reference_rule(prompts, discover)
    place = np.searchsorted(every, rule.groups)
    shape = len(every), prompts.clean.shape[-1]
    near, own = np.zeros(shape, bool), np.zeros(shape, np.float32)
    near[place], own[place] = rule.near, rule.own
    digests = prompt_digests(prompts)
    first = [digest not in digests[:row] for row, digest in enumerate(digests)]
    return Groups(
        place[rule.places.group].astype(np.int32), rule.places.shared.astype(np.float32),
        np.array(first, np.float32), near, own,
    )  # fmt: skip


def empty_tables(
    model: LanguageModel, nodes: Dictionary, batch: Prompts, groups: tuple[int, int]
) -> Tables:
    """Make tables without any prompt, as shapes or as zeros."""
    many, width = groups
    found, count = jax.eval_shape(
        lambda model, nodes, batch: _summed(model, nodes, batch, jnp.ones(len(batch)), many),
        model.bare(), nodes, batch,
    )  # fmt: skip
    del width  # that of the batch
    zeros = lambda x: jnp.zeros((2, *x.shape), x.dtype)  # noqa: E731
    return Tables({name: zeros(x) for name, x in found.items()}, zeros(count))


def added(tables: Tables, split: jax.Array, sums: tuple[dict[str, jax.Array], jax.Array]) -> Tables:
    """Add a batch of a split to the tables."""
    found, count = sums
    more = {name: tables.sums[name].at[split].add(x) for name, x in found.items()}
    return Tables(more, tables.count.at[split].add(count))


def batch_sums(
    model: LanguageModel, nodes: Dictionary, batch: Prompts, weight: jax.Array, groups: Groups
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Sum node values over the prompts of a batch, each prompt once."""
    own = batch.replace(group=groups.group)  # type: ignore[attr-defined]
    return _summed(model, nodes, own, weight * groups.once, len(groups.near))


def _summed(
    model: LanguageModel, nodes: Dictionary, batch: Prompts, weight: jax.Array, many: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    return group_sums(model, nodes, batch, weight, many)


def means_of(tables: Tables, groups: Groups) -> Means:
    """Select the sums from which the prompts of a split have their means.

    Args:
        tables: Sums of all prompts.
        groups: Groups of the measured prompts.
    """

    def chosen(both: jax.Array, ahead: int) -> jax.Array:
        mine = groups.own.reshape(*[1] * ahead, *groups.own.shape, *[1] * (both.ndim - 3 - ahead))
        return jnp.where(mine > 0, both[1], both[0])

    sums = {name: chosen(x, 1) for name, x in tables.sums.items()}
    total = {name: x[0].sum((1, 2), keepdims=True) for name, x in tables.sums.items()}
    count, tokens = chosen(tables.count, 0), tables.count[0].sum()
    return Means(sums, count, groups.own, groups.near, total, tokens)


def places_of(groups: Groups) -> Places:
    """Find where each prompt's own values are among those sums."""
    return Places(groups.group, groups.shared)
