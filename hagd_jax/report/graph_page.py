"""One self-contained HTML page to walk through an attribution graph."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FixedTicker, PanTool, TapTool, WheelZoomTool

from hagd_jax.graphs import AttributionGraph, GraphScores, graph_scores
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, KINDS, LOGIT
from hagd_jax.models import Tokenizer
from hagd_jax.report.feature_cards import cards
from hagd_jax.report.graph_data import graph_data, word_of
from hagd_jax.report.html import render
from hagd_jax.report.plot import canvas, hover, paint
from hagd_jax.report.words import percent
from hagd_jax.transcoders import Contexts

# How nodes of a kind are drawn: marker, colour of the style sheet.
_MARKERS = {
    FEATURE: ("circle", "plus"),
    ERROR: ("diamond", "muted"),
    EMBEDDING: ("square", "good"),
    LOGIT: ("square", "accent"),
}


def graph_page(
    graph: AttributionGraph,
    *,
    title: str = "",
    contexts: Contexts | None = None,
    tokenizer: Tokenizer | None = None,
    supernodes: Iterable[tuple[str, Sequence[int]]] = (),
    facts: Mapping[str, str] | None = None,
    most_nodes: int = 2000,
    contexts_per_feature: int = 6,
) -> str:
    """Render a graph as one self-contained HTML page.

    Nodes stand by layer and position. A click shows what drives a node and what it drives; a
    click on one of those goes there. Sliders hide nodes and edges of little influence. Prompts
    and labels are foreign text: they reach the page as text alone, and its content security
    policy lets no script run but the two written here.

    Args:
        graph: The graph.
        title: Heading; the prompt by default.
        contexts: Where the features fire most; shown beside a chosen feature.
        tokenizer: The model's, for contexts.
        supernodes: (name, node numbers) of groups to show as one.
        facts: Name → value, shown as provenance; `command` is shown as code.
        most_nodes: Features and errors to embed, those of the highest influence.
        contexts_per_feature: Contexts to embed of each feature.

    Returns:
        The page; write it as UTF-8.

    Example:
        >>> import pathlib
        >>> from hagd_jax.graphs import attribute
        >>> graph = attribute(hagd.testbeds.hand_built()[0].model, None, [0, 1, 4], targets=5)
        >>> written = pathlib.Path("graph.html").write_text(graph_page(graph), encoding="utf-8")
    """
    found = graph_scores(graph)
    shown = graph_data(graph, most_nodes=most_nodes, supernodes=supernodes)
    browser: dict[str, Any] = {"words": [], "features": []}
    if contexts is not None:
        nodes = shown["nodes"]
        places = zip(*(nodes[name] for name in ("kind", "layer", "index")), strict=True)
        features = {
            (layer, index)
            for kind, layer, index in places
            if kind == FEATURE
            and layer in contexts.layers
            and index in contexts.layers[layer].features
        }
        browser = cards(contexts, features, tokenizer, contexts_per_feature=contexts_per_feature)
    return render(
        "graph",
        title=title or "".join(shown["words"]),
        claim=claim(graph, found),
        stats=stats(graph, found, len(shown["nodes"]["node"])),
        islands={
            "figures": {"graph": json_item(picture(graph, shown))},
            "data": shown,
            "cards": browser,
        },
        words=shown["words"],
        facts=facts,
        config=json.dumps(graph.info.settings, indent=2),
    )


def claim(graph: AttributionGraph, found: GraphScores) -> str:
    """Say in one sentence what the graph explains."""
    if not graph.info.targets:
        return "The graph has no target."
    target = word_of(graph.info.targets[0].label).strip()
    if len(graph.of_kind(ERROR)) == 0 or found.replacement > 0.9995:
        return f"All that leads to “{target}” is traced back to tokens: no error is left over."
    return (
        f"{percent(found.replacement, 0)} of what leads to “{target}” is traced back to tokens "
        "through features; the rest ends in what features do not explain."
    )


def stats(graph: AttributionGraph, found: GraphScores, shown: int) -> list[tuple[str, str, str]]:
    """List (name, value, meaning) of each headline figure."""
    chosen = len(graph.of_kind(FEATURE))
    return [
        ("Replacement", percent(found.replacement), "of influence ends at tokens, not errors"),
        ("Completeness", percent(found.completeness), "of input, weighed by influence, not errors"),
        ("Features", f"{chosen:,}", f"of {graph.info.active:,} active in the prompt"),
        ("Edges", f"{len(graph.weights):,}", "direct effects between nodes"),
        ("Shown", f"{shown:,}", "nodes, the most influential"),
    ]  # fmt: skip


def picture(graph: AttributionGraph, shown: Mapping[str, Any]) -> Any:
    """Draw nodes by layer and position; the page's script draws edges.

    Args:
        graph: The graph.
        shown: From `graph_data`.

    Returns:
        A Bokeh figure with the sources `nodes` and `edges`.
    """
    nodes, columns, layers = shown["nodes"], shown["columns"], graph.info.layers
    fig = canvas(
        "attribution graph",
        height=min(max(22 * (layers + 2), 380), 900),
        x_range=(columns[0] - 0.5, columns[-1] + 0.5),
        y_range=(-0.8, layers + 1.8),
        y_axis_label="layer",
        output_backend="canvas",
    )
    pan, zoom, tap = PanTool(), WheelZoomTool(), TapTool()
    fig.add_tools(pan, zoom, tap)
    fig.toolbar.active_drag, fig.toolbar.active_scroll, fig.toolbar.active_tap = pan, zoom, tap
    middles = [(a + b) / 2 for a, b in itertools.pairwise(columns)]
    fig.xaxis.ticker = FixedTicker(ticks=middles)
    fig.xaxis.major_label_overrides = dict(zip(middles, shown["words"], strict=True))
    fig.xaxis.major_label_orientation = 0.9 if len(middles) > 6 else 0
    fig.yaxis.ticker = FixedTicker(ticks=_ticks(layers))
    fig.yaxis.major_label_overrides = {at: shown["rows"][at] for at in _ticks(layers)}
    fig.ygrid.visible = False
    edges = ColumnDataSource(
        {"xs": [], "ys": [], "width": [], "colour": [], "alpha": []}, name="edges"
    )
    fig.multi_line(
        "xs", "ys", source=edges, line_width="width", line_color="colour", line_alpha="alpha"
    )
    size = [_size(nodes["cumulative"][i], kind) for i, kind in enumerate(nodes["kind"])]
    source = ColumnDataSource(
        {
            "x": nodes["x"],
            "y": nodes["y"],
            "name": nodes["name"],
            "size": size,
            "marker": [_MARKERS[kind][0] for kind in nodes["kind"]],
            "fill": [_MARKERS[kind][1] for kind in nodes["kind"]],
            "alpha": [0.85] * len(size),
            "ring": [0.0] * len(size),
            "word": [shown["words"][position] for position in nodes["position"]],
            "kind": [KINDS[kind] for kind in nodes["kind"]],
            "activation": nodes["activation"],
        },
        name="nodes",
    )
    drawn = fig.scatter(
        "x", "y", source=source, size="size", marker="marker", fill_color="fill",
        fill_alpha="alpha", line_width="ring", nonselection_fill_alpha="alpha",
        selection_fill_alpha="alpha",
    )  # fmt: skip
    paint(drawn.glyph, line_color="ink")
    hover(fig, drawn, [("", "@name"), ("at", "@word"), ("activation", "@activation")])
    return fig


def _ticks(layers: int) -> list[int]:
    """Tokens, every so many layers, the output."""
    step = max(1, layers // 12)
    return [0, *range(1, layers + 1, step), layers + 1]


def _size(cumulative: float, kind: int) -> float:
    return 9.0 if kind in (EMBEDDING, LOGIT) else 5.0 + 6.0 * (1 - cumulative) ** 0.5
