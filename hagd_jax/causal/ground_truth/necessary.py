"""Which edges a behaviour needs, found by cutting each of them alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hagd_jax.causal.ablation import behaviour
from hagd_jax.causal.components import components
from hagd_jax.interventions import Edges
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.tasks.base import Prompts

_AT_ONCE = 256


class Edge(NamedTuple):
    """One edge, by names.

    Attributes:
        writer: `embed`, `head 3.0` or `mlp 2`.
        reader: The same, or `logits`.
        input: `q`, `k`, `v`, `mlp` or `logits`.
    """

    writer: str
    reader: str
    input: str


def necessary_edges(
    model: LanguageModel,
    prompts: Iterable[Prompts],
    ablation: str,
    *,
    candidates: tuple[int, ...] | None = None,
    batch_size: int = 512,
    seeds: int = 3,
) -> Edges:
    """Edges without which some answer changes.

    Args:
        model: The model.
        prompts: Where to look: prompts of one length each, as models that read both ways need.
        ablation: What a cut edge carries instead; see `behaviour`.
        candidates: The tokens that answers compete with.
        batch_size: Prompts in one call.
        seeds: Pairings that are tried for `resample`.

    Returns:
        `Edges` of bool.

    Example:
        >>> found = compile_program(PROGRAMS["reverse"])
        >>> prompts = [compiled_prompts(found, length) for length in (1, 2, 3, 4)]
        >>> int(necessary_edges(found.model, prompts, "zero").count())
        10
    """
    parts = components(model)
    there = parts.space
    places = np.flatnonzero(there.flat())
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
                    ablation=ablation,
                    dictionary=parts,
                    candidates=candidates,
                    reference=batch,
                    batch_size=min(batch_size, len(batch)),
                    seed=seed,
                )
                needed[chosen] |= ~found.match.all(1)[: len(chosen)]
    return there.like(needed)


def named_edges(config: DecoderConfig, edges: Edges) -> list[Edge]:
    """The true ones by name, readers from the bottom up.

    Args:
        config: The decoder's.
        edges: `Edges` of bool.

    Returns:
        Their names.
    """
    writers = ["embed"]
    writers += [f"head {i}.{h}" for i in range(config.n_layers) for h in range(config.n_heads)]
    writers += [f"mlp {i}" for i in range(config.n_layers)]
    found = []
    for layer in range(config.n_layers):
        for input_ in ("q", "k", "v"):
            rows = np.asarray(getattr(edges, input_)[layer])
            found += [Edge(writers[w], f"head {layer}.{h}", input_) for h, w in np.argwhere(rows)]
        own = np.flatnonzero(np.asarray(edges.mlp[layer]))
        found += [Edge(writers[w], f"mlp {layer}", "mlp") for w in own]
    last = np.flatnonzero(np.asarray(edges.final))
    return found + [Edge(writers[w], "logits", "logits") for w in last]
