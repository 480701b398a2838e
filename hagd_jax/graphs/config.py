"""How an attribution graph is computed."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import require, require_number


@dataclasses.dataclass(frozen=True)
class AttributionConfig:
    """Configure what an attribution graph holds and how it is computed.

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
            require_number(field, getattr(self, field), least=1, whole=True)
        require(
            isinstance(self.skip_positions, tuple),
            "skip_positions",
            got=repr(self.skip_positions),
            expected="a tuple of positions",
        )
        for position in self.skip_positions:
            require_number("skip_positions", position, least=0, whole=True)
        if self.edges_per_node is not None:
            require_number("edges_per_node", self.edges_per_node, least=1, whole=True)
        require_number("logit_mass", self.logit_mass, above=0, most=1)
        if self.memory_gb is not None:
            require_number("memory_gb", self.memory_gb, above=0)
