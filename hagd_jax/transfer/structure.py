"""The structure of a circuit: which of its units reads which, and how much of what it reads."""

from __future__ import annotations

import numpy as np

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transfer.config import PortraitConfig
from hagd_jax.units import Frame, Unit, UnitEdges, frame_of, neurons, wired


def edge_shares(
    model: LanguageModel, prompts: Prompts, units: tuple[Unit, ...], config: PortraitConfig
) -> np.ndarray:
    """Measure what share of what a unit reads comes from each of the others.

    The edge from s to r is closed, at all inputs of r together, while the rest of the circuit does
    what it does and everything outside is ablated. Its effect is the mean over prompts and
    ablations of |m(closed) − m(circuit)|, m being the metric. The share of s is its effect divided
    by the effects of all edges into r. Gradients would miss what saturates, such as attention that
    is sure of where to look.

    Args:
        model: The model.
        prompts: Where to measure.
        units: n units without a leaf in common, of heads and neurons.
        config: Ablations, and the largest number of pairs of units.

    Returns:
        (n + 2, n + 2) float64, row s and column r: the embedding, the units in their order, the
        logits. A column sums to 1, or is 0 where no edge into it has an effect.

    Raises:
        InputError: If there are more pairs, or the model is a mixture of experts.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree = hagd.units.tree(case.model)
        >>> units = tuple(map(tree.unit, ["attention 0", "mlp 0"]))
        >>> config = hagd.transfer.PortraitConfig(batch_size=81)
        >>> edge_shares(case.model, case.prompts, units, config).round(1)[:3, 1:].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    frame = frame_of(neurons(model).space, units, model.config.parallel_residual)
    pairs, which = np.unique(frame.ends, axis=0, return_inverse=True)
    if len(pairs) > config.edges:
        raise InputError(
            "circuit", got=f"{len(units)} units with {len(pairs):,} pairs that may be connected",
            expected=f"at most {config.edges:,} pairs",
            mend=f"Allow as many (--portrait.edges {len(pairs)}), or measure roles alone (0).",
        )  # fmt: skip
    parts = wired(model, frame)
    rows = np.ones((1 + len(pairs), len(frame)), bool)
    rows[1 + which.ravel(), np.arange(len(frame))] = False
    effect = np.zeros((len(units) + 2,) * 2)
    for name in config.ablations:
        found = behaviour(
            model, prompts, [UnitEdges(row) for row in rows],
            ablation=Ablation(name, prompts, config.seed), dictionary=parts,
            batch_size=config.batch_size,
        )  # fmt: skip
        metric = np.asarray(found.metric, np.float64)
        effect[tuple(pairs.T)] += np.abs(metric[1:] - metric[:1]).mean(1)
    return _in_order(_shares(effect), frame, units)


def _shares(effect: np.ndarray) -> np.ndarray:
    """Divide columns by their sums; effects that are rounding beside the largest are none."""
    effect = np.where(effect > 1e-6 * effect.max(initial=0), effect, 0)
    total = effect.sum(0)
    return effect / np.where(total > 0, total, np.inf)


def _in_order(shares: np.ndarray, frame: Frame, units: tuple[Unit, ...]) -> np.ndarray:
    """Rows and columns in the order of the units, where the frame has them from the bottom up."""
    at = {unit.ranges: 1 + i for i, unit in enumerate(frame.units)}
    order = [0, *(at[unit.ranges] for unit in units), len(units) + 1]
    return shares[np.ix_(order, order)]
