"""What the metric of a task loses when one unit alone is ablated."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.errors import require_is, require_list
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.tasks.batching import summed
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Dictionary, Nodes, Source, Unit, as_dictionary

# The least change that counts, as a share of the metric itself.
_LEAST = 1e-3


def necessity(
    model: LanguageModel,
    prompts: Prompts,
    units: Sequence[Unit],
    *,
    dictionary: Source | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Measure the share of a task's metric that each unit alone is needed for.

    Σ_p (m_p(model) − m_p(unit u at its counterfactual values)) / C, where all else is what it is in
    the model, and C = Σ_p |m_p(model) − m_p(model on the counterfactual)|; but C is no less than
    10⁻³ Σ_p |m_p(model)|, since effects have no scale where the counterfactual changes nothing.
    For heads and neurons it is the column `necessity` of `signatures`.

    Args:
        model: The model.
        prompts: Clean prompts with counterfactuals.
        units: U units of the dictionary.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        batch_size: Prompts in one call.

    Returns:
        (U,) float64; negative for a unit that works against the behaviour.

    Raises:
        InputError: If the units, the prompts or the dictionary do not fit the model.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> head = next(name for name, role in case.roles.items() if role == "induction")
        >>> unit = hagd.units.tree(case.model).unit(head)
        >>> bool(necessity(case.model, case.prompts, [unit])[0] > 0.5)
        True
    """
    require_is("model", model, LanguageModel)
    units = require_list("units", units, "units of the dictionary")
    nodes, bare = as_dictionary(model, dictionary), model.bare()
    level, lost = alone(model, prompts, nodes, units, "counterfactual", batch_size)
    changed = summed(
        model, prompts, batch_size, lambda batch, weight: _changed(bare, batch, weight)
    )
    return lost.sum(1) / scale(float(changed), level)


def alone(
    model: LanguageModel,
    prompts: Prompts,
    dictionary: Dictionary,
    units: Sequence[Unit],
    ablation: str,
    batch_size: int,
) -> tuple[float, np.ndarray]:
    """Measure what the metric loses on each prompt when a unit alone is ablated.

    Args:
        model: The model.
        prompts: N prompts.
        dictionary: The nodes that units hold.
        units: U units.
        ablation: `counterfactual` or `mean`.
        batch_size: Prompts in one call.

    Returns:
        Σ |m(model)|, and (U, N) losses.
    """
    masks = []
    for unit in units:
        kept = np.ones(dictionary.space.nodes, bool)
        kept[unit.places()] = False
        masks.append(Nodes.from_flat(dictionary.space, kept))
    found = behaviour(
        model, prompts, masks, ablation=Ablation(ablation), dictionary=dictionary,
        batch_size=batch_size, with_model=True,
    )  # fmt: skip
    metric = np.asarray(found.metric, np.float64)
    return float(np.abs(metric[0]).sum()), metric[0] - metric[1:]


def scale(changed: float, level: float) -> float:
    """Return what effects are shares of, see `necessity`.

    Args:
        changed: Σ |m(clean) − m(counterfactual)|.
        level: Σ |m(clean)|.
    """
    return max(changed, _LEAST * level, 1e-9)


def shift(model: LanguageModel, batch: Prompts) -> jax.Array:
    """Compute (N,) m(clean) − m(counterfactual), inside a compiled function."""
    clean, other = (
        batch.metric(forward(model, batch.inputs(side), read=jnp.maximum(batch.reads, 0)).logits)
        for side in ("clean", "corrupted")
    )
    return clean - other


@jax.jit
def _changed(model: LanguageModel, batch: Prompts, weight: jax.Array) -> jax.Array:
    return replicate(jnp.abs(shift(model, batch)) @ weight, model.mesh)
