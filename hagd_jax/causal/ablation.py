"""Run a model with everything outside a circuit ablated, many circuits in one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import mean_of_sums, position_sums, zero_alternative
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary, Edges, Nodes, Parts, parts_of
from hagd_jax.units.components import Components

# A group of fewer prompts has no mean of its own.
_FEW = 4
ABLATIONS = ("zero", "mean", "mean_overall", "resample", "counterfactual")


class Behaviour(NamedTuple):
    """What K circuits do on N prompts; every array is (K, N) on the host.

    Attributes:
        metric: Logit of the answer minus logit of the distractor.
        correct: Whether the answer wins.
        kl: KL(model ‖ circuit) of the next token at the answer position, in nats.
        match: Whether the top token is the model's.
    """

    metric: Any
    correct: Any
    kl: Any
    match: Any


def behaviour(
    model: LanguageModel,
    prompts: Prompts,
    masks: Sequence[Nodes | Edges],
    *,
    ablation: str,
    dictionary: Parts | Transcoder | None = None,
    candidates: tuple[int, ...] | None = None,
    reference: Prompts | None = None,
    batch_size: int = 16,
    seed: int = 0,
    with_model: bool = False,
) -> Behaviour:
    """Measure circuits by ablating their complements.

    Args:
        model: The model.
        prompts: Where to measure.
        masks: One `Nodes` of bool for each circuit; or `Edges`, with `components(model)`.
        ablation: What ablated nodes are set to: `zero`; `mean` at each position over the prompts
            of the same group, or over `reference` if they have none; `mean_overall` over all
            positions of `reference`; `resample`, their values on another prompt of the same group,
            or of as nearly the same length as there is; `counterfactual`, their values on the
            corrupted prompt.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`, between which edges are cut.
        candidates: Tokens among which the answer must win; the distractor alone if None.
        reference: Prompts whose clean activations are averaged; not those measured on.
        batch_size: Prompts in one call.
        seed: Pairs prompts for `resample`.
        with_model: Put what the model itself does in front, K + 1 rows in all. Dictionaries
            without errors have no circuit that does just that.

    Returns:
        The behaviour of each circuit on each prompt.

    Raises:
        ConfigError: If the ablation does not exist.
        InputError: If a mean has no reference, or `resample` a single prompt, or no circuit was
            given, or it has other nodes than the dictionary, or prompts or dictionary do not
            fit the model.

    Example:
        >>> everything = Nodes.full(hagd.units.neurons(model).space, True)
        >>> behaviour(model, prompts, [everything], ablation="zero").kl.max()
        0.0
    """
    if ablation not in ABLATIONS:
        raise ConfigError("ablation", got=repr(ablation), expected=f"one of {ABLATIONS}")
    if not masks:
        raise InputError("masks", got="none", expected="at least one circuit")
    nodes = parts_of(model, dictionary)
    for mask in masks:
        _require_fit(mask, nodes)
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *masks)
    fixed = None
    if ablation == "mean" and prompts.group is not None:
        prompts, fixed = group_means(model, nodes, prompts, batch_size)
    elif ablation.startswith("mean"):
        if reference is None:
            raise InputError("reference", got="none", expected="prompts to average over")
        fixed = node_means(
            model, nodes, reference, prompts.clean.shape[-1], batch_size,
            per_position=ablation == "mean",
        )  # fmt: skip
    if ablation == "resample":
        stand_in = np.asarray(prompts.clean)[partners(prompts.length, seed, prompts.group)]
        prompts = dataclasses.replace(prompts, corrupted=stand_in)
    parts = [
        _judge(model.bare(), nodes, batch, stacked, fixed, ablation, candidates)
        for batch, _ in padded_batches(model, prompts, batch_size)
    ]
    # The rows that filled up the last batch come last.
    joined = (
        np.concatenate([np.asarray(x) for x in column], 1) for column in zip(*parts, strict=True)
    )
    first = 0 if with_model else 1
    return Behaviour(*(rows[first:, : len(prompts)] for rows in joined))


def _require_fit(mask: Nodes | Edges, parts: Parts) -> None:
    if isinstance(mask, Edges) != isinstance(parts, Components):
        raise InputError(
            "masks", got=type(mask).__name__, expected="`Nodes`, or `Edges` with components(model)"
        )
    own, theirs = (
        x.space if isinstance(x, Nodes | Dictionary) else [np.shape(leaf) for leaf in leaves]
        for x, leaves in ((mask, jax.tree.leaves(mask)), (parts, jax.tree.leaves(parts.space)))
    )
    if own != theirs:
        raise InputError("masks", got=str(own), expected=str(theirs))


def group_means(
    model: LanguageModel, nodes: Parts, prompts: Prompts, batch_size: int
) -> tuple[Prompts, dict[str, jax.Array]]:
    """Means of each group, and the prompts with the number of theirs.

    A group too small for a mean of its own, which would be itself, has the mean of all prompts.

    Args:
        model: The model.
        nodes: What it consists of.
        prompts: With groups.
        batch_size: Prompts in one call.

    Returns:
        The prompts, their groups numbered anew, and name → (L, groups + 1, T, ...) means.
    """
    group = np.asarray(prompts.group)
    small = np.bincount(group)[group] < _FEW
    large = np.unique(group[~small])
    numbered = np.where(small, len(large), np.searchsorted(large, group))
    prompts = dataclasses.replace(prompts, group=numbered)
    width = prompts.clean.shape[-1]
    return prompts, node_means(model, nodes, prompts, width, batch_size, groups=len(large))


def partners(length: np.ndarray, seed: int, group: np.ndarray | None = None) -> np.ndarray:
    """Another prompt for each, of its group and length where there is one, else near in length.

    Args:
        length: (N,) tokens of each prompt; of several rows, (N, C).
        seed: Which of several.
        group: (N,) of each prompt; None if all are alike.

    Returns:
        (N,) indices, a permutation without fixed points.
    """
    length = np.asarray(length).reshape(len(length), -1).max(1)
    if len(length) < 2:
        raise InputError("prompts", got=len(length), expected="at least two to resample from")
    plan = np.zeros_like(length) if group is None else np.asarray(group)
    shuffled = np.random.default_rng(seed).permutation(len(length))
    order = shuffled[np.lexsort((plan[shuffled], length[shuffled]))]
    partner = np.empty_like(order)
    # Neighbours in order of length; each group's run closes on itself where it can.
    changes = (np.diff(length[order]) != 0) | (np.diff(plan[order]) != 0)
    for run in np.split(order, np.flatnonzero(changes) + 1):
        partner[run] = np.roll(run, -1)
    places = np.flatnonzero(partner[order] == order)
    alone = order[places]
    if len(alone) > 1:
        partner[alone] = np.roll(alone, -1)
    elif len(alone) == 1:
        other = order[places[0] - 1 if places[0] else 1]
        partner[alone[0]], partner[other] = partner[other], alone[0]
    return partner


def node_means(
    model: LanguageModel,
    dictionary: Parts,
    reference: Prompts,
    width: int,
    batch_size: int,
    *,
    per_position: bool = True,
    groups: int = 0,
) -> dict[str, jax.Array]:
    """The mean activation of every node at each position, over as many prompts as there are.

    Args:
        model: The model.
        dictionary: Its nodes.
        reference: Prompts to average over; their clean side is read.
        width: Positions wanted: the reference is cut or padded to it.
        batch_size: Prompts in one call.
        per_position: Whether each position has a mean of its own; else the mean over all.
        groups: How many groups of the reference have means of their own, too: those of the first
            numbers. The last mean is of all prompts.

    Returns:
        Name → (L, groups + 1, T, ...) means, named as the dictionary's values; where no prompt has
        a token, the mean over positions. With one mean for all positions, (L, 1, 1, ...).
    """
    parts = (
        _position_sums(model.bare(), dictionary.bare(), batch, weight, width, groups)
        for batch, weight in padded_batches(model, reference, batch_size)
    )
    sums = functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)
    return mean_of_sums(*sums, per_position=per_position)


@functools.partial(jax.jit, static_argnames=("width", "groups"))
def _position_sums(
    model: LanguageModel,
    dictionary: Parts,
    batch: Prompts,
    weight: jax.Array,
    width: int,
    groups: int,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Sums of node activations over real tokens at each position, and how many there were."""
    short = min(width, batch.clean.shape[-1])
    tokens = jnp.pad(batch.inputs()[:, :short], ((0, 0), (0, width - short)))
    real = jnp.arange(width) < jnp.minimum(batch.row_length, short)[:, None]
    real = real * batch.per_row(weight)[:, None]
    values = dictionary.values(forward(model, tokens, capture=dictionary.capture).trace)
    if not groups:
        return position_sums(values, real)
    own = jax.nn.one_hot(batch.per_row(batch.group), groups, axis=0)[:, :, None] * real
    # The last one is of all prompts.
    rows = [position_sums(values, mine) for mine in (*own, real)]
    sums = {name: jnp.concatenate([row[0][name] for row in rows], 1) for name in values}
    return sums, jnp.stack([row[1] for row in rows])


@functools.partial(jax.jit, static_argnames=("ablation", "candidates"))
def _judge(
    model: LanguageModel,
    dictionary: Parts,
    batch: Prompts,
    masks: Nodes | Edges,
    fixed: dict[str, jax.Array] | None,
    ablation: str,
    candidates: tuple[int, ...] | None,
) -> Behaviour:
    tokens, reads = batch.inputs(), batch.reads
    needed = dictionary.capture if ablation == "zero" else ()
    clean = forward(model, tokens, capture=needed, read=reads)
    if ablation == "zero":
        alternative = zero_alternative(dictionary.values(clean.trace))
    elif fixed is not None:
        several = jax.tree.leaves(fixed)[0].shape[1] > 1
        rows = batch.per_row(batch.group) if several else slice(None)
        alternative = {name: means[:, rows] for name, means in fixed.items()}
    else:
        trace = forward(model, batch.inputs("corrupted"), capture=dictionary.capture).trace
        alternative = dictionary.values(trace)

    def one(mask: Any) -> Behaviour:
        return measured(
            forward(model, tokens, dictionary.mask(mask, alternative), read=reads).logits
        )

    def measured(at: jax.Array) -> Behaviour:
        return Behaviour(
            batch.metric(at),
            batch.correct(at, candidates),
            batch.kl(clean.logits, at),
            batch.match(clean.logits, at),
        )

    # One circuit after the other inside one program: no dispatch and no compilation in between.
    circuits = jax.lax.map(one, masks)
    model_row = measured(clean.logits)
    both = jax.tree.map(lambda own, rows: jnp.concatenate([own[None], rows]), model_row, circuits)
    return replicate(both, model.mesh)
