"""Restarts: masks from several scores, each repaired, and the best by what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.search.mask_search import search_masks
from hagd_jax.search.parts import Parts
from hagd_jax.search.repair import RepairConfig, repair
from hagd_jax.search.schedule import MaskConfig
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Edges, Nodes


class Best(NamedTuple):
    """What restarts came to.

    Attributes:
        mask: The circuit of the least loss.
        kept: (N,) ranks of all nodes in the search that led to it.
        losses: Of every start, after repair.
    """

    mask: Any
    kept: Any
    losses: tuple[float, ...]

    __repr__ = one_line


def search_restarts(
    model: LanguageModel,
    prompts: Prompts,
    starts: Sequence[Nodes | Edges],
    size: int,
    config: MaskConfig = MaskConfig(),
    swaps: RepairConfig = RepairConfig(rounds=20),
    *,
    dictionary: Parts | Transcoder | None = None,
    seed: int = 0,
) -> Best:
    """Train masks from each of several scores, repair what they find, and keep the best.

    One search may end where no swap leads out, such as in half of a circuit of exclusive-or. The
    loss over the discovery prompts decides; of equals the first.

    Args:
        model: The model.
        prompts: To discover on.
        starts: Membership scores, one a restart; equal ones still differ in batches and noise.
        size: Of the circuit.
        config: How masks are trained.
        swaps: How circuits are repaired.
        dictionary: As in `search_masks`.
        seed: Of the first restart; the next ones count up.

    Returns:
        The best circuit.

    Raises:
        InputError: If there is no start, or it or the size does not fit.

    Example:
        >>> nothing = Nodes.full(space, 0.0)
        >>> search_restarts(model, prompts, [scores, nothing, nothing], 16).losses
        (0.021, 0.02, 1.38)
    """
    if not starts:
        raise InputError("starts", got="none", expected="one or more scores")
    found = []
    for number, scores in enumerate(starts):
        circuits, state = search_masks(
            model, prompts, scores, [size], config, dictionary=dictionary, seed=seed + number
        )
        better = repair(model, prompts, circuits[size], swaps, dictionary=dictionary)
        found.append((better.losses[-1], better.mask, state.kept[0]))
    losses = tuple(loss for loss, _, _ in found)
    _, mask, kept = found[losses.index(min(losses))]
    return Best(mask, kept, losses)
