"""Masks over nodes, or over edges, each by itself: the mask search without levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hagd_jax.models import LanguageModel
from hagd_jax.search import MaskConfig, Searched, search_masks
from hagd_jax.search.parts import Given, count, unflat
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Parts, Scores, Source, parts_of


def node_masks(
    model: LanguageModel,
    prompts: Prompts,
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    scores: Given | None = None,
    dictionary: Parts | Source | None = None,
    seed: int = 0,
) -> Searched:
    """Train a hard-concrete mask for every node, with no cluster above it.

    Node masks of this kind are those of De Cao et al., 2021 (arXiv:2112.06837), here at an expected
    size that is held exactly. What this leaves out of `search.search_masks` is the tree alone, so
    that the two differ by what the hierarchy adds.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        sizes: Circuit sizes to return.
        config: How masks are trained.
        scores: Where masks begin; all alike if None.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`, for masks over edges.
        seed: Seed of batches and noise.

    Returns:
        Circuits of all sizes.

    Raises:
        InputError: If a size is not from 1 to the number of nodes, or something does not fit.

    Example:
        >>> from hagd_jax.baselines import node_masks
        >>> case = hagd.testbeds.hand_built()[0]
        >>> found = node_masks(case.model, case.prompts, [4], MaskConfig(steps=20))
        >>> len(found.circuits[4])
        4
    """
    if scores is None:
        parts = parts_of(model, dictionary)
        scores = Scores(unflat(parts, np.zeros(count(parts), np.float32)), Seen.nothing())
    return search_masks(model, prompts, scores, sizes, config, dictionary=dictionary, seed=seed)
