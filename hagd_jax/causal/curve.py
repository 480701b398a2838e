"""Faithfulness against circuit size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.causal.ablation import Ablation, behaviour
from hagd_jax.causal.judged import judged_prompts
from hagd_jax.causal.metrics import Estimate, accuracy, ratio_of_means
from hagd_jax.causal.statistics import SIZES, Areas, areas
from hagd_jax.causal.trials import existing
from hagd_jax.errors import require_is, require_list, require_number
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import AnyParts, Edges, Nodes, Source, Space, parts_of
from hagd_jax.units.checks import require_mask

# Nodes of a model: no file holds more, and a double counts no further.
_MOST = 1 << 53


class SizePoint(NamedTuple):
    """A size point is one circuit of a size sweep.

    Attributes:
        nodes: Its size, in nodes or edges.
        share: Its size as a share of all of them.
        faithfulness: Ratio of means with its interval.
        accuracy: With its interval.
        kl: Mean KL(model ‖ circuit), nats.
        units: Number of units that its nodes make up, for a circuit of units.
    """

    nodes: int
    share: float
    faithfulness: Estimate
    accuracy: Estimate
    kl: float
    units: int | None = None


def size_curve(
    model: LanguageModel,
    task: Task,
    masks: Sequence[Nodes | Edges],
    *,
    dictionary: AnyParts | Source | None = None,
    ablation: str = "counterfactual",
    split: str = "test",
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[SizePoint, ...]:
    """Measure circuits of many sizes in one compiled call.

    Args:
        model: The model.
        task: The behaviour.
        masks: One `Nodes` of bool for each size; or `Edges`, with `components(model)`.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`.
        ablation: What replaces a circuit's complement.
        split: Which prompts.
        batch_size: Prompts in one call.
        seed: Of the bootstrap.

    Returns:
        One point for each mask, over distinct prompts, with intervals over templates where there
        are several.

    Raises:
        InputError: If the task has no such split, or a mask does not fit.
    """
    require_is("model", model, LanguageModel)
    require_is("task", task, Task)
    require_is("split", split, str)
    parts = parts_of(model, dictionary)
    masks = require_list("masks", masks, "a mask for each size")
    for mask in masks:
        require_mask("masks", mask, parts.space)
    there = existing(parts)
    space = parts.space
    like = Nodes.full(space, False) if isinstance(space, Space) else space
    empty = like.like(np.zeros(len(there), bool))
    judged = judged_prompts(task, split, Seen.nothing(), causal=model.config.causal)
    rows = behaviour(
        model,
        judged.prompts,
        [empty, *masks],
        dictionary=parts,
        ablation=Ablation(ablation, judged.reference, seed),
        candidates=task.candidates,
        batch_size=batch_size,
        with_model=True,
    )
    result = judged.averaged(rows)
    whole, nothing = result.metric[:2]
    scale = max(np.abs(whole).max(), np.abs(nothing).max())
    points = []
    for row, mask in enumerate(masks, start=2):
        size = int((mask.flat().astype(bool) & there).sum())
        recovered = ratio_of_means(
            result.metric[row] - nothing, whole - nothing, scale=scale, seed=seed,
            clusters=judged.clusters,
        )  # fmt: skip
        share = size / int(there.sum())
        kl = float(result.kl[row].mean())
        points.append(SizePoint(size, share, recovered, accuracy(result.correct[row]), kl))
    return tuple(points)


def sizes_of(total: int) -> list[int]:
    """Return the sizes of a size curve in nodes, each once.

    Example:
        >>> sizes_of(1000)
        [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    """
    require_number("total", total, least=1, most=_MOST, whole=True)
    return sorted({max(1, round(share * total)) for share in SIZES})


def curve_areas(points: Iterable[SizePoint], total: int) -> Areas | None:
    """Compute CPR and CMD of a ranking of nodes from its circuits of the ten sizes.

    Args:
        points: What was measured of circuits of nested sizes; other sizes are left out.
        total: Nodes of the model.

    Returns:
        Both areas; None unless every size was measured and has a faithfulness.
    """
    require_number("total", total, least=1, most=_MOST, whole=True)
    points = require_list("points", points, "points of a size curve")
    for point in points:
        require_is("points", point, SizePoint)
        require_is("faithfulness of a point", point.faithfulness, Estimate)
    found = {point.nodes: point for point in points}
    sizes = sizes_of(total)
    if len(sizes) < 2 or not all(size in found for size in sizes):
        return None
    values = [found[size].faithfulness.value for size in sizes]
    if not np.isfinite(values).all():
        return None
    return areas([size / total for size in sizes], values)
