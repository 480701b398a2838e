"""Run `hagd attribute`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich import box
from rich.markup import escape
from rich.table import Table

from hagd_jax import graphs, hierarchy, models, parallel, pipeline, transcoders
from hagd_jax.cli.output import show
from hagd_jax.cli.prologue import Devices, Session
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import require_writable, write_atomic
from hagd_jax.graphs import AttributionConfig, AttributionGraph
from hagd_jax.graphs.graph import FEATURE
from hagd_jax.report.feature_cards import token_text
from hagd_jax.report.graph_data import feature_name, word_of
from hagd_jax.report.progress import Stop, bars, never
from hagd_jax.units.dictionary import NEURONS


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Trace which features drive a prompt's next token, and what drives those features.

    Attributes:
        model: Model to attribute: a folder, a .gguf file, a preset such as smollm2-135m, or a hub
            id.
        prompt: Prompt text; the graph explains its next token.
        target: Tokens to explain, with their leading blank (" Paris"); the most likely tokens if
            none is given.
        versus: Wrong answers. The graph then explains the one target's logit minus the mean of
            theirs.
        features: Nodes inside MLPs: neurons, or the features of a transcoder (a folder or hub id).
        contexts: Folder with the features' top contexts; the transcoder run's own by default.
        supernodes: Largest number of feature groups on the page; more groups are finer, 0 shows
            none.
        out: Folder for graph.safetensors, graph.json (Neuronpedia's format) and report.html.
        wait: Wait while another process writes to the folder, instead of ending with an error.
        dtype: Dtype of weights and computation: float32, or bfloat16, which halves the memory.
        devices: Devices to run on.
        config: Settings of the graph.
    """

    model: str
    prompt: str
    target: tuple[str, ...] = ()
    versus: tuple[str, ...] = ()
    features: str = NEURONS
    contexts: Path | None = None
    supernodes: int = 24
    out: Path = Path("runs/attribute")
    wait: bool = False
    dtype: str = "float32"
    devices: Annotated[Devices, tyro.conf.arg(name="")] = Devices()
    config: Annotated[AttributionConfig, tyro.conf.arg(name="")] = AttributionConfig()


def run_attribute(command: Attribute, line: str = "", stop: Stop = never) -> AttributionGraph:
    """Run `hagd attribute`.

    Args:
        command: The parsed arguments.
        line: Command line, for the report.
        stop: Called regularly during the work; raises `Interrupted` to stop it there.

    Returns:
        The graph, which was also saved.
    """
    require_writable(command.out)
    session = Session(command.devices, line, stop)
    with pipeline.only_writer(command.out, wait=command.wait):
        return _attribute(command, session)


def _attribute(command: Attribute, session: Session) -> AttributionGraph:
    """Compute the graph, and write its files and its page."""
    model = session.model(command.model, command.dtype)
    nodes = session.rows(model, command.features)
    with bars(stop=session.stop) as progress:
        graph = graphs.attribute(
            model,
            nodes,
            command.prompt,
            command.config,
            targets=_targets(command, model),
            progress=lambda done, total: progress.update("features", done, total),
            tell=progress.say,
        )
    facts = session.facts(model, dictionary=graph.info.dictionary)
    contexts = _contexts(command)
    groups = []
    if command.supernodes:
        names = _names(graph, contexts, model)
        groups = hierarchy.supernodes(graph, most=command.supernodes, names=names)
    # The plotting modules take a third of a second to import, so they are imported late.
    from hagd_jax.report.graph_page import graph_page

    page = graph_page(
        graph, contexts=contexts, tokenizer=model.tokenizer, facts=facts, supernodes=groups
    )
    if parallel.is_main():
        graphs.save_graph(graph, command.out / "graph.safetensors")
        graphs.to_neuronpedia(graph, command.out / "graph.json")
        write_atomic(command.out / "report.html", page)
        show(graph_table(graph))
        show(f"Report: {escape(str(command.out / 'report.html'))}")
    return graph


def graph_table(graph: AttributionGraph, rows: int = 12) -> Table:
    """Make a table of a graph's most influential features, at most 80 columns wide.

    Args:
        graph: The graph.
        rows: Number of features to show.

    Returns:
        The table, for `rich.print`.
    """
    found, worth = graphs.graph_scores(graph), graphs.influence(graph)
    nodes = graph.nodes
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(f"{len(graph.of_kind(FEATURE)):,} of {graph.info.active:,} active features"),
        caption=f"replacement {found.replacement:.3f}, completeness {found.completeness:.3f}; "
        f"targets {escape(', '.join(repr(word_of(t.label)) for t in graph.info.targets))}",
        title_style="bold", title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in ("feature", "token", "activation", "influence"):
        table.add_column(name, justify="right" if name[0] in "ai" else "left")
    features = graph.of_kind(FEATURE)
    for node in features[np.argsort(-worth[features], kind="stable")][:rows]:
        position = int(nodes.position[node])
        word = graph.info.words[position] if graph.info.words else str(position)
        table.add_row(
            feature_name(graph, int(node)),
            escape(repr(word_of(word))),
            f"{nodes.activation[node]:.3f}",
            f"{worth[node]:.4f}",
        )
    return table


def _targets(command: Attribute, model: models.LanguageModel) -> list | None:
    """Return the targets of the graph; None for the most likely tokens."""
    if not command.versus:
        return list(command.target) or None
    if len(command.target) != 1:
        raise InputError(
            "target", got=f"{len(command.target)} targets with --versus", expected="exactly one",
            mend="Name one --target, or leave out --versus.",
        )  # fmt: skip
    return [graphs.difference_target(model, command.target[0], command.versus)]


def _names(
    graph: AttributionGraph, contexts: transcoders.Contexts | None, model: models.LanguageModel
) -> hierarchy.Names | None:
    """Return a function that names a feature by its top tokens; None without contexts."""
    if contexts is None:
        return None

    def names(node: int) -> list[str]:
        layer, index = int(graph.nodes.layer[node]), int(graph.nodes.index[node])
        own = contexts.feature(layer, index).contexts[:3] if layer in contexts.layers else ()
        found = [token_text(model.tokenizer, int(one.tokens[one.firing])) for one in own]
        position = int(graph.nodes.position[node])
        return found or [graph.info.words[position] if graph.info.words else f"@{position}"]

    return names


def _contexts(command: Attribute) -> transcoders.Contexts | None:
    """Load the contexts that were asked for, or those beside the transcoder; None if absent."""
    if command.contexts is not None:
        return transcoders.load_contexts(command.contexts)
    beside = Path(command.features).parent / "contexts"
    if command.features == NEURONS or not beside.is_dir():
        return None
    try:
        return transcoders.load_contexts(beside)
    except CheckpointError:
        return None
