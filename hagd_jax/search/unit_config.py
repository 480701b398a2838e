"""How masks over heads and supernodes are trained, and circuits of units repaired and pruned."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import ConfigError, require_choice, require_flag, require_list, require_number

# What a search can set closed leaves to, in the order in which a step's prompts are divided.
TRAINED = ("counterfactual", "mean", "resample", "zero")


@dataclasses.dataclass(frozen=True)
class UnitMaskConfig:
    """Configure how masks over heads and supernodes are trained.

    Attributes:
        steps: Number of Adam steps.
        learning_rate: Adam's learning rate, on the logits of all gates; on the last plateau it
            falls to a tenth.
        batch_size: Prompts in a step, each with a mask of its own; they are divided evenly among
            the ablations, so there are at least as many.
        start: Expected units and leaves at first, as a share of all of them.
        plateau: Share of the steps in which sizes stay at the requested ones, half of them at the
            last one; in the other steps they fall geometrically. Circuits are read from the mean of
            the logits over the later two thirds of their plateau.
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
        signed: Whether leaves of negative scores begin as the unlikeliest ones, as membership
            scores ask for. By default the absolute value counts: what works against the behaviour
            belongs to its circuit, too.
        sharpness: What logits are multiplied by before noise is added, from 1 to 100: the larger,
            the less noise gates have.
        last_sharpness: The same at the end of the last plateau, where it rises geometrically, so
            that masks end as the circuit that is read from them.
        metric: Weight of the squared error of the metric, beside KL.
        heads_each: Heads that count as a unit, 1 or more: those of a block are one, but a reader
            takes them in one by one. So a circuit of U units has at most heads_each · U heads.
        check_every: Number of steps that run as one compiled scan.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> UnitMaskConfig(steps=200, ablations=("mean", "resample")).ablations
        ('mean', 'resample')
    """

    steps: int = 240
    learning_rate: float = 0.08
    batch_size: int = 9
    start: float = 0.8
    plateau: float = 0.5
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample")
    draws: int = 8
    temperature: float = 10.0
    memory: float = 0.9
    superset: float = 0.0
    opened: float = 0.1
    signed: bool = False
    sharpness: float = 4.0
    last_sharpness: float = 20.0
    metric: float = 1.0
    heads_each: float = 1.0
    check_every: int = 10

    def __post_init__(self):
        for field in ("steps", "batch_size", "draws", "check_every"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("learning_rate", "temperature"):
            require_number(field, getattr(self, field), above=0)
        require_number("heads_each", self.heads_each, least=1)
        for field in ("start", "plateau"):
            require_number(field, getattr(self, field), above=0, most=1)
        require_number("memory", self.memory, least=0, below=1)
        for field in ("superset", "opened"):
            require_number(field, getattr(self, field), least=0, most=1)
        require_number("metric", self.metric, least=0)
        require_flag("signed", self.signed)
        require_number("sharpness", self.sharpness, least=1, most=100)
        require_number("last_sharpness", self.last_sharpness, least=self.sharpness, most=100)
        object.__setattr__(self, "ablations", ablations_of(self.ablations))
        if self.batch_size < len(self.ablations):
            expected = f"{len(self.ablations)} or more, one for each ablation"
            raise ConfigError("batch_size", got=self.batch_size, expected=expected)


@dataclasses.dataclass(frozen=True)
class UnitRepairConfig:
    """Configure how a circuit of units is repaired.

    Attributes:
        rounds: Largest number of rounds; each takes the best of the changes that it measured.
        proposals: Largest number of changes of each kind (merges, splits, swaps, additions
            and drops) that a round measures.
        batch_size: Prompts in one call.
        ablations: Those whose worst loss is made smaller, each as a share of the empty circuit's.
        leaf_weight: What a leaf costs in circuits whose size is a cost: units + leaf_weight ·
            leaves.
        metric: Weight of the squared error of the metric, beside KL.
        least: A change must lower the worst loss by this share of it.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> UnitRepairConfig(rounds=3).proposals
        8
    """

    rounds: int = 4
    proposals: int = 8
    batch_size: int = 32
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample")
    leaf_weight: float = 0.02
    metric: float = 1.0
    least: float = 1e-3

    def __post_init__(self):
        for field in ("rounds", "proposals"):
            require_number(field, getattr(self, field), least=0, whole=True)
        require_number("batch_size", self.batch_size, least=1, whole=True)
        require_number("leaf_weight", self.leaf_weight, above=0)
        for field in ("metric", "least"):
            require_number(field, getattr(self, field), least=0)
        object.__setattr__(self, "ablations", ablations_of(self.ablations))


@dataclasses.dataclass(frozen=True)
class UnitPruneConfig:
    """Configure how units that add too little are left out of a circuit.

    Attributes:
        least: What leaving a unit out must add at least, as a share of what the circuit takes off
            the empty circuit's loss; in an extraction 0 prunes nothing.
        prompts: Prompts that circuits are measured on, at most.
        batch_size: Prompts in one call.
        ablations: Those over which what a unit adds is averaged; None for counterfactual, mean and
            resample, or in an extraction for those of its search.
        metric: Weight of the squared error of the metric, beside KL.

    Raises:
        ConfigError: If a field is out of range.

    Example:
        >>> UnitPruneConfig(least=0.01).prompts
        32
    """

    least: float = 2e-3
    prompts: int = 32
    batch_size: int = 32
    ablations: tuple[str, ...] | None = None
    metric: float = 1.0

    def __post_init__(self):
        for field in ("prompts", "batch_size"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("least", self.least, least=0, below=1)
        require_number("metric", self.metric, least=0)
        if self.ablations is not None:
            object.__setattr__(self, "ablations", ablations_of(self.ablations))


def ablations_of(given: object) -> tuple[str, ...]:
    """Read distinct ablations that a search can train under.

    Raises:
        ConfigError: If there is none, one twice, or one that it cannot.
    """
    if isinstance(given, str):
        given = (given,)
    names = require_list("ablations", given, "names of ablations")
    for name in names:
        require_choice("ablations", name, TRAINED)
    if not names or len(set(names)) < len(names):
        raise ConfigError("ablations", got=tuple(names), expected="one or more, each once")
    return tuple(names)
