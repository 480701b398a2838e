"""Which edges a behaviour needs, found by cutting each of them alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hagd_jax.causal.ablation import Ablation, behaviour
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.testbeds.case import Case
from hagd_jax.testbeds.structure import program_edges
from hagd_jax.units import Edges
from hagd_jax.units.components import components

_AT_ONCE = 256


def necessary_edges(
    model: LanguageModel,
    prompts: Iterable[Prompts],
    ablation: str,
    *,
    among: Edges | None = None,
    candidates: tuple[int, ...] | None = None,
    batch_size: int = 512,
    seeds: int = 3,
) -> Edges:
    """Find the edges whose ablation alone changes some answer.

    Args:
        model: The model.
        prompts: Where to look: prompts of one length each, as models that read both ways need.
        ablation: What a cut edge carries instead; see `behaviour`.
        among: Edges that are tried; all by default. Of compiled programs those of
            `program_edges`, as no other edge does anything.
        candidates: The tokens that answers compete with.
        batch_size: Prompts in one call.
        seeds: Pairings that are tried for `resample`.

    Returns:
        `Edges` of bool.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> int(necessary_edges(case.model, [case.prompts], "zero").count())
        9
    """
    parts = components(model)
    there = parts.space
    places = np.flatnonzero((there if among is None else among).flat())
    needed = np.zeros(len(there.flat()), bool)
    for batch in prompts:
        for seed in range(seeds if ablation == "resample" else 1):
            for start in range(0, len(places), _AT_ONCE):
                chosen = places[start : start + _AT_ONCE]
                # Always the same number of masks, so that one program serves all calls.
                rows = np.resize(chosen, min(_AT_ONCE, len(places)))
                found = behaviour(
                    model,
                    batch,
                    [there.without(int(edge)) for edge in rows],
                    ablation=Ablation(ablation, batch, seed),
                    dictionary=parts,
                    candidates=candidates,
                    batch_size=min(batch_size, len(batch)),
                )
                needed[chosen] |= ~found.match.all(1)[: len(chosen)]
    return there.like(needed)


def true_edges(case: Case, ablation: str, *, least: float = 1e-3) -> Edges:
    """Find the edges that a hand-written model needs for its answers.

    Of the edges that its weights have at all, those without which the metric of some prompt
    changes. Tests prove that they alone keep every metric, so they are a circuit, and the least.

    Args:
        case: The model and its prompts.
        ablation: What a cut edge carries instead.
        least: Changes up to this are rounding.

    Returns:
        `Edges` of bool.

    Example:
        >>> from hagd_jax.causal import named_edges
        >>> case = hagd.testbeds.hand_built()[0]
        >>> named_edges(case.model.config, true_edges(case, "counterfactual"))[0]
        Edge(writer='embed', reader='head 0.0', input='k')
    """
    parts, among = components(case.model), program_edges(case.model)
    places = np.flatnonzero(among.flat())
    found = behaviour(
        case.model,
        case.prompts,
        [parts.space.without(int(place)) for place in places],
        ablation=Ablation(ablation, case.prompts),
        dictionary=parts,
        batch_size=len(case.prompts),
        with_model=True,
    ).metric
    needed = np.zeros(len(among.flat()), bool)
    needed[places] = np.abs(found[1:] - found[0]).max(1) > least
    return among.like(needed)
