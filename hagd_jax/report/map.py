"""Where the circuit sits: heads as tiles; neurons or features as tiles or, if many, as bars."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper
from bokeh.transform import transform

from hagd_jax.brief import one_line
from hagd_jax.causal import Node
from hagd_jax.causal.node import node_at
from hagd_jax.report.plot import canvas, hover, paint
from hagd_jax.report.record import Report
from hagd_jax.report.words import node_name, number

# Above this many neurons or features a tile each is neither readable nor light.
TILES = 4096
BLOCK = 64
TOP_NAMED = 5


class Table(NamedTuple):
    """A table lists every node of one kind; arrays are (L, W).

    Attributes:
        kind: `head`, `neuron` or `feature`.
        score: Signed.
        member: Whether the circuit has it.
        rank: 1 for the highest signed score of all nodes.
        per_expert: As in `Circuit`.
        spans: As in `Circuit`.
    """

    kind: str
    score: np.ndarray
    member: np.ndarray
    rank: np.ndarray
    per_expert: tuple[int, ...] = ()
    spans: tuple[str, ...] = ()

    __repr__ = one_line

    def node(self, layer: int, index: int) -> Node:
        """Return the node of a layer's column."""
        return node_at(self.kind, layer, index, self.score.shape[1], self.spans)


def tables(report: Report) -> tuple[Table, Table]:
    """Make the tables of scores, members and ranks of heads and of neurons or features.

    Args:
        report: The report.

    Returns:
        The heads' table and the other.
    """
    flat = report.scores.flat().astype(np.float64)
    rank = np.empty(len(flat), np.int64)
    # NaN sorts last, as the worst.
    rank[np.argsort(-flat, kind="stable")] = np.arange(1, len(flat) + 1)
    layers, heads, _ = report.circuit.space
    cut, members = layers * heads, report.circuit.mask()
    parts = []
    for kind, member, part in (
        ("head", members.heads, slice(None, cut)),
        (report.circuit.kind, members.features, slice(cut, None)),
    ):
        shape = np.shape(member)
        score, ranks = flat[part].reshape(shape), rank[part].reshape(shape)
        own = report.circuit
        parts.append(Table(kind, score, np.asarray(member), ranks, own.per_expert, own.spans))
    return parts[0], parts[1]


def head_map(table: Table, *, layers_across: bool) -> Any:
    """Draw one tile per head, coloured by signed score, members outlined.

    Args:
        table: The heads.
        layers_across: Layers along x and heads along y, or the other way round.

    Returns:
        The figure.
    """
    layers, heads = table.score.shape
    layer, index = (axis.ravel() for axis in np.indices(table.score.shape))
    x, y = (layer, index) if layers_across else (index, layer)
    rows = heads if layers_across else layers
    fig = canvas(
        "heads",
        height=int(np.clip(18 * rows, 44, 620)) + 60,
        x_axis_label="layer" if layers_across else "head",
        y_axis_label="head" if layers_across else "layer",
        x_range=(-0.5, (layers if layers_across else heads) - 0.5),
        y_range=(rows - 0.5, -0.5),
    )
    _whole_ticks(fig.xaxis, layers if layers_across else heads, 15)
    _whole_ticks(fig.yaxis, rows, 9)
    _tiles(fig, table, x, y, layer, index)
    return fig


def feature_tiles(table: Table) -> Any:
    """Draw one tile per neuron or feature, 64 to a row, for small models.

    Args:
        table: The neurons or features.

    Returns:
        The figure.
    """
    layers, width = table.score.shape
    across = min(BLOCK, width)
    deep = -(-width // across)
    layer, index = (axis.ravel() for axis in np.indices(table.score.shape))
    # A free row between layers.
    top = layer * (deep + 1)
    rows = layers * (deep + 1) - 1
    fig = canvas(
        f"{table.kind}s",
        height=int(np.clip(16 * rows, 44, 760)) + 60,
        x_axis_label=f"{table.kind}, {across} to a row",
        y_axis_label="layer",
        x_range=(-0.5, across - 0.5),
        y_range=(rows - 0.5, -0.5),
    )
    centres = [i * (deep + 1) + (deep - 1) / 2 for i in range(layers)]
    fig.yaxis.ticker = FixedTicker(ticks=centres)
    fig.yaxis.major_label_overrides = {at: str(i) for i, at in enumerate(centres)}
    fig.ygrid.visible = False
    _whole_ticks(fig.xaxis, across, 9)
    _tiles(fig, table, index % across, top + index // across, layer, index)
    return fig


def _tiles(
    fig: Any, table: Table, x: np.ndarray, y: np.ndarray, layer: np.ndarray, index: np.ndarray
) -> None:
    fig.grid.visible = False
    score, member = table.score.ravel(), table.member.ravel()
    data = {
        "x": x,
        "y": y,
        "shade": shade(score),
        "name": [_name(table, int(a), int(b)) for a, b in zip(layer, index, strict=True)],
        "score": [number(value) for value in score],
        "rank": table.rank.ravel(),
        "member": ["in the circuit" if yes else "not in it" for yes in member],
    }
    mapper = paint(LinearColorMapper(palette=["#888888"], low=-1, high=1), palette="ramp")
    mapper.nan_color = "#00000000"
    tiles = fig.rect(
        "x",
        "y",
        width=0.9,
        height=0.86,
        source=ColumnDataSource(data),
        fill_color=transform("shade", mapper),
        line_color=None,
    )
    inside = {name: np.asarray(column)[member] for name, column in data.items() if name in "xy"}
    outline = fig.rect(
        "x", "y", width=0.9, height=0.86, source=ColumnDataSource(inside), fill_color=None
    )
    outline.glyph.line_width = 1.8
    paint(outline.glyph, line_color="ink")
    rows = [("node", "@name"), ("score", "@score"), ("rank", "@rank{0,0}"), ("", "@member")]
    hover(fig, tiles, rows)


def shade(score: np.ndarray) -> np.ndarray:
    """Scale scores by the signed square root relative to the largest: −1 to 1, zero stays zero.

    Args:
        score: Any shape; NaN stays NaN.

    Returns:
        The same shape.

    Example:
        >>> shade(np.array([4.0, -1.0, 0.0])).tolist()
        [1.0, -0.5, 0.0]
    """
    largest = np.nanmax(np.abs(score)) if np.isfinite(score).any() else 1.0
    return np.sign(score) * np.sqrt(np.abs(score) / (largest or 1.0))


def feature_counts(table: Table) -> Any:
    """Plot the number of members among the neurons or features of each layer.

    Args:
        table: The neurons or features.

    Returns:
        The figure.
    """
    fig = canvas(
        f"{table.kind} counts",
        height=140,
        y_axis_label=f"member {table.kind}s",
        x_range=(-0.5, len(table.score) - 0.5),
    )
    columns = layer_columns(table)
    bars = fig.vbar("layer", width=0.8, top="members", source=ColumnDataSource(columns))
    bars.glyph.line_color = None
    paint(bars.glyph, fill_color="accent")
    fig.y_range.start = 0
    if not table.member.any():
        fig.y_range.end = 1
    _whole_ticks(fig.xaxis, len(table.score), 15)
    rows = [
        ("layer", "@layer"),
        ("members", f"@members{{0,0}} of {table.score.shape[1]:,}"),
        ("strongest", "@top"),
    ]
    hover(fig, bars, rows)
    return fig


def feature_mass(table: Table) -> Any:
    """Plot summed scores of each layer's neurons or features: all pale, members solid.

    Args:
        table: The neurons or features.

    Returns:
        The figure.
    """
    fig = canvas(
        f"{table.kind} scores",
        height=210,
        x_axis_label="layer",
        y_axis_label="summed score",
        x_range=(-0.5, len(table.score) - 0.5),
    )
    columns = layer_columns(table)
    source = ColumnDataSource(columns)
    for column, colour, alpha in (
        ("helps", "plus", 0.32),
        ("hinders", "minus", 0.32),
        ("member_helps", "plus", 1.0),
        ("member_hinders", "minus", 1.0),
    ):
        bars = fig.vbar("layer", width=0.8, top=column, source=source, fill_alpha=alpha)
        bars.glyph.line_color = None
        paint(bars.glyph, fill_color=colour)
    _whole_ticks(fig.xaxis, len(table.score), 15)
    # An invisible bar over the whole height answers the pointer wherever it is in a layer.
    whole = fig.vbar(
        "layer", width=1, top="helps", bottom="hinders", source=source, fill_alpha=0, line_alpha=0
    )
    rows = [
        ("layer", "@layer"),
        ("all, helping", "@helps{0.000}"),
        ("members, helping", "@member_helps{0.000}"),
        ("all, hindering", "@hinders{0.000}"),
        ("members, hindering", "@member_hinders{0.000}"),
        ("strongest members", "@top"),
    ]
    hover(fig, whole, rows)
    return fig


def layer_columns(table: Table) -> dict[str, Any]:
    """Make the columns of a layer's bar.

    Args:
        table: Nodes of one kind.

    Returns:
        Column → one value a layer: `layer`, `members`, `helps` and `hinders` (sums of positive
        and of negative scores), the same of members, and the strongest members' names.
    """
    score = np.nan_to_num(table.score)
    helps, hinders = np.maximum(score, 0), np.minimum(score, 0)
    return {
        "layer": np.arange(len(score)),
        "members": table.member.sum(1),
        "helps": helps.sum(1),
        "hinders": hinders.sum(1),
        "member_helps": (helps * table.member).sum(1),
        "member_hinders": (hinders * table.member).sum(1),
        "top": [_strongest(table, layer) for layer in range(len(score))],
    }


def _strongest(table: Table, layer: int) -> str:
    members = np.flatnonzero(table.member[layer])
    order = members[np.argsort(table.rank[layer, members])][:TOP_NAMED]
    named = [f"{_name(table, layer, int(i))} ({number(table.score[layer, i])})" for i in order]
    return ", ".join(named) or "none"


def _name(table: Table, layer: int, index: int) -> str:
    return node_name(table.node(layer, index), table.per_expert)


def _whole_ticks(axis: Any, count: int, most: int) -> None:
    step = next(s for s in (1, 2, 4, 5, 8, 10, 16, 20, 50, 100, count) if count <= s * most)
    axis.ticker = FixedTicker(ticks=list(range(0, count, step)))
