"""How nodes are eliminated from a circuit."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import InputError, require_index, require_is, require_number
from hagd_jax.search.unit_config import TRAINED, ablations_of


@dataclasses.dataclass(frozen=True)
class EliminateConfig:
    """Configure a backward elimination.

    Attributes:
        ablations: What nodes outside the circuit are set to. The largest loss over these ablations
            decides, in nats: as a share of the empty circuit's loss, an error under counterfactual
            ablation would count less than the same error under zero ablation.
        at_once: Share of the circuit that leaves in one round, rounded down, and at least one node.
            Fewer leave where together they cost more than twice what each of them costs alone.
        swaps: Largest number of swaps at the end; 0 for none.
        entering: Number of nodes that are tried as new members in each swap, those that help most
            alone; each is measured with every member that could leave.
        batch_size: Prompts in one call.
        metric: Weight of the squared error of the metric, beside KL.
        least: A swap must lower the loss by this share of it.
        most: Largest number of circuits that may be measured; a plan for more is refused.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> EliminateConfig(ablations=("mean",), swaps=0).at_once
        0.15
    """

    ablations: tuple[str, ...] = TRAINED
    at_once: float = 0.15
    swaps: int = 8
    entering: int = 4
    batch_size: int = 256
    metric: float = 1.0
    least: float = 1e-3
    most: int = 20_000

    def __post_init__(self):
        object.__setattr__(self, "ablations", ablations_of(self.ablations))
        require_number("at_once", self.at_once, least=0, below=1)
        require_number("swaps", self.swaps, least=0, whole=True)
        for field in ("entering", "batch_size", "most"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("metric", "least"):
            require_number(field, getattr(self, field), least=0)

    def leaving(self, members: int, size: int) -> int:
        """Return how many of the members may leave in a round on the way to a size."""
        return min(max(1, int(self.at_once * members)), members - size)


def elimination_cost(
    total: int, members: int, size: int, config: EliminateConfig = EliminateConfig()
) -> int:
    """Count the circuits that an elimination measures if every round removes all that it may.

    That is about (members − size) / at_once; with one node a round about (members² − size²) / 2.
    Each is measured under every ablation on every prompt.

    Args:
        total: Number of nodes of the dictionary.
        members: Number of nodes of the circuit at first.
        size: Number of nodes at the end.
        config: How nodes are eliminated.

    Returns:
        The number of circuits, all swaps included.

    Raises:
        InputError: If the numbers are not 0 ≤ size ≤ members ≤ total.

    Example:
        >>> one = EliminateConfig(at_once=0)
        >>> elimination_cost(260, 260, 32), elimination_cost(260, 260, 32, one)
        (4439, 36252)
    """
    require_is("config", config, EliminateConfig)
    for name, value in {"total": total, "members": members, "size": size}.items():
        require_index(name, value)
    if not 0 <= size <= members <= total:
        raise InputError("sizes", got=(total, members, size), expected="total ≥ members ≥ size ≥ 0")
    cost, now = 2, members
    while now > size:
        leaving = config.leaving(now, size)
        cost += now + (leaving > 1)
        now -= leaving
    entering = min(config.entering, total - size)
    return cost + config.swaps * (total - size + entering * size)
