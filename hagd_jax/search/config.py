"""How masks are trained, and how circuits are repaired."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import require_number


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """Configure how masks are trained.

    Attributes:
        steps: Number of Adam steps.
        learning_rate: Adam's learning rate, on logits.
        batch_size: Prompts in a step, each with a mask of its own.
        start: Share of all nodes that are expected to be open at first.
        shrinking: Share of the steps in which the expected size falls, geometrically, to the
            smallest one asked for.
        opening: Share of the steps until the last level of a tree has joined.
        mean: Share of the prompts of a step whose closed nodes are set to the mean of their group
            instead of the counterfactual, so that circuits do not depend on one ablation.
        metric: Weight of the squared error of the metric, beside KL.
        check_every: Number of steps that run as one compiled scan.
    """

    steps: int = 140
    learning_rate: float = 0.2
    batch_size: int = 8
    start: float = 0.8
    shrinking: float = 0.9
    opening: float = 0.1
    mean: float = 0.0
    metric: float = 1.0
    check_every: int = 10

    def __post_init__(self):
        for field in ("steps", "batch_size", "check_every"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("learning_rate", self.learning_rate, above=0)
        for field in ("start", "shrinking", "opening"):
            require_number(field, getattr(self, field), above=0, most=1)
        require_number("mean", self.mean, least=0, most=1)
        require_number("metric", self.metric, least=0)


@dataclasses.dataclass(frozen=True)
class RepairConfig:
    """Configure how a circuit is repaired.

    Attributes:
        rounds: Largest number of rounds; each takes the best of the swaps that it measured.
        pairs: Number of members that may leave and of parts that may enter, each with each: pairs²
            circuits are measured a round. 0 measures swaps of many at once alone.
        batch_size: Prompts in one call.
        metric: Weight of the squared error of the metric, beside KL.
        mean: Share of the loss that is measured under mean ablation instead of the counterfactual,
            as in `MaskConfig`. None measures half of it under the mean if the circuit was found
            under mean ablation too, and none otherwise.
        least: A swap must lower the loss by this share of it.
    """

    rounds: int = 0
    pairs: int = 4
    batch_size: int = 32
    metric: float = 1.0
    mean: float | None = None
    least: float = 1e-4

    def __post_init__(self):
        for field in ("rounds", "pairs"):
            require_number(field, getattr(self, field), least=0, whole=True)
        require_number("batch_size", self.batch_size, least=1, whole=True)
        for field in ("metric", "least"):
            require_number(field, getattr(self, field), least=0)
        if self.mean is not None:
            require_number("mean", self.mean, least=0, most=1)


def shares(config: MaskConfig | RepairConfig) -> dict[str, float]:
    """Map each ablation to its share of the loss, leaving out shares of zero."""
    mean = config.mean or 0.0
    both = {"counterfactual": 1 - mean, "mean": mean}
    return {name: share for name, share in both.items() if share}
