"""Reference values: what ablated units are set to, read on other prompts.

One rule holds for every ablation that reads other prompts. A prompt's own values never enter its
reference, whatever copies of it there are, and values at padding never enter any. The reference is
taken from the first of these that has at least eight prompts (`LEAST`), the prompt itself among
them if it is one of them:

1. the reference prompts (the discover split, to the judge) of the same group, which means of the
   same template and length, so that every position plays the same part;
2. the measured prompts of the same group;
3. all other reference prompts: for a mean, over all of their positions; for resampling, the eight
   that are nearest in length, where a position past the end of one reads its last token.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, forward
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import distinct, prompt_digests
from hagd_jax.units import AnyParts

# Fewer prompts are no reference: one of them would weigh too much.
LEAST = 8


@struct.dataclass
class Means:
    """Means hold sums over reference prompts, from which each prompt's own values are taken.

    Attributes:
        sums: Name → (L, G, T, ...) sums over the prompts of each group, at each position.
        count: (G, T) how many rows went into them.
        own: (G, T) 1 where the measured prompts themselves were summed, and 0 where the reference
            prompts were.
        near: (G, T) whether the group has enough prompts there for a mean of its own.
        total: Name → (L, 1, 1, ...) sums over all reference prompts and positions.
        tokens: () how many tokens went into that.
    """

    sums: dict[str, jax.Array]
    count: jax.Array
    own: jax.Array
    near: jax.Array
    total: dict[str, jax.Array]
    tokens: jax.Array

    __repr__ = one_line

    def values(
        self, own: dict[str, jax.Array], batch: Prompts, group: jax.Array, shared: jax.Array
    ) -> dict[str, jax.Array]:
        """Compute each prompt's ablation values: means over its reference without itself.

        Args:
            own: Name → (L, R, T, ...) values of units on the measured prompts.
            batch: Those prompts; R rows in all, as wide as the tables or narrower.
            group: (N,) which row of the tables is each prompt's.
            shared: (N,) 1 where the prompt is one of the reference prompts, too.

        Returns:
            Name → (L, R, T, ...).
        """
        rows, width = batch.inputs().shape[0] // group.shape[0], batch.clean.shape[-1]
        real = jnp.arange(width) < batch.row_length[:, None]

        def of_prompt(x: jax.Array, axis: int) -> jax.Array:
            """Sums over the rows of each prompt, for each of its rows."""
            shape = x.shape
            parts = x.reshape(*shape[:axis], -1, rows, *shape[axis + 1 :]).sum(axis + 1)
            return jnp.repeat(parts, rows, axis)

        shared, group = (batch.per_row(x) for x in (shared.astype(jnp.float32), group))
        taken = jnp.where(self.own[group, :width] > 0, 1.0, shared[:, None])
        here = of_prompt(real.astype(jnp.float32), 0)
        count = self.count[group, :width] - taken * here
        tokens = self.tokens - shared * here.sum(1)

        def mean(name: str, value: jax.Array) -> jax.Array:
            wide = lambda x: x.reshape(1, *x.shape, *[1] * (value.ndim - 1 - x.ndim))  # noqa: E731
            mine = of_prompt(jnp.where(wide(real), value, 0), 1)
            near = (self.sums[name][:, group, :width] - wide(taken) * mine) / wide(
                jnp.maximum(count, 1)
            )
            rest = self.total[name] - wide(shared) * mine.sum(2, keepdims=True)
            far = rest / wide(jnp.maximum(tokens, 1))
            return jnp.where(wide(self.near[group, :width]), near, far)

        return {name: mean(name, value) for name, value in own.items()}


class Places(NamedTuple):
    """Places locate the reference of each of N measured prompts.

    Attributes:
        group: (N,) its row in the tables of `Means`.
        shared: (N,) whether it is a reference prompt itself.
    """

    group: np.ndarray
    shared: np.ndarray

    __repr__ = one_line


def reference_means(
    model: LanguageModel,
    parts: AnyParts,
    prompts: Prompts,
    reference: Prompts | None = None,
    *,
    batch_size: int,
    per_position: bool = True,
) -> tuple[Means, Places]:
    """Sum the values of units over the reference of some prompts.

    Args:
        model: The model.
        parts: What it consists of.
        prompts: N prompts that will be measured.
        reference: Prompts to average over; the measured ones if None.
        batch_size: Prompts in one call.
        per_position: Whether positions have means of their own where there are enough prompts;
            if not, rule 3 alone is used.

    Returns:
        The sums, and where each prompt finds its own.

    Raises:
        InputError: If a prompt has no other prompt to be compared with.
    """
    rule = reference_rule(prompts, reference, per_position=per_position)
    groups, near, own, width = rule.groups, rule.near, rule.own, prompts.clean.shape[-1]
    measured, known = distinct(prompts), distinct(prompts if reference is None else reference)
    found = _summed(model, parts, known, groups, batch_size)
    more = _summed(model, parts, measured, groups, batch_size) if (own & near).any() else None
    sums, count, total, tokens = _tables(found, more, jnp.asarray(own), len(groups), width)
    means = Means(sums, count, jnp.asarray(own, jnp.float32), jnp.asarray(near), total, tokens)
    return means, rule.places


class Rule(NamedTuple):
    """A rule records which part of the reference rule applies to each prompt, on the host.

    Attributes:
        groups: (G,) the groups of the measured prompts, ascending.
        places: Where each measured prompt finds its reference.
        near: (G, T) whether the group has enough prompts there for a mean of its own.
        own: (G, T) whether those are the measured prompts, and not the reference prompts.
    """

    groups: np.ndarray
    places: Places
    near: np.ndarray
    own: np.ndarray

    __repr__ = one_line


def reference_rule(
    prompts: Prompts, reference: Prompts | None = None, *, per_position: bool = True
) -> Rule:
    """Decide where each prompt finds its reference.

    Args:
        prompts: N prompts that will be measured.
        reference: Prompts to average over; the measured ones if None.
        per_position: As in `reference_means`.

    Returns:
        The rule for these prompts.

    Raises:
        InputError: If a prompt has no other prompt to be compared with.
    """
    width = prompts.clean.shape[-1]
    measured, known = distinct(prompts), distinct(prompts if reference is None else reference)
    groups, group = np.unique(groups_of(prompts), return_inverse=True)
    shared = np.isin(prompt_digests(prompts), prompt_digests(known))
    if (shared & (len(known) < 2)).any():
        raise InputError(
            "reference", got="no prompt but the measured one", expected="others to average over"
        )
    ours, theirs = (_counts(p, groups, width) for p in (measured, known))
    good, enough = ours >= LEAST, theirs >= LEAST
    near, own = per_position & (good | enough), good & ~enough
    return Rule(groups, Places(group.astype(np.int32), shared.astype(np.int32)), near, own)


def others_of(prompts: Prompts, reference: Prompts | None = None) -> int:
    """Return the least number of distinct prompts in each prompt's reference."""
    known = set(prompt_digests(prompts if reference is None else reference))
    return min((len(known - {mine}) for mine in prompt_digests(prompts)), default=0)


def sources_of(prompts: Prompts, reference: Prompts | None = None) -> np.ndarray:
    """Return the part of the rule that gives each prompt's reference, at its last token.

    Args:
        prompts: N prompts that will be measured.
        reference: As there.

    Returns:
        (N,) 1, 2 or 3, as the rule is numbered above.
    """
    measured, known = distinct(prompts), distinct(prompts if reference is None else reference)
    width, own = prompts.clean.shape[-1], groups_of(prompts)
    groups, group = np.unique(own, return_inverse=True)
    ours, theirs = (_counts(p, groups, width) for p in (measured, known))
    last = np.asarray(prompts.length).reshape(len(prompts), -1).max(1) - 1
    good, enough = ours[group, last] >= LEAST, theirs[group, last] >= LEAST
    return np.where(enough, 1, np.where(good, 2, 3))


def groups_of(prompts: Prompts) -> np.ndarray:
    """Return the (N,) group of each prompt; −1 for all of those without groups."""
    if prompts.group is None:
        return np.full(len(prompts), -1)
    return np.asarray(prompts.group, np.int64)


def _counts(prompts: Prompts, groups: np.ndarray, width: int) -> np.ndarray:
    """(G, T) how many prompts of each group have a token at each position."""
    length = np.asarray(prompts.length).reshape(len(prompts), -1)
    real = (np.arange(width) < length[..., None]).mean(1)
    return np.stack([real[groups_of(prompts) == group].sum(0) for group in groups])


def _summed(
    model: LanguageModel, parts: AnyParts, prompts: Prompts, groups: np.ndarray, batch_size: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Sums over each of some groups and over all other prompts together, and their counts."""
    own = groups_of(prompts)
    place = np.where(np.isin(own, groups), np.searchsorted(groups, own), len(groups))
    numbered = dataclasses.replace(prompts, group=np.minimum(place, len(groups)).astype(np.int32))
    several = (
        group_sums(model.bare(), parts.bare(), batch, weight, len(groups) + 1)
        for batch, weight in padded_batches(model, numbered, batch_size)
    )
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), several)


@functools.partial(jax.jit, static_argnames="groups")
def group_sums(
    model: LanguageModel, parts: AnyParts, batch: Prompts, weight: jax.Array, groups: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Sum the values of units over the real tokens of each group of prompts.

    Args:
        model: The model, without name and tokenizer.
        parts: What it consists of.
        batch: B prompts, their groups numbered from 0.
        weight: (B,) what each weighs.
        groups: Number of groups.

    Returns:
        Name → (L, groups, T, ...) sums, and (groups, T) how many rows went into them.
    """
    tokens, group = batch.inputs(), batch.per_row(batch.group)
    real = jnp.arange(tokens.shape[1]) < batch.row_length[:, None]
    real = real * batch.per_row(weight)[:, None]
    values = parts.values(forward(model, tokens, capture=parts.capture).trace)

    def total(value: jax.Array) -> jax.Array:
        wide = real.reshape(1, *real.shape, *[1] * (value.ndim - 3))
        # What stands at padding may be no number at all.
        kept = jnp.where(wide > 0, value, 0) * wide
        return jax.ops.segment_sum(kept.swapaxes(0, 1), group, groups).swapaxes(0, 1)

    return {n: total(x) for n, x in values.items()}, jax.ops.segment_sum(real, group, groups)


@functools.partial(jax.jit, static_argnames=("groups", "width"))
def _tables(
    found: tuple[dict[str, jax.Array], jax.Array],
    more: tuple[dict[str, jax.Array], jax.Array] | None,
    own: jax.Array,
    groups: int,
    width: int,
) -> tuple[dict[str, jax.Array], jax.Array, dict[str, jax.Array], jax.Array]:
    """Sums of groups at the positions wanted, and sums over everything.

    Args:
        found: Sums over the reference prompts and their counts, see `_summed`.
        more: The same over the measured prompts, where those are wanted.
        own: (G, T) where they are.
        groups: G, without the row of other prompts.
        width: Positions wanted, T: tables are cut or filled with zeros.
    """

    def fitted(x: jax.Array, axis: int) -> jax.Array:
        x = jax.lax.slice_in_dim(x, 0, groups, axis=axis)
        x = jax.lax.slice_in_dim(x, 0, min(width, x.shape[axis + 1]), axis=axis + 1)
        room = [(0, 0)] * x.ndim
        room[axis + 1] = (0, width - x.shape[axis + 1])
        return jnp.pad(x, room)

    def chosen(theirs: jax.Array, ours: jax.Array, axis: int) -> jax.Array:
        shape = *[1] * axis, *own.shape, *[1] * (theirs.ndim - axis - 2)
        return jnp.where(own.reshape(shape), fitted(ours, axis), fitted(theirs, axis))

    sums, count = found
    total = {name: x.sum((1, 2), keepdims=True) for name, x in sums.items()}
    ours, ours_count = found if more is None else more
    tables = {name: chosen(x, ours[name], 1) for name, x in sums.items()}
    return tables, chosen(count, ours_count, 0), total, count.sum()
