"""What a search came to: the loss of circuits, measured, and whether it found anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hagd_jax.causal import ABLATIONS, Ablation, behaviour
from hagd_jax.errors import InputError, NoCircuitError, require_choice, require_list, shown
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run, require_spoken
from hagd_jax.search.config import MaskConfig, RepairConfig, shares
from hagd_jax.search.parts import Given, read_circuit
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Parts, Source, parts_of
from hagd_jax.units.rows import unflat

# A circuit that takes away less than this share of the empty circuit's loss is none.
GAIN = 0.05
# An empty circuit whose loss is below this does all that the model does.
_NOTHING = 1e-6


def measured_losses(
    model: LanguageModel,
    prompts: Prompts,
    masks: Sequence[Given],
    config: RepairConfig | MaskConfig = RepairConfig(),
    *,
    dictionary: Parts | Source | None = None,
    ablation: Ablation | str | None = None,
) -> np.ndarray:
    """Measure the search's loss of each circuit over all prompts.

    KL(model ‖ circuit) of the next token plus the weighted squared relative error of the metric.

    Args:
        model: The model.
        prompts: Where to measure.
        masks: K circuits.
        config: Batch size, weight of the metric, and the share under mean ablation.
        dictionary: As in `search_masks`.
        ablation: Ablation to measure under alone; those of the configuration if None, each with
            its share. Means and partners are taken from its reference, or the prompts themselves.

    Returns:
        (K,) float64 losses.

    Raises:
        InputError: If there is no circuit, or circuits or prompts do not fit the model, or the
            model says NaN or infinity on a prompt.
        ConfigError: If the ablation does not exist.

    Example:
        >>> from hagd_jax.search import measured_losses
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.units import Nodes, neurons
        >>> case = hand_built()[0]
        >>> everything = Nodes.full(neurons(case.model).space, True)
        >>> measured_losses(case.model, case.prompts, [everything]).tolist()
        [0.0]
    """
    require_run(model, prompts, config)
    parts, masks = parts_of(model, dictionary), require_list("masks", masks, "circuits")
    if not masks:
        raise InputError("masks", got="none", expected="at least one circuit")
    if ablation is not None and not isinstance(ablation, Ablation):
        require_choice("ablation", ablation, ABLATIONS)
    rows = [read_circuit(parts, mask)[0] for mask in masks]
    circuits = [unflat(parts, row) for row in rows]
    total = np.zeros(len(rows))
    for under, share in (shares(config) if ablation is None else {ablation: 1.0}).items():
        found = behaviour(
            model, prompts, circuits, dictionary=parts, batch_size=config.batch_size,
            ablation=under if isinstance(under, Ablation) else Ablation(under, prompts),
            with_model=True,
        )  # fmt: skip
        whole = np.asarray(found.metric[0], np.float64)
        require_spoken(~np.isfinite(whole))
        scale = whole.mean() if abs(whole.mean()) > 1e-3 else 1.0
        off = (((found.metric[1:] - whole) / scale) ** 2).mean(1)
        total += share * (np.asarray(found.kl[1:], np.float64).mean(1) + config.metric * off)
    return total


def is_found(loss: float, empty: float) -> bool:
    """Tell whether a circuit removes at least 5% of the empty circuit's loss.

    Args:
        loss: Of the circuit, see `measured_losses`.
        empty: Of the empty circuit, on the same prompts.

    Returns:
        False also if the empty circuit already does what the model does: then no circuit is needed;
        or if a loss is NaN, or the empty circuit's infinite.

    Raises:
        InputError: If a loss is no number.

    Example:
        >>> from hagd_jax.search import is_found
        >>> is_found(0.2, 1.4), is_found(1.38, 1.4), is_found(0.0, 0.0)
        (True, False, False)
    """
    for what, value in (("loss", loss), ("empty", empty)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise InputError(what, got=shown(value), expected="a loss in nats")
    # Of an infinite loss no share is more than another.
    return bool(_NOTHING < empty < np.inf and loss <= (1 - GAIN) * empty)


def require_found(
    loss: float,
    empty: float,
    what: str = "circuit",
    *,
    mend: str = "Search longer, for a larger circuit, from other scores or with several restarts.",
) -> None:
    """Refuse the result of a search that found no circuit.

    Args:
        loss: Of the circuit, see `measured_losses`.
        empty: Of the empty circuit.
        what: What the circuit is called in the message.
        mend: What the user can do about it.

    Raises:
        NoCircuitError: If the circuit does no more than the empty one, see `is_found`.
        InputError: If a loss is no number.

    Example:
        >>> from hagd_jax.search import require_found
        >>> require_found(0.2, 1.4)
    """
    if not is_found(loss, empty):
        raise NoCircuitError(
            what,
            got=f"a loss of {loss:.4g} on the discover split",
            expected=f"at most {1 - GAIN:.0%} of the empty circuit's, {empty:.4g}",
            mend=mend,
        )
