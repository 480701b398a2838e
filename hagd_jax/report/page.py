"""One self-contained HTML page about a run."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, NamedTuple

import numpy as np
from bokeh.embed import json_item
from bokeh.layouts import column

from hagd_jax.causal import Node, curve_areas
from hagd_jax.causal.circuit_text import columns_of
from hagd_jax.report.boxes import drawing
from hagd_jax.report.curve import controls_plot, size_plots
from hagd_jax.report.html import render
from hagd_jax.report.map import (
    TILES,
    Table,
    feature_counts,
    feature_mass,
    feature_tiles,
    head_map,
    tables,
)
from hagd_jax.report.measures import checks, main_measures, more_measures
from hagd_jax.report.record import ABLATION_WORDS, Report
from hagd_jax.report.verdict_words import badge, findings, verdict_sentence
from hagd_jax.report.words import inert, node_name, number, percent

LISTED_NODES = 200
LISTED_TEXTS = 12
# Words and blanks of a prompt whose differences are looked for.
_COMPARED = 100


class Row(NamedTuple):
    """A row describes a node in the page's table."""

    rank: int
    name: str
    kind: str
    layer: int
    place: int
    score: float
    words: str
    bar: float
    member: bool


class UnitRow(NamedTuple):
    """A row describes a unit in the page's table, with its nodes folded below its name.

    Attributes:
        cells: Column, text, and whether it is a number.
        nodes: Names of its nodes, as many as are listed; none for a single node.
        more: Number of nodes that are not listed.
    """

    cells: tuple[tuple[str, str, bool], ...]
    nodes: tuple[str, ...]
    more: int


def page(report: Report) -> str:
    """Render a report as one self-contained HTML page.

    Names, prompts, tokens and configuration are foreign text: they are escaped, made visible
    where they would hide or reorder text, cut where endless, and the page's content security
    policy lets no script run but the two written here.

    Args:
        report: What to show.

    Returns:
        The page; write it as UTF-8.

    Example:
        >>> from hagd_jax.causal import Circuit
        >>> from hagd_jax.report import Report
        >>> from hagd_jax.units import Nodes, Space
        >>> circuit = Circuit((), (), (1, 2, 3), model="small", task="copy")
        >>> report = Report("copy in small", circuit, None, Nodes.full(Space(1, 2, 3), 0.0))
        >>> "Not tested" in page(report)
        True
    """
    figures = _figures(report)
    said = report.validation if report.evidence else None
    return render(
        "page",
        title=report.title,
        islands={"figures": figures},
        facts=report.facts,
        hidden=("description",),
        report=report,
        claim=verdict_sentence(report.circuit, report.validation, report.total),
        badge=badge(report.validation),
        validation=report.validation,
        evidence=report.evidence,
        ran=any(found.chance for found in report.evidence),
        findings=findings(report.validation),
        ablation_words=ABLATION_WORDS,
        main=main_measures(said) if said else [],
        checks=checks(said) if said else [],
        more=more_measures(said) if said else [],
        prompts=[_prompt(text) for text in report.texts[:LISTED_TEXTS]],
        nodes=_rows(report),
        units=_units(report),
        mixed=len(report.circuit) < report.circuit.leaves,
        columns=columns_of(report.circuit),
        drawn=drawing(report.circuit),
        described=report.circuit.about is not None,
        scales=_scales(report),
        counts=_counts(report),
        kind=report.circuit.kind,
        tiled=_tiled(report),
        config=_config(report),
        areas=curve_areas(report.curve, report.total),
        plots=figures,
        share=percent(report.circuit.leaves / report.total),
    )


def _tiled(report: Report) -> bool:
    space = report.circuit.space
    return space.layers * space.features <= TILES


def _figures(report: Report) -> dict[str, Any]:
    """Bokeh documents by the id of the element they go into."""
    heads, others = tables(report)
    figures: dict[str, Any]
    if _tiled(report):
        figures = {"heads": head_map(heads, layers_across=False), "features": feature_tiles(others)}
    else:
        bars = feature_counts(others), feature_mass(others)
        figures = {
            "heads": head_map(heads, layers_across=True),
            "features": column(*bars, sizing_mode="stretch_width", spacing=6),
        }
    for name, figure in size_plots(report).items():
        figures[f"size-{name}"] = figure
    controls = controls_plot(report)
    if controls is not None:
        figures["controls"] = controls
    return {name: json_item(figure) for name, figure in figures.items()}


def _scales(report: Report) -> dict[str, str]:
    """The largest absolute score of each kind, where the colour scale ends."""
    ends = {}
    for table in tables(report):
        finite = np.abs(table.score[np.isfinite(table.score)])
        ends[table.kind] = number(float(finite.max()) if finite.size else float("nan"))
    return ends


def _counts(report: Report) -> dict[str, int]:
    circuit = report.circuit
    kinds = ("head", circuit.kind)
    return {kind: sum(node.kind == kind for node in circuit.nodes) for kind in kinds}


def _units(report: Report) -> list[UnitRow]:
    """The units, layer by layer; none where each is a single node of which nothing is known."""
    circuit = report.circuit
    if len(circuit) == circuit.leaves and circuit.about is None:
        return []
    units, named = circuit.units, dict(zip(circuit.places().tolist(), circuit.nodes, strict=True))
    columns = columns_of(circuit)
    cells = [column.cells(circuit) for column in columns]
    rows = []
    for i in sorted(range(len(units)), key=lambda i: (units[i].layers, i)):
        inside = [] if units[i].leaf else units[i].places().tolist()
        names = [node_name(named[place], circuit.per_expert) for place in inside[:LISTED_NODES]]
        own = tuple((column.name, told[i], column.right)
                    for column, told in zip(columns, cells, strict=True))  # fmt: skip
        rows.append(UnitRow(own, tuple(names), len(inside) - len(names)))
    return rows


def _rows(report: Report) -> list[Row]:
    """Members by rank, then the next best others, as many as are listed."""
    rows = [row for table in tables(report) for row in _ranked(table)]
    rows.sort(key=lambda row: (not row[1], row[0]))
    listed = sorted(rows[:LISTED_NODES])
    largest = max((abs(row[3]) for row in listed if np.isfinite(row[3])), default=0.0) or 1.0
    return [
        Row(
            rank,
            node_name(node, report.circuit.per_expert),
            node.kind,
            node.layer,
            node.index,
            score,
            number(score),
            round(100 * abs(score) / largest, 1) if np.isfinite(score) else 0.0,
            member,
        )
        for rank, member, node, score in listed
    ]


def _ranked(table: Table) -> list[tuple[int, bool, Node, float]]:
    """The best members and the best others of one kind: no more than could be listed."""
    rank, member = table.rank.ravel(), table.member.ravel()
    chosen = []
    for group in (np.flatnonzero(member), np.flatnonzero(~member)):
        chosen += group[np.argsort(rank[group])][:LISTED_NODES].tolist()
    return [
        (
            int(rank[i]),
            bool(member[i]),
            table.node(*divmod(i, table.score.shape[1])),
            float(table.score.ravel()[i]),
        )
        for i in chosen
    ]


def _prompt(text: Any) -> dict[str, Any]:
    clean, corrupted = (inert(side, 600) for side in (text.clean, text.corrupted))
    return {
        "clean": _marked(clean, corrupted),
        "corrupted": _marked(corrupted, clean),
        "answer": inert(text.answer, 60),
        "distractor": inert(text.distractor, 60),
        "template": inert(text.template, 200),
    }


def _marked(text: str, other: str) -> list[tuple[str, bool]]:
    """The text in pieces, with whether each differs from the other text."""
    words, others = (re.findall(r"\s+|\S+", side) for side in (text, other))
    # The matcher's time may grow with the cube of a length: what both begin and end with is left
    # out, and what is still long between them is marked as a whole.
    most = min(len(words), len(others))
    start = next((i for i in range(most) if words[i] != others[i]), most)
    back = range(1, most - start + 1)
    end = next((i - 1 for i in back if words[-i] != others[-i]), most - start)
    own, theirs = (side[start : len(side) - end] for side in (words, others))
    pieces = [("".join(words[:start]), False)] if start else []
    if len(own) > _COMPARED or len(theirs) > _COMPARED:
        pieces.append(("".join(own), True))
    else:
        matcher = difflib.SequenceMatcher(None, own, theirs, autojunk=False)
        for operation, first, stop, _, _ in matcher.get_opcodes():
            if stop > first:
                pieces.append(("".join(own[first:stop]), operation != "equal"))
    return [*pieces, ("".join(words[len(words) - end :]), False)] if end else pieces


def _config(report: Report) -> str:
    circuit = report.circuit
    record = {
        "model": circuit.model,
        "task": circuit.task,
        "dictionary": circuit.dictionary,
        "seen": circuit.seen.to_json(),
        "seed": circuit.seed,
        "units": len(circuit),
        "nodes": circuit.leaves,
        "space": dict(zip(("layers", "heads", f"{circuit.kind}s"), circuit.space, strict=True)),
        "config": circuit.config,
    }
    return json.dumps(record, indent=2, ensure_ascii=False, default=str)
