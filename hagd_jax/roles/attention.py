"""What heads attend to, and what the values of units depend on, on synthetic prompts."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import batch_parts, replicate
from hagd_jax.roles.sequences import Sequences

# Less variance than this share of the square is rounding.
_CONSTANT = 1e-6


class Patterns(NamedTuple):
    """Patterns say what each head attends to; every array is (L, H) float64.

    Attributes:
        previous: Mean attention to the position before.
        itself: Mean attention to the position itself.
        first: Mean attention to the first position.
        offset: Largest mean attention to a fixed distance other than 0 and 1.
        place: Share of what distinguishes the pattern from a uniform one that is decided by the
            positions of query and key alone, 0 to 1.
        content: The same for the key's token alone.
        duplicate: Attention to other positions of the query's token, beyond a uniform pattern.
        induction: Attention to positions after the query's token, beyond a uniform pattern.
        entropy: Mean entropy, as a share of a uniform pattern's.
    """

    previous: Any
    itself: Any
    first: Any
    offset: Any
    place: Any
    content: Any
    duplicate: Any
    induction: Any
    entropy: Any

    __repr__ = one_line


class Spread(NamedTuple):
    """The spread of values, as sums of squares for each node in the order of `Nodes.flat`.

    Attributes:
        total: (N,) around the mean.
        token: (N,) between the current tokens.
        place: (N,) between positions.
        before: (N,) between the tokens before.
        sizes: Values, and numbers of groups of the three kinds.
    """

    total: np.ndarray
    token: np.ndarray
    place: np.ndarray
    before: np.ndarray
    sizes: tuple[int, int, int, int]

    __repr__ = one_line


def observe(model: LanguageModel, rows: Sequences, batch_size: int = 8) -> tuple[Patterns, Spread]:
    """Run the model on synthetic prompts.

    Args:
        model: The model.
        rows: The prompts.
        batch_size: Rows in one call.

    Returns:
        What its heads attend to, and what the outputs of heads and neurons depend on.
    """
    bare, parts = model.bare(), batch_parts(model.mesh)
    size = -(-min(batch_size, len(rows.tokens)) // parts) * parts
    sums: Any = None
    for start in range(0, len(rows.tokens), size):
        own = np.arange(start, start + size)
        weight = (own < len(rows.tokens)).astype(np.float32)
        own = np.minimum(own, len(rows.tokens) - 1)
        part = _sums(
            bare, rows.tokens[own], rows.kind[own], rows.twin[own], rows.after[own], weight,
            rows.kinds, rows.lead,
        )  # fmt: skip
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
        sums = part if sums is None else jax.tree.map(np.add, sums, part)
    return _patterns(model, sums["pattern"], rows), _spread(sums["values"], rows)


@functools.partial(jax.jit, static_argnames=("kinds", "lead"))
def _sums(
    model: LanguageModel,
    tokens: jax.Array,
    kind: jax.Array,
    twin: jax.Array,
    after: jax.Array,
    weight: jax.Array,
    kinds: int,
    lead: bool,
) -> dict[str, Any]:
    """All sums over a batch, with layers in front."""
    sites = ("attn_pattern", "head_out", "neuron")
    trace = forward(model, tokens, capture=sites).trace
    length = tokens.shape[1]
    named = jax.nn.one_hot(kind, kinds) * weight[:, None, None]
    visible = jnp.tri(length) if model.config.causal else jnp.ones((length, length))
    uniform = visible / visible.sum(-1, keepdims=True)

    def layer(pattern: jax.Array) -> dict[str, jax.Array]:
        pattern = pattern.astype(jnp.float32)
        apart = (pattern - uniform) * weight[:, None, None, None]
        logs = jnp.log(jnp.maximum(pattern, 1e-30))
        entropy = -jnp.sum(pattern * logs, -1) / jnp.maximum(jnp.log(visible.sum(-1)), 1e-9)
        later = jnp.arange(length) > 0
        return {
            "place": apart.sum(0),
            "square": jnp.sum(apart**2, (0, 2, 3)),
            "content": jnp.einsum("bhts,bsa->ha", apart, named),
            "twin": _beyond(pattern, uniform, twin, weight, itself=True),
            "after": _beyond(pattern, uniform, after, weight, itself=False),
            "entropy": jnp.einsum("bht,b,t->h", entropy, weight, later.astype(jnp.float32)),
        }

    patterns = jax.lax.map(layer, trace["attn_pattern"])
    seen = jnp.einsum("ts,bsa->a", visible, named)
    # What begins all rows is one token at one place: it would count as both.
    cut = int(lead)
    values = {
        "head": trace["head_out"][:, :, cut:].astype(jnp.float32),
        "neuron": trace["neuron"][:, :, cut:, :, None].astype(jnp.float32),
    }
    before = jnp.concatenate([jnp.zeros_like(named[:, :1]), named[:, :-1]], 1)
    groups = {
        "token": named[:, cut:],
        "before": before[:, cut:],
        "place": jnp.broadcast_to(jnp.eye(length)[cut:], (len(tokens), length - cut, length))
        * weight[:, None, None],
    }
    spread = {name: _groups(value, groups, weight) for name, value in values.items()}
    counts = {name: group.sum((0, 1)) for name, group in groups.items()}
    found = {
        "pattern": patterns | {"seen": seen, "count": weight.sum()},
        "values": spread | {"counts": counts},
    }
    return replicate(found, model.mesh)


def _beyond(
    pattern: jax.Array, uniform: jax.Array, mask: jax.Array, weight: jax.Array, *, itself: bool
) -> jax.Array:
    """(2, H) attention within a mask beyond a uniform pattern's, over queries that have some.

    With `itself`, attention to the query's own position counts for nothing.
    """
    there = mask.astype(jnp.float32)
    mass = jnp.einsum("bhts,bts->bht", pattern, there)
    chance = jnp.einsum("ts,bts->bt", uniform, there)[:, None]
    if itself:
        own = jnp.diagonal(pattern, axis1=2, axis2=3)
        mass = jnp.where(own < 0.95, mass / jnp.maximum(1 - own, 0.05), 0)
        chance = chance / jnp.maximum(1 - jnp.diagonal(uniform)[None, None], 1e-3)
    # Queries that see hardly anything else tell nothing.
    asked = mask.any(-1)[:, None] & (chance < 0.7)
    lift = jnp.where(asked, (mass - chance) / jnp.maximum(1 - chance, 1e-3), 0)
    count = jnp.broadcast_to(asked, mass.shape) * weight[:, None, None]
    return jnp.stack([jnp.sum(lift * weight[:, None, None], (0, 2)), count.sum((0, 2))])


def _groups(value: jax.Array, groups: dict[str, jax.Array], weight: jax.Array) -> dict[str, Any]:
    """Sums of (L, B, T, n, k) values over prompts and positions, in all and by group."""
    found = {
        "sum": jnp.einsum("lbtnk,b->lnk", value, weight),
        "square": jnp.einsum("lbtnk,b->ln", value**2, weight),
    }
    return found | {
        name: jnp.einsum("lbtnk,btg->lgnk", value, group) for name, group in groups.items()
    }


def _patterns(model: LanguageModel, sums: dict[str, Any], rows: Sequences) -> Patterns:
    count, length = float(sums["count"]), rows.tokens.shape[1]
    causal = model.config.causal
    visible = np.tri(length) if causal else np.ones((length, length))
    uniform = visible / visible.sum(-1, keepdims=True)
    mean = sums["place"] / count + uniform
    start = min(1 + rows.lead, length - 1)

    def along(back: int) -> np.ndarray:
        """Mean attention so many places back, where that is not the token that begins rows."""
        queries = np.arange(length)
        queries = queries[(queries - back >= rows.lead) & (queries - back < length)]
        queries = queries[queries >= start]
        return mean[:, :, queries, queries - back].mean(-1) if len(queries) else 0 * mean[..., 0, 0]

    reach = max(length // 2, 2)
    backs = [*range(2, reach + 1), *([] if causal else range(-reach, 0))]
    square = np.maximum(sums["square"], 1e-30)
    # As much as noise would explain by chance is taken off.
    place = np.sum(sums["place"] ** 2, (-1, -2)) / count / square
    place = np.maximum(place - (1 - place) / max(count - 1, 1), 0)
    content = np.sum(sums["content"] ** 2 / np.maximum(sums["seen"], 1), -1) / square
    flat = sums["square"] / (count * length) < 1e-4
    later = slice(start, None)
    twin, after = (sums[name][:, 0] / np.maximum(sums[name][:, 1], 1) for name in ("twin", "after"))
    return Patterns(
        previous=along(1),
        itself=along(0),
        first=mean[:, :, later, 0].mean(-1),
        offset=np.max([along(back) for back in backs], 0),
        place=np.where(flat, 0, place),
        content=np.where(flat, 0, content),
        duplicate=twin,
        induction=after,
        entropy=sums["entropy"] / (count * max(length - 1, 1)),
    )


def _spread(sums: dict[str, Any], rows: Sequences) -> Spread:
    counts = sums["counts"]
    total = float(counts["place"].sum())
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("total", *counts)}
    for kind in ("head", "neuron"):
        own = sums[kind]
        centre = np.sum(own["sum"] ** 2, -1) / total
        around = own["square"] - centre
        varies = around > _CONSTANT * own["square"]
        found["total"].append(np.where(varies, around, 0).ravel())
        for name, count in counts.items():
            # Positions without a token before them are a group of their own.
            size = np.maximum(count, 1e-9)[:, None]
            between = np.sum(np.sum(own[name] ** 2, -1) / size, 1)
            rest = own["sum"] - own[name].sum(1)
            left = total - count.sum()
            if left > 0.5:
                between = between + np.sum(rest**2, -1) / left
            found[name].append(np.where(varies, between - centre, 0).ravel())
    groups = tuple(int((counts[name] > 0).sum()) for name in ("token", "place", "before"))
    return Spread(
        *(np.concatenate(found[name]) for name in ("total", "token", "place", "before")),
        (int(total), *groups),  # type: ignore[arg-type]
    )


def explained(between: np.ndarray, total: np.ndarray, count: int, groups: int) -> np.ndarray:
    """Compute the share of variance between groups, adjusted for their number.

    1 − (S_within / (n − g)) / (S_total / (n − 1)), no less than 0; 0 for what does not vary.

    Args:
        between: (U,) sums of squares between groups.
        total: (U,) around the mean.
        count: Values, n.
        groups: Groups, g.

    Returns:
        (U,) from 0 to 1.

    Example:
        >>> explained(np.array([8.0]), np.array([10.0]), 21, 2).round(3)
        array([0.789])
    """
    if count <= groups:
        return np.zeros_like(total)
    there = total > 0
    safe = np.where(there, total, 1)
    within = np.maximum(safe - between, 0) / (count - groups)
    return np.where(there, np.clip(1 - within / (safe / (count - 1)), 0, 1), 0)
