"""How circuits are portrayed, and how portraits are matched."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import require_number
from hagd_jax.search.unit_config import ablations_of
from hagd_jax.tasks.definition import require_split


@dataclasses.dataclass(frozen=True)
class PortraitConfig:
    """Configure how units, and the edges between them, are measured.

    Attributes:
        split: Split of the task whose prompts are read.
        prompts: Most prompts of it, the first ones.
        rows: Synthetic prompts.
        population: Most heads and MLPs of the model by whose signatures those of units are
            standardised; of more, that many are drawn.
        edges: Most pairs of units whose edges are measured, by closing them alone; a circuit with
            more is refused, since shares of some of them would mislead. With 0 there is no
            structure.
        ablations: What closed edges, and everything outside the circuit, carry: effects are
            averaged over these ablations.
        batch_size: Prompts in one call.
        seed: Of the draw, of the synthetic prompts, and of `resample`.

    Raises:
        ConfigError: If a number is out of range, or there is no such ablation.
        InputError: If there is no such split.

    Example:
        >>> PortraitConfig(prompts=16).ablations
        ('counterfactual', 'mean')
    """

    split: str = "discover"
    prompts: int = 32
    rows: int = 96
    population: int = 128
    edges: int = 4096
    ablations: tuple[str, ...] = ("counterfactual", "mean")
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self):
        require_split(self.split)
        for field in ("prompts", "rows", "batch_size"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("population", self.population, least=2, whole=True)
        require_number("edges", self.edges, least=0, whole=True)
        object.__setattr__(self, "ablations", ablations_of(self.ablations))
        require_number("seed", self.seed, least=0, whole=True)


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Configure how the units of two circuits are matched.

    Attributes:
        structure: Weight of the structure, beside that of the roles: from 0, for roles alone, to
            below 1.
        least: Pairs that are less similar than this stay unmatched.
        steps: Numbers of units to match that are tried: all of the smaller circuit's, and shares of
            them in equal steps down.
        shuffles: How often `compare` lets signatures of the second circuit change places.
        seed: Of these permutations.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> MatchConfig(structure=0).least
        0.25
    """

    structure: float = 0.5
    least: float = 0.25
    steps: int = 10
    shuffles: int = 99
    seed: int = 0

    def __post_init__(self):
        require_number("structure", self.structure, least=0, below=1)
        require_number("least", self.least, least=0, below=1)
        require_number("steps", self.steps, least=1, whole=True)
        for field in ("shuffles", "seed"):
            require_number(field, getattr(self, field), least=0, whole=True)
