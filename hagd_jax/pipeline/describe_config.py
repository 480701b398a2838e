"""How the units of a found circuit are described."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import require, require_number
from hagd_jax.search.discoveries import MOST_SUBSETS


@dataclasses.dataclass(frozen=True)
class DescribeConfig:
    """Configure how the role, the necessity and the certified radius of each unit are measured.

    They are shown beside the circuit, and do not change which nodes are in it.

    Attributes:
        prompts: Prompts of the discover split that are scored for the certificate, drawn at random;
            more certify larger radii. With 0 units are not described; one prompt has no others to
            be compared with.
        ablated: How many of these each unit is ablated alone on, for role and necessity; more take
            longer, as each costs two forward passes a unit.
        most: Largest circuit that is described, in units: each of them is ablated alone.
        subsets: Random subsets of these prompts from which units are discovered again, for the
            certificate, at most 100,000; more make its bounds tighter.
        kept: Prompts in each subset; fewer give larger radii and noisier discoveries.
        threshold: Share of discoveries above which a unit is in the core.
        alpha: Probability that the bound of any unit fails; a smaller one gives smaller radii.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> DescribeConfig(prompts=0).prompts
        0
    """

    prompts: int = 16
    ablated: int = 8
    most: int = 256
    subsets: int = 1000
    kept: int = 4
    threshold: float = 0.5
    alpha: float = 0.05

    def __post_init__(self):
        for field, least in (
            ("prompts", 0),
            ("ablated", 2),
            ("most", 1),
            ("subsets", 1),
            ("kept", 1),
        ):
            require_number(field, getattr(self, field), least=least, whole=True)
        require(self.prompts != 1, "prompts", got=1, expected="0, or 2 or more")
        require_number("subsets", self.subsets, most=MOST_SUBSETS)
        require_number("threshold", self.threshold, least=0, below=1)
        require_number("alpha", self.alpha, above=0, below=1)
