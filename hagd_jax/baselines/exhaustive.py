"""Brute force: every circuit of a small model, measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.search import RepairConfig, measured_losses
from hagd_jax.search.parts import Parts, count, unflat
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Edges, Nodes, parts_of

MOST = 20
_AT_ONCE = 2048


class Exhaustive(NamedTuple):
    """All 2^N circuits.

    Attributes:
        members: (2^N, N) bool; row i holds the bits of i, the first node's lowest.
        losses: (2^N,) float64, as `search.measured_losses`.
    """

    members: np.ndarray
    losses: np.ndarray

    __repr__ = one_line

    def best(self, size: int) -> int:
        """The row with the least loss among circuits of a size."""
        own = np.flatnonzero(self.members.sum(1) == size)
        return int(own[self.losses[own].argmin()])


def exhaustive(
    model: LanguageModel,
    prompts: Prompts,
    config: RepairConfig = RepairConfig(),
    *,
    dictionary: Parts | Transcoder | None = None,
    ablation: str = "counterfactual",
) -> Exhaustive:
    """Measure all circuits.

    Args:
        model: A model of at most 20 nodes or edges.
        prompts: Where to measure.
        config: Batches and the weight of the metric.
        dictionary: What the nodes inside MLPs are, or the model's `components`.
        ablation: What closed parts are set to.

    Returns:
        Every circuit and its loss.

    Raises:
        InputError: If there are more nodes.

    Example:
        >>> found = exhaustive(case.model, case.prompts)
        >>> found.members[found.best(3)]
    """
    parts = parts_of(model, dictionary)
    total = count(parts)
    if total > MOST:
        raise InputError("model", got=f"{total} nodes", expected=f"at most {MOST} to try all")
    members = (np.arange(2**total)[:, None] >> np.arange(total)) & 1 > 0
    losses = []
    for start in range(0, len(members), _AT_ONCE):
        some: list[Nodes | Edges] = [
            unflat(parts, row) for row in members[start : start + _AT_ONCE]
        ]
        losses.append(
            measured_losses(model, prompts, some, config, dictionary=parts, ablation=ablation)
        )
    return Exhaustive(members, np.concatenate(losses))
