"""Stage 8: the page to look at."""

from __future__ import annotations

from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.facts import facts
from hagd_jax.report import Report
from hagd_jax.scores import mean_scores
from hagd_jax.units import Nodes


def write_page(context: Context, left: Left) -> Report:
    """Write the HTML page of the run.

    Returns:
        The report that the page shows.
    """
    # Drawing takes a third of a second to import.
    from hagd_jax.report.page import page

    nodes, circuit = left["features"].nodes, left["select"].circuit
    task, model = context.task, context.model
    about = {
        "description": task.description,
        "task": task.name,
        "dictionary": f"{circuit.dictionary}, {nodes.about}",
    }
    if left["score"].choice is not None:
        about["starts"] = left["score"].choice.words()
    report = Report(
        title=f"{task.name} in {model.name}",
        circuit=circuit,
        validation=left["judge"].report,
        scores=_scores(context, left),
        curve=left["judge"].curve,
        curve_ablation=context.config.judge.ablations[0],
        texts=task.texts["test"],
        facts={**facts(model, context.began), **about, **context.facts},
    )
    if context.run is not None:
        context.run.write("report.html", page(report))
    return report


def _scores(context: Context, left: Left) -> Nodes:
    """The score of every node of the circuit: of one that is split by span, at each span."""
    scored, spans = left["score"], left["select"].circuit.spans
    if not spans:
        return scored.values
    method = scored.choice.name if scored.choice is not None else context.config.starts[0]
    return mean_scores(
        context.model, context.scored, context.config.gradient_of(method), method=method,
        dictionary=left["features"].nodes.by_span(spans),
    ).values  # fmt: skip
