"""How edges between the units of a circuit are pruned."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import ConfigError, require_list, require_number
from hagd_jax.search.unit_config import ablations_of


@dataclasses.dataclass(frozen=True)
class UnitEdgeConfig:
    """Configure how edges between the units of a circuit are pruned.

    Attributes:
        ablations: Ablations under each of which the gates must hold, of `counterfactual`, `mean`,
            `resample` and `zero`. What closed edges carry is decided by them, so the verdict is
            read under others.
        margin: Share of every gate's tolerance that is kept in reserve for other prompts. With 0.2
            the distance from the model may be 24% of the empty circuit's, where the gate is 30%.
        steps: Points of the path at which gradients of the loss are taken, as values of all masks
            (EAP-IG over the mask, arXiv 2403.17806).
        rounds: Largest number of passes over the edges: the first goes by gradients, the others by
            the measured effect of closing each edge alone.
        exact: Largest number of edges that are measured alone in a round; of more, those with the
            weakest gradients.
        batch_size: Prompts in one call.
        seed: Pairs prompts for `resample`.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> UnitEdgeConfig(ablations=("mean",)).margin
        0.2
    """

    ablations: tuple[str, ...] = ("counterfactual", "mean")
    margin: float = 0.2
    steps: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    rounds: int = 3
    exact: int = 256
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "ablations", ablations_of(self.ablations))
        require_number("margin", self.margin, least=0, below=1)
        steps = tuple(require_list("steps", self.steps, "values of masks from 0 to 1"))
        for step in steps:
            require_number("steps", step, least=0, most=1)
        if not steps:
            raise ConfigError("steps", got="none", expected="values of masks from 0 to 1")
        object.__setattr__(self, "steps", steps)
        for field in ("rounds", "exact", "batch_size"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("seed", self.seed, least=0, whole=True)
