"""The plots' common look: bare axes, no toolbar, colours left to the page's style sheet."""

from __future__ import annotations

from typing import Any

from bokeh.models import HoverTool, Model, Range1d, Span
from bokeh.plotting import figure

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"

# Over Bokeh's own white frame; the page's variables reach into its shadow roots.
TOOLTIP = (
    "margin:-6px;padding:8px 11px;max-width:340px;background:var(--card);color:var(--ink);"
    "border:1px solid var(--line);font:13px/1.5 var(--sans)"
)


def paint(model: Model, **colours: str) -> Any:
    """Give properties colours by the names of the style sheet's variables.

    The page's script resolves them, so plots follow light and dark mode like the text does.

    Args:
        model: Any Bokeh model.
        **colours: Property → variable name without the dashes; `ramp` is the diverging scale.

    Returns:
        The model.

    Example:
        >>> paint(Span(location=1, dimension="width"), line_color="muted").tags
        ['line_color=muted']
    """
    model.tags = [*model.tags, *(f"{name}={variable}" for name, variable in colours.items())]
    return model


def canvas(label: str, *, height: int, **options: Any) -> Any:
    """Make an empty figure in the page's style.

    Args:
        label: What it shows, for screen readers and tests; kept as the model's name.
        height: In pixels; the width follows the page.
        **options: Of `bokeh.plotting.figure`.

    Returns:
        The figure.
    """
    fig = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=4,
        # The same for all, so that panels with the layers along x line up.
        min_border_left=66,
        name=label,
        **options,
    )
    fig.toolbar.logo = None
    for axis in fig.axis:
        axis.update(
            axis_label_text_font=FONT,
            axis_label_text_font_size="12px",
            axis_label_text_font_style="normal",
            axis_label_standoff=8,
            major_label_text_font=FONT,
            major_label_text_font_size="12px",
            minor_tick_line_color=None,
            major_tick_in=0,
            major_tick_out=4,
        )
        paint(
            axis,
            axis_label_text_color="muted",
            major_label_text_color="muted",
            axis_line_color="line",
            major_tick_line_color="line",
        )
    for grid in fig.grid:
        paint(grid, grid_line_color="grid")
    fig.xgrid.visible = False
    return fig


def hover(fig: Any, renderer: Any, rows: list[tuple[str, str]]) -> None:
    """Show rows of a renderer's columns under the pointer.

    Args:
        fig: The figure.
        renderer: Whose glyphs react.
        rows: (label, Bokeh template) pairs; Bokeh escapes the values it fills in.
    """
    lines = "".join(f"<div>{label and label + ': '}<b>{value}</b></div>" for label, value in rows)
    fig.add_tools(
        HoverTool(
            renderers=[renderer],
            tooltips=f'<div style="{TOOLTIP}">{lines}</div>',
            point_policy="snap_to_data",
            show_arrow=False,
        )
    )


def guide(
    fig: Any, at: float, *, axis: str = "y", dash: Any = "solid", colour: str = "muted"
) -> None:
    """Draw a reference line across a figure.

    Args:
        fig: The figure.
        at: Where.
        axis: Which coordinate `at` is.
        dash: Line pattern.
        colour: Style sheet variable.
    """
    dimension = "width" if axis == "y" else "height"
    span = Span(location=at, dimension=dimension, line_width=1, line_dash=dash, level="underlay")
    fig.add_layout(paint(span, line_color=colour))


def span_of(values: list[float], *, include: tuple[float, ...] = (), room: float = 0.06) -> Range1d:
    """Choose a range that shows all finite values and some room around them.

    Args:
        values: What must be visible; NaN is skipped.
        include: More of it.
        room: Share of the range left free on either side.

    Returns:
        The range.
    """
    finite = [v for v in (*values, *include) if v == v and abs(v) != float("inf")] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = room * ((high - low) or max(abs(high), 1.0))
    return Range1d(start=low - margin, end=high + margin)
