"""The heads and MLPs of a model: what signatures of its units are standardised by."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import require_config, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.roles import SignatureConfig, Signatures, signatures
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.transfer.config import PortraitConfig
from hagd_jax.units import Unit, neurons
from hagd_jax.units import tree as tree_of

# A column that is further from its mean, in standard deviations, says no more than that it is far.
FAR = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """A population holds what is usual among the heads and MLPs of a model on a task.

    Attributes:
        mean: (K,) of each column of signatures, over the units that know it.
        deviation: (K,) likewise; infinite where all units are the same.
        size: Number of heads and MLPs that were measured.
        seen: The data that was looked at.
    """

    mean: np.ndarray
    deviation: np.ndarray
    size: int
    seen: Seen

    __repr__ = one_line

    @classmethod
    def of(cls, found: Signatures) -> Population:
        """Take units that were measured as what is usual.

        Args:
            found: Their signatures.
        """
        return cls(*found.usual(), len(found), found.seen)

    def standardise(self, found: Signatures) -> np.ndarray:
        """Return (U, K) signatures in standard deviations from the mean, at most 3 of them.

        Args:
            found: As measured.

        Returns:
            float64; 0 where a unit does not know a column.
        """
        apart = (found.values.astype(np.float64) - self.mean) / self.deviation
        return np.clip(apart, -FAR, FAR) * found.known


def population(
    model: LanguageModel, task: Task | Prompts, config: PortraitConfig = PortraitConfig()
) -> Population:
    """Measure the heads and MLPs of a model on a task.

    Args:
        model: The model.
        task: A task with counterfactuals, or prompts.
        config: How signatures are measured, and of how many units.

    Returns:
        The population, for several portraits of the same model and task.

    Raises:
        InputError: If the prompts do not fit the model.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> population(case.model, case.prompts).size  # three layers of four heads and an MLP
        15
    """
    require_config("config", config, PortraitConfig)
    return Population.of(measured(model, task, _drawn(model, config), config))


def measured(
    model: LanguageModel, task: Task | Prompts, units: tuple[Unit, ...], config: PortraitConfig
) -> Signatures:
    """Measure signatures as a portrait's configuration says.

    Args:
        model: The model.
        task: A task with counterfactuals, or prompts.
        units: Heads, neurons, and what is made of them.
        config: How they are measured.

    Returns:
        The signatures, not standardised.
    """
    how = SignatureConfig(config.split, config.prompts, config.rows, config.batch_size)
    return signatures(model, task, units, how, key=jax.random.key(config.seed))


def stand_ins(model: LanguageModel) -> tuple[Unit, ...]:
    """List all heads and MLPs of a model, which may stand in for the units of a circuit.

    Args:
        model: The model.

    Returns:
        The heads, layer by layer, then the MLPs.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> [unit.name for unit in stand_ins(case.model)][-4:]
        ['head 2.3', 'mlp 0', 'mlp 1', 'mlp 2']
    """
    require_is("model", model, LanguageModel)
    tree, space = tree_of(model), neurons(model).space
    names = [f"head {layer}.{head}" for layer in range(space.layers) for head in range(space.heads)]
    return tuple(map(tree.unit, [*names, *(f"mlp {layer}" for layer in range(space.layers))]))


def _drawn(model: LanguageModel, config: PortraitConfig) -> tuple[Unit, ...]:
    """All heads and MLPs, or a draw of them."""
    every, rng = stand_ins(model), np.random.default_rng([config.seed, 1])
    return tuple(every[i] for i in np.sort(rng.permutation(len(every))[: config.population]))
