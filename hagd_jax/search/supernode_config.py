"""How masks over heads and supernodes of MLPs are trained."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import ConfigError, require_number
from hagd_jax.search.unit_config import ablations_of


@dataclasses.dataclass(frozen=True)
class SupernodeConfig:
    """Configure how masks over heads and supernodes are trained.

    Attributes:
        steps: Number of Adam steps.
        learning_rate: Adam's learning rate, on the logits of all gates; on the last plateau it
            falls to a tenth.
        batch_size: Prompts in a step, each with a mask of its own; they are divided evenly among
            the ablations, so there are at least as many.
        start: Expected units and leaves at first, as a share of all of them.
        plateau: Share of the steps in which sizes stay at the requested ones, divided evenly among
            them; in the other steps they fall geometrically. Circuits are read from the mean of the
            logits over the later two thirds of their plateau.
        ablations: What closed leaves are set to, of `counterfactual`, `mean`, `resample` and
            `zero`.
        draws: Number of partners of each prompt among which every step chooses, for `resample`.
        temperature: Ablations are weighted by softmax(r / (temperature · mean r)), where r are the
            running losses. Near 0 the worst ablation alone sets the gradient; a large number
            weights all equally.
        memory: Decay of the running losses a step: r ← memory · r + (1 − memory) · loss.
        superset: Share of the prompts on which closed leaves are opened at random beside the mask,
            so that circuits tolerate additional leaves; 0 for none.
        opened: Probability with which each closed leaf is opened there.
        metric: Weight of the squared error of the metric, beside KL.
        check_every: Number of steps that run as one compiled scan.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> SupernodeConfig(steps=200, ablations=("mean", "resample")).ablations
        ('mean', 'resample')
    """

    steps: int = 240
    learning_rate: float = 0.2
    batch_size: int = 9
    start: float = 0.8
    plateau: float = 0.4
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample")
    draws: int = 8
    temperature: float = 10.0
    memory: float = 0.9
    superset: float = 0.0
    opened: float = 0.1
    metric: float = 1.0
    check_every: int = 10

    def __post_init__(self):
        for field in ("steps", "batch_size", "draws", "check_every"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("learning_rate", "temperature"):
            require_number(field, getattr(self, field), above=0)
        for field in ("start", "plateau"):
            require_number(field, getattr(self, field), above=0, most=1)
        require_number("memory", self.memory, least=0, below=1)
        for field in ("superset", "opened"):
            require_number(field, getattr(self, field), least=0, most=1)
        require_number("metric", self.metric, least=0)
        object.__setattr__(self, "ablations", ablations_of(self.ablations))
        if self.batch_size < len(self.ablations):
            expected = f"{len(self.ablations)} or more, one for each ablation"
            raise ConfigError("batch_size", got=self.batch_size, expected=expected)
