"""Brute force: every circuit of a small model, measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.search import RepairConfig, measured_losses
from hagd_jax.search.config import shares
from hagd_jax.search.parts import looked
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Parts, Selection, Source, parts_of
from hagd_jax.units.rows import count, unflat

MOST = 20
_AT_ONCE = 2048


class Exhaustive(NamedTuple):
    """An exhaustive table holds the measured losses of all 2^N circuits.

    Attributes:
        members: (2^N, N) bool; row i holds the bits of i, the first node's lowest.
        losses: (2^N,) float64, as `search.measured_losses`.
        parts: What the circuits consist of.
        seen: The prompts and ablations that they were measured on.
    """

    members: np.ndarray
    losses: np.ndarray
    parts: Parts
    seen: Seen

    __repr__ = one_line

    def best(self, size: int) -> int:
        """Return the row with the least loss among circuits of a size.

        Raises:
            InputError: If no circuit has that size.
        """
        own = np.flatnonzero(self.members.sum(1) == size)
        if not len(own):
            raise InputError("size", got=size, expected=f"0 to {self.members.shape[1]}")
        return int(own[self.losses[own].argmin()])

    def circuit(self, size: int) -> Selection:
        """Return the circuit with the least loss of a size, and the data that decided it."""
        return Selection(unflat(self.parts, self.members[self.best(size)]), self.seen)


def exhaustive(
    model: LanguageModel,
    prompts: Prompts,
    config: RepairConfig = RepairConfig(),
    *,
    dictionary: Parts | Source | None = None,
    ablation: str | None = None,
) -> Exhaustive:
    """Measure every one of the 2^N circuits of a small model.

    Args:
        model: A model of at most 20 nodes or edges.
        prompts: Where to measure.
        config: Batch size, weight of the metric, and the share under mean ablation.
        dictionary: What the nodes inside MLPs are, or the model's `components`.
        ablation: Ablation to measure under alone; those of the configuration if None.

    Returns:
        Every circuit and its loss.

    Raises:
        InputError: If there are more nodes.

    Example:
        >>> from hagd_jax.baselines import exhaustive
        >>> from hagd_jax.testbeds import hand_built
        >>> case = {case.name: case for case in hand_built()}["both"]
        >>> found = exhaustive(case.model, case.prompts)
        >>> len(found.losses), len(found.circuit(4))
        (1024, 4)
    """
    parts = parts_of(model, dictionary)
    total = count(parts)
    if total > MOST:
        raise InputError("model", got=f"{total} nodes", expected=f"at most {MOST} to try all",
                         mend="Use `search.search_masks`.")  # fmt: skip
    members = (np.arange(2**total)[:, None] >> np.arange(total)) & 1 > 0
    losses = []
    for start in range(0, len(members), _AT_ONCE):
        some = [unflat(parts, row) for row in members[start : start + _AT_ONCE]]
        losses.append(
            measured_losses(model, prompts, some, config, dictionary=parts, ablation=ablation)
        )
    under = (ablation,) if ablation else tuple(shares(config))
    seen = looked(model, prompts, dictionary, under)
    return Exhaustive(members, np.concatenate(losses), parts, seen)
