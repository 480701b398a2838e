"""How an attribution graph is computed."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class AttributionConfig:
    """What the graph of one prompt holds, and in which steps it is computed.

    Attributes:
        max_feature_nodes: How many features become nodes: the most influential ones, found
            greedily. All active ones if there are no more.
        max_logits: At most so many output tokens are targets.
        logit_mass: The most likely tokens whose probabilities reach this sum are targets.
        batch_size: Targets whose gradients are computed in one call: memory grows with it.
        update_every: Features that are chosen before influence is estimated again. Fewer choose
            better, and cost one pass over the rows found so far each.
        skip_positions: Positions without features and errors; there the MLPs' own outputs are
            constants. By default the first, where models put BOS and park their attention.
        edges_per_node: Keep this many of the strongest edges into a node, and fold the rest into
            sums: totals stay exact, and scores count errors and embeddings among them, but weak
            edges from features are left out. None keeps every edge.
        memory_gb: Refuse a run that needs more; None allows what the machine has free.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> AttributionConfig(max_feature_nodes=512).logit_mass
        0.95
    """

    max_feature_nodes: int = 4096
    max_logits: int = 10
    logit_mass: float = 0.95
    batch_size: int = 64
    update_every: int = 512
    skip_positions: tuple[int, ...] = (0,)
    edges_per_node: int | None = None
    memory_gb: float | None = None

    def __post_init__(self):
        for field in ("max_feature_nodes", "max_logits", "batch_size", "update_every"):
            _require_whole(field, getattr(self, field), 1)
        for position in self.skip_positions:
            _require_whole("skip_positions", position, 0)
        if self.edges_per_node is not None:
            _require_whole("edges_per_node", self.edges_per_node, 1)
        if not 0 < self.logit_mass <= 1:
            raise ConfigError("logit_mass", got=self.logit_mass, expected="above 0, at most 1")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ConfigError("memory_gb", got=self.memory_gb, expected="above 0, or None")


def _require_whole(field: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(field, got=repr(value), expected=f"a whole number, {least} or more")
