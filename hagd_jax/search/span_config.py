"""How the units of a circuit are split by span."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import require_number
from hagd_jax.search.unit_config import TRAINED, ablations_of


@dataclasses.dataclass(frozen=True)
class SpanConfig:
    """Configure the split of units by span.

    Attributes:
        ablations: What is outside the circuit is set to. Under each of them the loss must stay
            within the tolerance.
        prompts: Prompts that circuits are measured on, the first ones; means and partners are taken
            from all.
        tolerance: Largest increase of the loss over that of the circuit that is split, as a share
            of the empty circuit's loss under the same ablation. A larger value leaves out more.
        at_once: Share of the pairs of a unit and a span that leave in one round, rounded down, and
            at least one. Fewer leave where together they cost more than twice what each of them
            costs alone; near the tolerance one leaves at a time.
        batch_size: Prompts in one call.
        metric: Weight of the squared error of the metric, beside KL.
        most: Largest number of circuits that may be measured. A first pass that could measure more
            is refused; the last pass, of one pair at a time, ends there.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> SpanConfig(ablations=("mean", "zero"), tolerance=0.02).at_once
        0.15
    """

    ablations: tuple[str, ...] = TRAINED
    prompts: int = 64
    tolerance: float = 0.01
    at_once: float = 0.15
    batch_size: int = 64
    metric: float = 1.0
    most: int = 20_000

    def __post_init__(self):
        object.__setattr__(self, "ablations", ablations_of(self.ablations))
        require_number("tolerance", self.tolerance, least=0, most=1)
        require_number("at_once", self.at_once, least=0, below=1)
        for field in ("prompts", "batch_size", "most"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("metric", self.metric, least=0)

    def leaving(self, members: int, size: int) -> int:
        """Return how many pairs may leave in a round, of so many, on the way to a size."""
        return min(max(1, int(self.at_once * members)), members - size)
