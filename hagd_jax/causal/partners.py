"""Which prompt each is resampled from; the rule is that of `causal.reference`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.causal.reference import LEAST, groups_of
from hagd_jax.errors import InputError
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import distinct, prompt_digests

_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))


def partners(
    prompts: Prompts, reference: Prompts | None = None, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Choose for each prompt another one to resample from, by this module's rule.

    Args:
        prompts: N prompts that will be measured.
        reference: Prompts to draw from; the measured ones if None.
        seed: Which of the possible partners. Neighbouring numbers give different ones.

    Returns:
        Tokens of the partners, cut to the width of `prompts.clean`, and their lengths before that.
        They do not depend on the order of either batch.

    Raises:
        InputError: If a prompt has no other prompt to be resampled from.
    """
    pool = _pool(prompts, reference)
    own, plans = np.array(prompt_digests(prompts)), groups_of(prompts)
    lengths = np.asarray(prompts.length).reshape(len(prompts), -1)
    if (pool.keys == own[:, None]).all(1).any():
        raise InputError(
            "reference", got="no prompt but the measured one", expected="others to resample"
        )
    found = np.full(len(prompts), -1)
    for plan, *length in np.unique(np.column_stack([plans, lengths]), axis=0).tolist():
        mine = np.flatnonzero((plans == plan) & (lengths == length).all(1))
        alike = (pool.plans == plan) & (pool.lengths == length).all(1)
        for places in (np.flatnonzero(alike & pool.first), np.flatnonzero(alike)):
            left = mine[found[mine] < 0]
            if len(left) and len(places) >= LEAST:
                found[left] = _in_turn(own[left], pool.keys, places, seed)
    for i in np.flatnonzero(found < 0):
        gap = pool.lengths - lengths[i]
        other = pool.keys != own[i]
        far = np.lexsort((pool.plans != plans[i], (gap < 0).any(1), np.abs(gap).sum(1), ~other))
        nearest = far[: min(LEAST, other.sum())]
        found[i] = _in_turn(own[[i]], pool.keys, np.sort(nearest), seed)[0]
    length = pool.lengths[found].reshape(np.shape(prompts.length))
    return pool.tokens[found], length


class _Pool(NamedTuple):
    """Distinct prompts to draw from, in an order that no batch decides; arrays of P prompts."""

    tokens: np.ndarray  # (P, ..., T) cut or filled to the width of the measured prompts
    lengths: np.ndarray  # (P, C) tokens of each row
    plans: np.ndarray  # (P,) groups
    keys: np.ndarray  # (P,) digests
    first: np.ndarray  # (P,) whether it is a reference prompt


def _pool(prompts: Prompts, reference: Prompts | None) -> _Pool:
    several = [distinct(prompts)] if reference is None else [distinct(reference), distinct(prompts)]
    width = prompts.clean.shape[-1]
    keys = np.concatenate([np.array(prompt_digests(p)) for p in several])
    kept = np.unique(keys, return_index=True)[1]
    kept = kept[np.argsort(_mixed(keys[kept]), kind="stable")]
    columns = (
        np.concatenate([_wide(p.clean, width) for p in several]),
        np.concatenate([np.asarray(p.length).reshape(len(p), -1) for p in several]),
        np.concatenate([groups_of(p) for p in several]),
        keys,
        np.repeat(np.arange(len(several)) == 0, [len(p) for p in several]),
    )
    return _Pool(*(column[kept] for column in columns))


def _in_turn(own: np.ndarray, keys: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
    """A partner for each among some places of the pool: all of them equally often, as near as can.

    Prompts of the pool get the one some steps further on, so that of a pool of just the prompts
    it is a permutation; the others take turns.
    """
    spot = {key: i for i, key in enumerate(keys[places])}
    step = 1 + seed % max(len(places) - 1, 1)
    others = sorted({key for key in own.tolist() if key not in spot})
    spot |= {key: i for i, key in enumerate(others)}
    turn = [(spot[key] + step) % len(places) for key in own.tolist()]
    return places[turn]


def at_last(values: dict[str, jax.Array], length: jax.Array) -> dict[str, jax.Array]:
    """Repeat the last token's values at the positions past the end of a row.

    Args:
        values: Name → (L, R, T, ...).
        length: (R,) real tokens of each row.

    Returns:
        The same shapes.
    """

    def one(value: jax.Array) -> jax.Array:
        place = jnp.minimum(jnp.arange(value.shape[2]), length[:, None] - 1)
        place = place.reshape(1, *place.shape, *[1] * (value.ndim - 3))
        return jnp.take_along_axis(value, place, axis=2)

    return {name: one(value) for name, value in values.items()}


def _wide(tokens: Any, width: int) -> np.ndarray:
    """Tokens cut or filled to a width; what is filled in is never read."""
    tokens = np.asarray(tokens)[..., :width]
    room = [(0, 0)] * (tokens.ndim - 1) + [(0, width - tokens.shape[-1])]
    return np.pad(tokens, room)


def _mixed(digests: Any) -> np.ndarray:
    """Digests as numbers whose bits are spread (the end of splitmix64)."""
    state = np.array([int(each, 16) for each in digests], np.uint64)
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(15))) * _ODD[0]
        return (state ^ (state >> np.uint64(27))) * _ODD[1]
