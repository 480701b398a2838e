"""Stage 7: the test of the circuit, on prompts that nothing before has seen."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

from hagd_jax.brief import one_line
from hagd_jax.causal import (
    SizePoint,
    ValidationReport,
    curve_areas,
    size_curve,
    validate,
)
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder

FILE = "validation.json"


class Judged(NamedTuple):
    """A judged circuit has a verdict and a size curve from the test split.

    Attributes:
        report: The verdict of the judge.
        curve: Faithfulness against size, under the first ablation.
    """

    report: ValidationReport
    curve: tuple[SizePoint, ...]

    __repr__ = one_line


def judge(context: Context, left: Left) -> Judged:
    """Judge the circuit, and measure circuits of other sizes."""
    if context.run is not None:
        context.run.rewind("verdict", -1)
    report, curve = _report(context, left), _curve(context, left)
    context.log("verdict", **report.to_json())
    for point in curve:
        context.log("curve", **_plain(point))
    if (areas := curve_areas(curve, left["select"].circuit.space.nodes)) is not None:
        context.log("areas", cpr=areas.cpr, cmd=areas.cmd)
    return Judged(report, curve)


def keep(run: RunFolder, judged: Judged) -> None:
    """Write the verdict, as `hagd validate` does."""
    run.write(FILE, json.dumps(judged.report.to_json(), indent=1, allow_nan=False) + "\n")


def _report(context: Context, left: Left) -> ValidationReport:
    config, done = context.config, []

    def on_ablation(name: str) -> None:
        done.append(name)
        context.progress("judge", len(done), len(config.judge.ablations))

    context.progress("judge", 0, len(config.judge.ablations))
    own = dataclasses.replace(config.judge, seed=config.judge.seed + config.seed)
    return validate(
        context.model, left["select"].circuit, context.task, own,
        dictionary=left["features"].nodes, progress=on_ablation,
    )  # fmt: skip


def _curve(context: Context, left: Left) -> tuple[SizePoint, ...]:
    config, circuits, units = context.config, left["select"].circuits, left["select"].units
    nodes, spans = left["features"].nodes, left["select"].circuit.spans
    context.progress("curve", 0, 1)
    curve = size_curve(
        context.model, context.task, [circuits[size] for size in sorted(circuits)],
        dictionary=nodes.by_span(spans) if spans else nodes, ablation=config.judge.ablations[0],
        batch_size=config.judge.batch_size, seed=config.seed,
    )  # fmt: skip
    context.progress("curve", 1, 1)
    return tuple(point._replace(units=units.get(point.nodes)) for point in curve)


def _plain(point: SizePoint) -> dict[str, Any]:
    """Named tuples within as dicts."""
    values = point._asdict()
    return values | {k: v._asdict() for k, v in values.items() if hasattr(v, "_asdict")}
