"""Measured cuts: what closing one part, or two parts together, does to the model.

Gradients say nothing about a saturated softmax: with hard attention, the whole score of a key may
be needed and its gradient is zero. A cut is measured, at the price of a forward pass for each part.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is, require_number
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.tasks.batching import summed
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import look
from hagd_jax.units import Components, Edges, Nodes, Parts, Scores, Source, as_dictionary, parts_of
from hagd_jax.units.rows import count, flat, masks, unflat


@dataclasses.dataclass(frozen=True)
class CutConfig:
    """Configure which cuts are measured.

    Attributes:
        pairs: Number of parts that are also cut two at a time, each with each: K (K − 1) / 2 more
            cuts. 0 cuts single parts alone.
        batch_size: Prompts in one call.
        at_once: Masks that run side by side; more of them take more memory.
        metric: Weight of the squared relative error of the metric, beside KL.
    """

    pairs: int = 0
    batch_size: int = 32
    at_once: int = 16
    metric: float = 1.0

    def __post_init__(self):
        require_number("pairs", self.pairs, least=0, whole=True)
        for field in ("batch_size", "at_once"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("metric", self.metric, least=0)


class Cuts(NamedTuple):
    """Cuts hold the measured effects of parts.

    Attributes:
        alone: Effect of cutting each part alone, with what it has seen.
        scores: `alone` plus the largest excess of a pair over its two members; `alone` itself if
            no pairs were cut.
        pairs: (P, 2) places of the parts that were cut together, in the order of flat rows.
        excess: (P,) effect of each pair minus the effects of its members.
        evaluations: Number of forward passes of one prompt with a cut.
    """

    alone: Scores
    scores: Scores
    pairs: np.ndarray
    excess: np.ndarray
    evaluations: int

    __repr__ = one_line


def cuts(
    model: LanguageModel,
    prompts: Prompts,
    config: CutConfig = CutConfig(),
    *,
    dictionary: Parts | Source | None = None,
    first: Scores | None = None,
) -> Cuts:
    """Measure the effect of closing each node or edge of the whole model.

    The effect of a cut is the loss of masks, KL(model ‖ cut model) + w · ((m_cut − m) / m̄)², where
    closed parts carry the counterfactual's values and m̄ is the mean metric. It is 0 or more, and
    higher is more needed. Parts of which one can stand in for the other have no effect alone; their
    excess d_ab − d_a − d_b shows them, and is added to the score of both.

    Args:
        model: The model.
        prompts: N clean prompts with their counterfactuals.
        config: Which cuts are measured.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`, whose edges are cut.
        first: Scores that choose the parts cut in pairs, by magnitude; their own effects if None.

    Returns:
        The effects, for (parts + P) · N forward passes of a prompt.

    Raises:
        InputError: If the prompts, the dictionary or the scores do not fit the model, or a logit is
            not finite.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> either = cuts(case.model, case.prompts, CutConfig(pairs=10))
        >>> either.pairs[either.excess.argmax()].tolist()  # two heads, each of which would do
        [0, 1]
    """
    require_is("model", model, LanguageModel)
    require_is("prompts", prompts, Prompts, mend="A split of a task has some.")
    require_is("config", config, CutConfig)
    require_is("first", first, Scores, type(None))
    parts = parts_of(model, dictionary)
    total = count(parts)
    ranking = None if first is None else _ranking(parts, first)
    single = np.stack([np.arange(total), np.full(total, total)], 1)
    alone = _effects(model, prompts, parts, single, config)
    best = np.argsort(-(alone if ranking is None else ranking), kind="stable")[: config.pairs]
    both = np.array([*itertools.combinations(np.sort(best).tolist(), 2)], int).reshape(-1, 2)
    excess, scores = np.zeros(len(both)), alone.copy()
    if len(both):
        excess = _effects(model, prompts, parts, both, config) - alone[both].sum(1)
        most = np.zeros(total)
        for side in both.T:
            np.maximum.at(most, side, excess)
        scores = alone + most
    edges = isinstance(dictionary, Components)
    label = None if edges else as_dictionary(model, dictionary)
    seen = look(prompts, ablation="counterfactual", model=model, dictionary=label)
    made = [Scores(unflat(parts, row.astype(np.float32)), seen) for row in (alone, scores)]
    if first is not None:
        made[1] = made[1].after(first.seen)
    spent = (total + len(both)) * len(prompts)
    return Cuts(made[0], made[1], both, excess, spent)


def _ranking(parts: Parts, first: Scores) -> np.ndarray:
    """(N,) magnitudes of scores of the same parts."""
    kind = Edges if isinstance(parts, Components) else Nodes
    row = np.abs(flat(parts, first.values)) if isinstance(first.values, kind) else np.empty(0)
    if len(row) != count(parts):
        raise InputError("first", got=repr(first), expected=f"scores of {count(parts)} parts",
                         mend="Score the same model with the same dictionary.")  # fmt: skip
    return row


def _effects(
    model: LanguageModel, prompts: Prompts, parts: Parts, closed: np.ndarray, config: CutConfig
) -> np.ndarray:
    """(K,) effects of closing the (K, 2) parts; place N stands for none."""
    bare = model.bare()

    def whole(batch: Prompts, weight: jax.Array) -> jax.Array:
        return _metric(bare, batch, weight)

    mean = float(summed(model, prompts, config.batch_size, whole)) / len(prompts)
    scale = mean if abs(mean) > 1e-3 else 1.0

    # Always the same number of masks, so that one program serves all calls.
    filled = np.resize(closed, (-(-len(closed) // config.at_once) * config.at_once, 2))
    calls = filled.reshape(-1, config.at_once, 2)

    def part(batch: Prompts, weight: jax.Array) -> np.ndarray:
        found = [_cut(bare, parts, batch, weight, some) for some in calls]
        return np.concatenate([np.asarray(x, np.float64) for x in found], axis=1)

    kl, off = summed(model, prompts, config.batch_size, part)[:, : len(closed)] / len(prompts)
    effects = kl + config.metric * off / scale**2
    if not np.isfinite(effects).all():
        raise InputError("model", got="logits that are not finite", expected="finite ones",
                         mend="Try float32, or look for infinities in the weights.")  # fmt: skip
    return effects


@jax.jit
def _metric(model: LanguageModel, batch: Prompts, weight: jax.Array) -> jax.Array:
    at = forward(model, batch.inputs(), read=batch.reads).logits
    return replicate((batch.metric(at) * weight).sum(), model.mesh)


@jax.jit
def _cut(
    model: LanguageModel, parts: Parts, batch: Prompts, weight: jax.Array, closed: jax.Array
) -> jax.Array:
    """(2, K) sums over prompts of KL and of squared errors of the metric."""
    tokens, reads = batch.inputs(), batch.reads
    clean = forward(model, tokens, read=reads).logits
    trace = forward(model, batch.inputs("corrupted"), capture=parts.capture).trace
    other, own = parts.values(trace), batch.metric(clean)

    def one(pair: jax.Array) -> jax.Array:
        row = jnp.ones(count(parts)).at[pair].set(0, mode="drop")
        rows = batch.per_row(jnp.broadcast_to(row, (len(batch), len(row))))
        mask: Any = masks(parts, rows)
        found = forward(model, tokens, parts.at(batch).mask(mask, other), read=reads).logits
        off = (batch.metric(found) - own) ** 2
        return jnp.stack([batch.kl(clean, found) @ weight, off @ weight])

    return replicate(jax.vmap(one)(closed).T, model.mesh)
