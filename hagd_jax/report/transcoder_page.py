"""One self-contained HTML page about a transcoder: what it explains, and what its features are."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bokeh.embed import json_item

from hagd_jax.brief import one_line, quoted
from hagd_jax.files import read_jsonl
from hagd_jax.models import LanguageModel, Tokenizer
from hagd_jax.report.feature_cards import cards, striking
from hagd_jax.report.html import render
from hagd_jax.report.transcoder_plots import (
    Point,
    density_plot,
    layer_plots,
    learning_plots,
)
from hagd_jax.report.words import inert, number, percent
from hagd_jax.transcoders import Contexts, Evaluation, Transcoder, TranscoderConfig

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TranscoderReport:
    """A report holds everything that a transcoder's page shows.

    Attributes:
        title: Heading.
        model: Name of the model it imitates.
        config: The transcoder.
        evaluation: What was measured of it on held-out text.
        points: What was measured while it learnt, in any order.
        contexts: Where its features fire most; None for a page without them.
        tokenizer: The model's; without one tokens are shown as numbers.
        facts: Name → value, shown as provenance; `command` is shown as code.
    """

    title: str
    model: str
    config: TranscoderConfig
    evaluation: Evaluation
    points: tuple[Point, ...] = ()
    contexts: Contexts | None = None
    tokenizer: Tokenizer | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    __repr__ = one_line

    @classmethod
    def of_run(
        cls,
        folder: str | Path,
        transcoder: Transcoder,
        model: LanguageModel,
        evaluation: Evaluation,
        contexts: Contexts | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> TranscoderReport:
        """Make the report of a training run.

        Args:
            folder: Of the run; its `metrics.jsonl` is read if there is one, see `points_of_log`.
            transcoder: What was trained.
            model: What it imitates.
            evaluation: Of the finished transcoder; the last point of its curve.
            contexts: Where its features fire most.
            facts: Provenance.

        Returns:
            The report.
        """
        points = points_of_log(Path(folder) / "metrics.jsonl")
        trained = max((point.tokens for point in points), default=0)
        last = Point(trained, evaluation.mean_fvu, evaluation.loss_recovered, held_out=True)
        earlier = [point for point in points if not point.held_out or point.tokens < trained]
        return cls(
            title=f"Transcoder of {model.name}",
            model=model.name,
            config=transcoder.config,
            evaluation=evaluation,
            points=(*earlier, last),
            contexts=contexts,
            tokenizer=model.tokenizer,
            facts=facts or {},
        )


# What a line about held-out text says, in the order of the fields of `Point`.
_MEASURED = ("mean_fvu", "loss_recovered")


def points_of_log(file: Path) -> list[Point]:
    """Read the points that a training run logged.

    Args:
        file: A `metrics.jsonl`. Lines of the stage `transcoder` have `tokens` and `fvu`; lines of
            the stage `evaluation` have `trained`, the tokens trained on so far, and what
            `Evaluation.to_json` gives. Other lines, and broken ones, are skipped.

    Returns:
        The points; none if there is no such file.
    """
    points = []
    lines = read_jsonl(file, broken=lambda line, problem: None) if file.exists() else ()
    for line, row in lines:
        try:
            if row["stage"] == "transcoder":
                points.append(Point(float(row["tokens"]), float(row["fvu"])))
            elif row["stage"] == "evaluation":
                values = (float("nan") if row[k] is None else float(row[k]) for k in _MEASURED)
                points.append(Point(float(row["trained"]), *values, held_out=True))
        except (LookupError, TypeError, ValueError, ArithmeticError):
            _log.warning("%s: a broken line is left out: line %d, %s", file, line, quoted(row))
    return points


def transcoder_page(
    report: TranscoderReport,
    *,
    features_per_layer: int = 50,
    contexts_per_feature: int = 8,
    also: Iterable[tuple[int, int]] = (),
) -> str:
    """Render a report as one self-contained HTML page.

    Tokens are foreign text: they are made visible where they would hide or reorder text, cut
    where endless, and reach the page as text alone. The page's content security policy lets no
    script run but the two written here.

    Args:
        report: What to show.
        features_per_layer: Features to embed of each layer, the most strongly firing.
        contexts_per_feature: Contexts to embed of each feature.
        also: (layer, feature) pairs to embed besides.

    Returns:
        The page; write it as UTF-8.

    Raises:
        InputError: If a feature that was asked for has no contexts.

    Example:
        >>> import pathlib
        >>> from hagd_jax import transcoders
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> config = transcoders.TranscoderConfig(n_layers=1, d_model=12, n_features=24, k=4)
        >>> transcoder = transcoders.init(config, jax.random.key(0))
        >>> corpus = hagd.corpus.corpus_of_tokens("pairs", np.array([[0, 1], [0, 2]]), model)
        >>> found = transcoders.measure(transcoder, model, corpus.held_out_batches(1))
        >>> report = TranscoderReport("features", model.name, config, found)
        >>> page = transcoder_page(report)
        >>> written = pathlib.Path("page.html").write_text(page, encoding="utf-8")
    """
    evaluation, found = report.evaluation, report.contexts
    figures = learning_plots(report.points) | layer_plots(evaluation)
    figures["density"] = density_plot(evaluation)
    browser: dict[str, Any] = {"words": [], "features": []}
    if found is not None:
        chosen = [*striking(found, features_per_layer), *also]
        browser = cards(found, chosen, report.tokenizer, contexts_per_feature=contexts_per_feature)
    return render(
        "transcoder",
        title=report.title,
        report=report,
        claim=claim(report),
        stats=stats(report),
        plots=figures,
        islands={
            "figures": {name: json_item(figure) for name, figure in figures.items()},
            "cards": browser,
        },
        embedded=len(browser["features"]),
        total=report.config.n_layers * report.config.n_features,
        layers=sorted({feature["l"] for feature in browser["features"]}),
        facts=report.facts,
        config=json.dumps(dataclasses.asdict(report.config), indent=2),
    )


def claim(report: TranscoderReport) -> str:
    """Say in one sentence what the transcoder does."""
    evaluation, config = report.evaluation, report.config
    active, model = sum(evaluation.l0) / len(evaluation.l0), inert(report.model, 80)
    explained = 1 - evaluation.mean_fvu
    if math.isnan(explained):
        what = f"it stands in for the MLPs of {model}"
    else:
        what = f"it explains {percent(explained)} of what the MLPs of {model} write"
    return f"With {number(active)} of {config.n_features:,} features active a token, {what}."


def stats(report: TranscoderReport) -> list[tuple[str, str, str]]:
    """List (name, value, meaning) of each headline figure."""
    e = report.evaluation
    layers = len(e.fvu)
    return [
        (
            "FVU",
            percent(e.mean_fvu),
            "variance of MLP outputs left unexplained, mean of layers",
        ),
        (
            "Loss recovered",
            percent(e.loss_recovered),
            f"cross-entropy {number(e.loss)} in the model, {number(e.loss_replaced)} with every "
            f"MLP replaced, {number(e.loss_ablated)} without MLPs",
        ),
        ("L0", number(sum(e.l0) / layers), "active features a token and layer"),
        ("Dead", percent(sum(e.dead) / layers), "features that never fired on the held-out text"),
        (
            "Jacobian mismatch",
            percent(sum(e.jacobian) / layers),
            "how far its derivatives are from the MLPs': 0% equal, 100% no better than none",
        ),
        ("Held-out tokens", f"{e.tokens:,.0f}", "on which all of this was measured"),
    ]
