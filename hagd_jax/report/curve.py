"""Plots of what was measured: against circuit size, and against chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, LogTicker, NumeralTickFormatter

from hagd_jax.causal import ACCURACY_GATE, KL_GATE, Estimate, Evidence, SizePoint
from hagd_jax.report.plot import canvas, guide, hover, paint, span_of
from hagd_jax.report.record import Report
from hagd_jax.report.words import inert, interval, number, percent

ESTIMATES = ("faithfulness", "accuracy")


def size_plots(report: Report) -> dict[str, Any]:
    """Plot faithfulness, accuracy and KL against the number of nodes, on a logarithmic axis.

    Args:
        report: The report; points of no nodes cannot be drawn and are left out.

    Returns:
        Name → figure; empty if there is no point to draw.
    """
    points = sorted(point for point in report.curve if point.nodes > 0)
    if not points:
        return {}
    columns = curve_columns(points)
    found = report.under(report.curve_ablation)
    plots = {
        "faithfulness": _against_size(report, columns, "faithfulness", "faithfulness", 300),
        "accuracy": _against_size(report, columns, "accuracy", "accuracy", 220),
        "kl": _against_size(report, columns, "kl", "KL, nats", 220),
    }
    guide(plots["faithfulness"], 1.0, dash="dashed")
    if found is not None:
        size, right = report.circuit.leaves, found.accuracy
        _mark(plots["faithfulness"], size, found.alone.faithfulness.ratio_of_means)
        _mark(plots["accuracy"], size, right[2])
        _mark(plots["kl"], size, Estimate(found.kl[2], math.nan, math.nan))
        # The gates, where the circuit's own verdict puts them.
        cost = right[0].value - right[1].value
        guide(plots["accuracy"], right[1].value + ACCURACY_GATE * cost, dash="dotted")
        guide(plots["kl"], KL_GATE * found.kl[1], dash="dotted")
    _fit(plots, points, found)
    return plots


def curve_columns(points: list[SizePoint]) -> dict[str, Any]:
    """Make the columns of the size plots.

    Args:
        points: By size.

    Returns:
        Column → one entry a point: numbers to draw and words to show under the pointer.
    """
    columns: dict[str, Any] = {
        "nodes": [point.nodes for point in points],
        "units": [f"{point.nodes if point.units is None else point.units:,}" for point in points],
        "share": [percent(point.share) for point in points],
        "kl": [float(point.kl) for point in points],
        "kl_words": [f"{number(point.kl)} nats" for point in points],
    }
    for name in ESTIMATES:
        estimates = [getattr(point, name) for point in points]
        columns[name] = [float(e.value) for e in estimates]
        columns[f"{name}_low"] = [float(e.low) for e in estimates]
        columns[f"{name}_high"] = [float(e.high) for e in estimates]
        columns[f"{name}_words"] = [f"{percent(e.value)} ({interval(e)})" for e in estimates]
    return columns


def _against_size(
    report: Report, columns: dict[str, Any], name: str, label: str, height: int
) -> Any:
    # Each figure is a document of its own, so it has a source of its own.
    source, top = ColumnDataSource(columns), max(report.total, 2)
    fig = canvas(
        f"{name} by size",
        height=height,
        x_axis_type="log",
        x_axis_label="nodes in the circuit",
        y_axis_label=label,
        x_range=(0.8 * min(columns["nodes"]), 1.25 * top),
    )
    fig.xaxis.ticker = LogTicker(desired_num_ticks=5, num_minor_ticks=0)
    fig.xaxis.formatter = NumeralTickFormatter(format="0,0")
    size = report.circuit.leaves
    if size:
        guide(fig, size, axis="x", colour="accent")
    if name in ESTIMATES:
        fig.yaxis.formatter = NumeralTickFormatter(format="0%")
        band = fig.varea("nodes", f"{name}_low", f"{name}_high", source=source, fill_alpha=0.18)
        paint(band.glyph, fill_color="accent")
    line = fig.line("nodes", name, source=source, line_width=2)
    paint(line.glyph, line_color="accent")
    dots = fig.scatter("nodes", name, source=source, size=7)
    paint(dots.glyph, fill_color="accent", line_color="page")
    units = [("units", "@units")] if any(point.units for point in report.curve) else []
    hover(fig, dots, [*units, ("nodes", "@nodes{0,0} (@share)"), (label, f"@{name}_words")])
    return fig


def _mark(fig: Any, at: float, estimate: Estimate) -> None:
    """The circuit itself: a diamond with its interval."""
    if not at or math.isnan(estimate.value):
        return
    if not math.isnan(estimate.low):
        whisker = fig.segment([at], [estimate.low], [at], [estimate.high], line_width=2)
        paint(whisker.glyph, line_color="ink")
    diamond = fig.scatter([at], [estimate.value], marker="diamond", size=15)
    paint(diamond.glyph, fill_color="ink", line_color="page")


def _fit(plots: dict[str, Any], points: list[SizePoint], found: Evidence | None) -> None:
    # By the values: a bootstrap interval over a small denominator may be boundless.
    judged = {"faithfulness": [], "accuracy": [], "kl": []}
    if found is not None:
        judged["faithfulness"] = [found.alone.faithfulness.ratio_of_means.value]
        judged["accuracy"] = [found.accuracy[2].value]
        judged["kl"] = [found.kl[2], KL_GATE * found.kl[1]]
    recovered = [point.faithfulness.value for point in points] + judged["faithfulness"]
    right = [point.accuracy.value for point in points] + judged["accuracy"]
    apart = [point.kl for point in points] + judged["kl"]
    plots["faithfulness"].y_range = span_of(recovered, include=(0.0, 1.0))
    plots["accuracy"].y_range = span_of(right, include=(0.0, 1.0))
    plots["kl"].y_range = span_of(apart, include=(0.0,))


def controls_plot(report: Report) -> Any | None:
    """Plot the circuit beside its random controls, one strip per ablation.

    Args:
        report: The report.

    Returns:
        The figure, or None if nothing was measured.
    """
    if not report.evidence:
        return None
    count = len(report.evidence)
    fig = canvas(
        "controls",
        height=64 + 58 * count,
        x_axis_label="faithfulness",
        y_range=(count - 0.45, -0.55),
    )
    guide(fig, 0.0, axis="x", colour="line")
    guide(fig, 1.0, axis="x", dash="dashed")
    values = [e.alone.faithfulness.ratio_of_means.value for e in report.evidence]
    values += [control for e in report.evidence for control in e.chance]
    fig.x_range = span_of(values, include=(0.0, 1.0))
    fig.xaxis.formatter = NumeralTickFormatter(format="0%")
    fig.yaxis.ticker = FixedTicker(ticks=list(range(count)))
    fig.yaxis.major_label_overrides = {
        i: inert(found.ablation, 16) for i, found in enumerate(report.evidence)
    }
    fig.yaxis.major_tick_line_color = fig.yaxis.axis_line_color = None
    fig.yaxis.tags = [tag for axis in fig.yaxis for tag in axis.tags if "text" in tag]
    fig.ygrid.visible = False
    _chance(fig, report)
    for row, found in enumerate(report.evidence):
        _own(fig, row, found.alone.faithfulness.ratio_of_means)
    return fig


def _chance(fig: Any, report: Report) -> None:
    rows = [
        (row, i, float(value))
        for row, found in enumerate(report.evidence)
        for i, value in enumerate(found.chance)
    ]
    # Spread a little, so that equal controls do not hide each other.
    data = {
        "x": [value for *_, value in rows],
        "y": [row + 0.18 * math.sin(2.4 * i) for row, i, _ in rows],
        "which": [i + 1 for _, i, _ in rows],
        "words": [percent(value) for *_, value in rows],
    }
    dots = fig.scatter(
        "x", "y", source=ColumnDataSource(data), size=9, fill_alpha=0.45, line_alpha=0.9
    )
    paint(dots.glyph, fill_color="muted", line_color="muted")
    hover(fig, dots, [("random circuit", "@which"), ("faithfulness", "@words")])


def _own(fig: Any, row: int, estimate: Estimate) -> None:
    if math.isnan(estimate.value):
        return
    if np.isfinite([estimate.low, estimate.high]).all():
        whisker = fig.segment([estimate.low], [row], [estimate.high], [row], line_width=3)
        paint(whisker.glyph, line_color="accent")
    words = f"{percent(estimate.value)} ({interval(estimate)})"
    source = ColumnDataSource({"x": [estimate.value], "y": [row], "words": [words]})
    diamond = fig.scatter("x", "y", source=source, marker="diamond", size=18)
    paint(diamond.glyph, fill_color="accent", line_color="page")
    hover(fig, diamond, [("the circuit", "@words")])
