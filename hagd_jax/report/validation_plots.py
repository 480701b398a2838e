"""Plots of a validation: one for each question that is asked of a circuit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import ColumnDataSource, FixedTicker, NumeralTickFormatter

from hagd_jax.causal import KL_GATE, Evidence
from hagd_jax.causal.gates import NECESSITY_GATE
from hagd_jax.report.plot import canvas, guide, hover, paint, span_of
from hagd_jax.report.words import inert, number, percent

COLOURS = ("accent", "minus", "good", "plus", "part")
# Bars that a figure shows at most.
LISTED = 80
# With no more of them, bars have their members' names under them.
NAMED = 12


def strips(
    rows: Sequence[tuple[str, float, Sequence[float], float]],
    *,
    label: str,
    axis: str,
    words: Callable[[float], str],
    share: bool = False,
) -> Any:
    """Plot the circuit beside its rivals, one strip per ablation.

    Args:
        rows: (ablation, the circuit's value, the rivals', gate).
        label: Name of the figure.
        axis: Label of the axis.
        words: How a value is written.
        share: Whether the axis is in percent.

    Returns:
        The figure.
    """
    fig = canvas(
        label, height=64 + 58 * len(rows), x_axis_label=axis, y_range=(len(rows) - 0.45, -0.55)
    )
    guide(fig, 0.0, axis="x", colour="line")
    values = [value for _, own, rivals, gate in rows for value in (own, gate, *rivals)]
    fig.x_range = span_of(values, include=(0.0,))
    if share:
        fig.xaxis.formatter = NumeralTickFormatter(format="0%")
    fig.yaxis.ticker = FixedTicker(ticks=list(range(len(rows))))
    fig.yaxis.major_label_overrides = {i: inert(row[0], 16) for i, row in enumerate(rows)}
    fig.yaxis.major_tick_line_color = fig.yaxis.axis_line_color = None
    fig.yaxis.tags = [tag for one in fig.yaxis for tag in one.tags if "text" in tag]
    fig.ygrid.visible = False
    for i, (_, own, rivals, gate) in enumerate(rows):
        bar = fig.segment([gate], [i - 0.32], [gate], [i + 0.32], line_width=2, line_dash="dotted")
        paint(bar.glyph, line_color="muted")
        spread = [i + 0.18 * math.sin(2.4 * k) for k in range(len(rivals))]
        _points(fig, rivals, spread, [words(x) for x in rivals], marker="circle", colour="muted")
        if math.isfinite(own):
            _points(fig, [own], [i], [words(own)], marker="diamond", colour="accent")
    return fig


def _points(
    fig: Any, x: Iterable[float], y: Iterable[float], said: list[str], *, marker: str, colour: str
) -> None:
    own = marker == "diamond"
    source = ColumnDataSource({"x": list(x), "y": list(y), "words": said})
    dots = fig.scatter(
        "x", "y", source=source, marker=marker, size=18 if own else 9, fill_alpha=1 if own else 0.45
    )
    paint(dots.glyph, fill_color=colour, line_color="page" if own else colour)
    hover(fig, dots, [("", "@words")])


def alone(found: Sequence[Evidence]) -> Any:
    """Plot the distance from the model of the circuit and of random circuits."""
    return strips(
        [(e.ablation, e.kl[2], e.controls, KL_GATE * e.kl[1]) for e in found],
        label="alone", axis="KL from the model, nats", words=lambda x: f"{number(x)} nats",
    )  # fmt: skip


def needed(found: Sequence[Evidence]) -> Any:
    """Plot what is lost without the circuit, and without other nodes."""
    return strips(
        [(e.ablation, e.necessity.value, [x for x in e.others if math.isfinite(x)], NECESSITY_GATE)
         for e in found],
        label="needed", axis="share of the behaviour lost", words=percent, share=True,
    )  # fmt: skip


def members(found: Sequence[Evidence]) -> Any:
    """Plot how much leaving out each member adds to the distance, one row of bars per ablation."""
    return gridplot([[_bars(e)] for e in found], toolbar_location=None, sizing_mode="stretch_width")


def _bars(e: Evidence) -> Any:
    added = np.asarray(e.without) - e.kl[2]
    order = np.argsort(-added, kind="stable")[:LISTED]
    fig = canvas(
        f"members under {e.ablation}", height=170, x_range=(-1, max(len(order), 12)),
        y_axis_label="KL added", x_axis_label=f"members, {inert(e.ablation, 30)} ablation",
    )  # fmt: skip
    few = len(order) <= NAMED
    fig.xaxis.ticker = FixedTicker(ticks=list(range(len(order))) if few else [])
    fig.xaxis.major_label_overrides = {i: inert(e.members[j], 24) for i, j in enumerate(order)}
    data = {
        "x": list(range(len(order))),
        "top": added[order].tolist(),
        "name": [inert(e.members[i], 60) for i in order],
        "said": [
            f"{number(float(added[i]))} nats, p = {e.p_values[i]:.3g}: {e.standing[i]}"
            for i in order
        ],
        "alpha": [{"needed": 1.0, "idle": 0.15}.get(e.standing[i], 0.5) for i in order],
    }
    source = ColumnDataSource(data)
    bars = fig.vbar("x", 0.8, "top", source=source, fill_alpha="alpha", line_alpha="alpha")
    paint(bars.glyph, fill_color="accent", line_color="accent")
    fig.y_range = span_of(data["top"], include=(0.0,))
    hover(fig, bars, [("", "@name"), ("without it", "@said")])
    return fig


def parts(found: Sequence[Evidence]) -> Any:
    """Plot circuit against model with the same part removed from both."""
    figures = []
    for e in found:
        fig = canvas(
            f"parts under {e.ablation}", height=300, y_axis_label="circuit without it",
            x_axis_label=f"model without it, {inert(e.ablation, 30)} ablation",
        )  # fmt: skip
        every = np.array([*e.subsets, *e.greedy, e.metric[:2]]).reshape(-1, 2)
        span = span_of(every.ravel().tolist())
        fig.x_range, fig.y_range = span, span_of(every.ravel().tolist())
        line = fig.line([span.start, span.end], [span.start, span.end], line_dash="dashed")
        paint(line.glyph, line_color="muted")
        for pairs, size, colour, marker in (
            (e.subsets, 9, "muted", "circle"), (e.greedy, 14, "ink", "diamond"),
        ):  # fmt: skip
            data = {
                "x": [b for _, b in pairs],
                "y": [a for a, _ in pairs],
                "words": [f"circuit {number(a)}, model {number(b)}" for a, b in pairs],
            }
            dots = fig.scatter("x", "y", source=ColumnDataSource(data), size=size, marker=marker)
            paint(dots.glyph, fill_color=colour, line_color="page")
            hover(fig, dots, [("", "@words")])
        figures.append(fig)
    rows = [figures[i : i + 2] for i in range(0, len(figures), 2)]
    return gridplot(rows, toolbar_location=None, sizing_mode="stretch_width")


def against_size(found: Sequence[Evidence]) -> dict[str, Any]:
    """Plot faithfulness and KL of the best members alone, a line per ablation."""
    made = {}
    for name, place in (("faithfulness", 1), ("kl", 2)):
        fig = canvas(
            f"{name} by members", height=280, x_axis_label="members, best first",
            y_axis_label={"kl": "KL, nats"}.get(name, name),
        )  # fmt: skip
        seen = [row[place] for e in found for row in e.sizes]
        fig.y_range = span_of(seen, include=(0.0, 1.0) if name == "faithfulness" else (0.0,))
        if name == "faithfulness":
            guide(fig, 1.0, dash="dashed")
            fig.yaxis.formatter = NumeralTickFormatter(format="0%")
        for e, colour in zip(found, COLOURS, strict=False):
            data = {"x": [row[0] for row in e.sizes], "y": [row[place] for row in e.sizes]}
            source = ColumnDataSource(data | {"which": [inert(e.ablation, 30)] * len(e.sizes)})
            line = fig.line("x", "y", source=source, line_width=2)
            paint(line.glyph, line_color=colour)
            dots = fig.scatter("x", "y", source=source, size=7)
            paint(dots.glyph, fill_color=colour, line_color="page")
            hover(fig, dots, [("", "@which"), ("members", "@x{0,0}"), (name, "@y{0.000}")])
        made[f"size-{name}"] = fig
    return made
