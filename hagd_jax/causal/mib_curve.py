"""CPR and CMD over circuit sizes by edges, as MIB's circuit track computes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import Ablation, Behaviour, behaviour
from hagd_jax.causal.mib import MibGraph
from hagd_jax.causal.statistics import SIZES, areas
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import components


class MibCurve(NamedTuple):
    """A curve holds the faithfulness of a graph's circuits of all of the benchmark's sizes.

    Attributes:
        shares: Sizes as shares of all edges, .001 to 1.
        edges: Numbers of edges chosen, ⌊share · all⌋.
        weighted: Edges left after loose ones were dropped (`MibGraph.weighted_edge_count`).
        faithfulness: (m(C) − m(∅)) / (m(M) − m(∅)) of mean metrics, for each size.
        cpr: ∫ f over the share, by the trapezoid rule from .001 to 1.
        cmd: ∫ |1 − f|.
    """

    shares: tuple[float, ...]
    edges: tuple[int, ...]
    weighted: tuple[float, ...]
    faithfulness: tuple[float, ...]
    cpr: float
    cmd: float

    __repr__ = one_line


def mib_curve(
    model: LanguageModel,
    prompts: Prompts,
    graph: MibGraph,
    *,
    absolute: bool = True,
    ablation: Ablation | str = "counterfactual",
    batch_size: int = 16,
) -> MibCurve:
    """Measure the circuits of ten sizes that the benchmark reads off a graph's scores.

    The areas are those of Mueller et al., 2025 (arXiv:2504.13151): the share of edges is the
    abscissa, not the number that is left after pruning, and every prompt counts. Where heads share
    keys and values, the scores of those that do must agree, or the model must be the `ungrouped`
    one.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        graph: Scores of all edges.
        absolute: Rank edges by magnitude, as the benchmark does by default.
        ablation: What edges outside a circuit carry; the benchmark patches from the counterfactual.
        batch_size: Prompts in one call.

    Returns:
        The curve.

    Raises:
        InputError: If the graph is of a model with other sizes, a circuit cuts some heads of a
            group and not others, or ablating all edges leaves the metric as it is.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> scores = hagd.scores.eap_ig_edges(case.model, case.prompts)
        >>> everything = components(case.model).space
        >>> graph = MibGraph.of(scores, everything, case.model.config)
        >>> curve = mib_curve(case.model, case.prompts, graph)
        >>> curve.edges[-1], round(curve.faithfulness[-1], 3)
        (23, 1.0)
    """
    require_is("model", model, LanguageModel)
    require_is("graph", graph, MibGraph)
    total = int(graph.layout.existing().sum())
    counts = [int(share * total) for share in SIZES]
    chosen = [graph.top(count, absolute=absolute) for count in (0, *counts)]
    found = behaviour(
        model, prompts, [each.mask(model.config) for each in chosen], ablation=ablation,
        dictionary=components(model), batch_size=batch_size, with_model=True,
    )  # fmt: skip
    values = recovered(found)
    area = areas(SIZES, values)
    weighted = tuple(each.weighted_edge_count() for each in chosen[1:])
    return MibCurve(SIZES, tuple(counts), weighted, tuple(values), area.cpr, area.cmd)


def recovered(found: Behaviour) -> list[float]:
    """Compute the faithfulness of circuits whose first rows are the model and the empty circuit.

    Args:
        found: (2 + K, N) measures.

    Returns:
        K ratios of means.

    Raises:
        InputError: If the empty circuit has the metric of the model.
    """
    mean = np.asarray(found.metric, np.float64).mean(1)
    whole = mean[0] - mean[1]
    if not np.isfinite(mean).all() or abs(whole) <= 1e-6 * max(abs(mean[0]), abs(mean[1]), 1e-6):
        raise InputError("prompts", got=f"a metric of {mean[0]:.4g}, and {mean[1]:.4g} ablated",
                         expected="an ablation that changes the metric")  # fmt: skip
    return ((mean[2:] - mean[1]) / whole).tolist()
