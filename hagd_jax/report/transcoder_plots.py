"""Plots about a transcoder: how it learnt, layer by layer, and how often its features fire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, LogTicker, NumeralTickFormatter

from hagd_jax.report.plot import canvas, hover, paint, span_of
from hagd_jax.report.words import number, percent
from hagd_jax.transcoders import Evaluation
from hagd_jax.transcoders.measures.evaluation import BIN_EDGES

# Points of a training curve that are drawn: a run may log more steps than a page has pixels.
DRAWN = 400


class Point(NamedTuple):
    """A point is one measurement during a transcoder's training.

    Attributes:
        tokens: Trained on so far.
        fvu: Mean over layers; NaN if not measured.
        loss_recovered: NaN if not measured.
        held_out: Whether it was measured on text that is not trained on.
    """

    tokens: float
    fvu: float = math.nan
    loss_recovered: float = math.nan
    held_out: bool = False


def learning_plots(points: Sequence[Point]) -> dict[str, Any]:
    """Plot FVU and loss recovered against tokens, on a logarithmic axis.

    Args:
        points: In any order; those at no tokens cannot be drawn.

    Returns:
        Name → figure, `learnt-fvu` and `learnt-loss`; one that has nothing to show is left out.
    """
    drawn = sorted(point for point in points if point.tokens > 0)
    training = thinned([point for point in drawn if not point.held_out])
    held_out = [point for point in drawn if point.held_out]
    # The same axis for both, so that they can be read side by side.
    places = [point.tokens for point in (*training, *held_out)]
    plots = {}
    for name, field, label in (
        ("learnt-fvu", "fvu", "variance unexplained"),
        ("learnt-loss", "loss_recovered", "loss recovered"),
    ):
        lines = [_measured(some, field) for some in (training, held_out)]
        if any(lines):
            plots[name] = _against_tokens(field, label, places, *lines)
    return plots


def thinned(points: Sequence[Point], most: int = DRAWN) -> list[Point]:
    """Average neighbouring points where there are more than can be seen.

    Args:
        points: By tokens.
        most: Points to return, about.

    Returns:
        As many points, evenly spread over the logarithm of tokens.
    """
    if len(points) <= most:
        return list(points)
    place = np.log([point.tokens for point in points])
    bins = np.floor((place - place[0]) / (place[-1] - place[0] + 1e-9) * most)
    groups = np.split(np.arange(len(points)), np.flatnonzero(np.diff(bins)) + 1)
    table = np.array([point[:3] for point in points], float)
    means = [table[group].mean(0).tolist() for group in groups]
    return [Point(tokens, fvu, loss) for tokens, fvu, loss in means]


def _measured(points: Sequence[Point], field: str) -> list[tuple[float, float]]:
    pairs = [(point.tokens, getattr(point, field)) for point in points]
    return [(tokens, float(value)) for tokens, value in pairs if math.isfinite(value)]


def _against_tokens(
    field: str,
    label: str,
    places: list[float],
    training: list[tuple[float, float]],
    held_out: list[tuple[float, float]],
) -> Any:
    fig = canvas(
        f"{label} by tokens",
        height=260,
        x_axis_type="log",
        x_axis_label="tokens trained on",
        y_axis_label=label,
        x_range=(0.85 * min(places), 1.18 * max(places)),
        y_range=_share_range([value for _, value in (*training, *held_out)]),
    )
    fig.xaxis.ticker = LogTicker(desired_num_ticks=5, num_minor_ticks=0)
    fig.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    fig.yaxis.formatter = NumeralTickFormatter(format="0%")
    for points, colour, width in ((training, "muted", 1.5), (held_out, "accent", 2)):
        if not points:
            continue
        source = ColumnDataSource({
            "tokens": [tokens for tokens, _ in points],
            field: [value for _, value in points],
            "words": [percent(value) for _, value in points],
        })  # fmt: skip
        line = fig.line("tokens", field, source=source, line_width=width)
        paint(line.glyph, line_color=colour)
        # Without dots a single measurement would not be seen.
        size = 9 if colour == "accent" else 3
        dots = fig.scatter("tokens", field, source=source, size=size)
        paint(dots.glyph, fill_color=colour, line_color="page" if size > 3 else colour)
        where = "held-out text" if colour == "accent" else "training"
        hover(fig, dots, [("tokens", "@tokens{0,0}"), (f"{label}, {where}", "@words")])
    return fig


def _share_range(values: list[float]) -> Any:
    """From nothing to a little over everything; a first step far off does not flatten the rest."""
    usual = float(np.quantile(values, 0.97))
    return span_of([min(0.0, *values), max(usual, 1.0) if usual > 0.6 else usual], room=0.05)


def layer_plots(evaluation: Evaluation) -> dict[str, Any]:
    """Plot bars of each layer: FVU, active and dead features, derivatives, loss.

    Args:
        evaluation: What was measured.

    Returns:
        Name → figure: `layer-fvu`, `layer-l0`, `layer-dead`, `layer-jacobian`, and `layer-loss`
        if layers were replaced one at a time.
    """
    plots = {
        "layer-fvu": _bars("variance unexplained", evaluation.fvu, percent, 210),
        "layer-l0": _bars("active features", evaluation.l0, number, 180),
        "layer-dead": _bars("dead features", evaluation.dead, percent, 180),
        "layer-jacobian": _bars("Jacobian mismatch", evaluation.jacobian, percent, 180),
    }
    if evaluation.layer_recovered is not None:
        shares = evaluation.layer_recovered
        plots["layer-loss"] = _bars("loss recovered", shares, percent, 180)
    for name, fig in plots.items():
        if name != "layer-l0":
            fig.yaxis.formatter = NumeralTickFormatter(format="0.[0]%")
    return plots


def _bars(label: str, values: Sequence[float], words: Any, height: int) -> Any:
    count = len(values)
    fig = canvas(
        f"{label} by layer",
        height=height,
        x_axis_label="layer",
        y_axis_label=label,
        x_range=(-0.6, count - 0.4),
    )
    # A bar that is not defined is left out, its name is not.
    shown = [value if math.isfinite(value) else 0.0 for value in values]
    fig.y_range = span_of(shown, include=(0.0, max(shown) or 1.0))
    if min(shown) >= 0:
        fig.y_range.start = 0
    step = max(1, -(-count // 16))
    fig.xaxis.ticker = FixedTicker(ticks=list(range(0, count, step)))
    source = ColumnDataSource({
        "layer": list(range(count)),
        "value": shown,
        "words": [words(value) for value in values],
    })  # fmt: skip
    bars = fig.vbar(x="layer", top="value", width=0.76, source=source, line_color=None)
    paint(bars.glyph, fill_color="plus")
    hover(fig, bars, [("layer", "@layer"), (label, "@words")])
    return fig


def density_plot(evaluation: Evaluation) -> Any:
    """Plot a histogram of the firing density of living features, all layers together.

    Args:
        evaluation: What was measured.

    Returns:
        The figure.
    """
    counts = np.sum(evaluation.histogram, 0)
    living = np.flatnonzero(counts)
    first = int(living[0]) if len(living) else 0
    edges = 10.0 ** np.array(BIN_EDGES[first:])
    left, right = edges[:-1], edges[1:]
    fig = canvas(
        "density",
        height=210,
        x_axis_type="log",
        x_axis_label="share of tokens on which a feature fires",
        y_axis_label="features",
        x_range=(0.9 * float(left[0]), 1.1),
    )
    ticks = [10.0**power for power in range(math.floor(BIN_EDGES[first]), 1)]
    fig.xaxis.ticker = FixedTicker(ticks=ticks)
    fig.xaxis.major_label_overrides = {tick: f"{100 * tick:.6g}%" for tick in ticks}
    fig.y_range.start = 0  # type: ignore[attr-defined]
    fig.yaxis.formatter = NumeralTickFormatter(format="0,0")
    source = ColumnDataSource({
        "left": left.tolist(),
        "right": right.tolist(),
        "features": counts[first:].tolist(),
        "words": [f"{percent(a, 3)} to {percent(b, 3)}" for a, b in zip(left, right, strict=True)],
    })  # fmt: skip
    bars = fig.quad("left", "right", "features", 0, source=source, line_width=1)
    paint(bars.glyph, fill_color="plus", line_color="page")
    hover(fig, bars, [("of tokens", "@words"), ("features", "@features{0,0}")])
    return fig
