"""From a model and a behaviour to a circuit that was tested."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from hagd_jax import meta
from hagd_jax.causal import (
    Circuit,
    SizePoint,
    ValidationReport,
    curve_areas,
    size_curve,
    validate,
)
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import agree
from hagd_jax.pipeline.config import ExtractConfig, Progress
from hagd_jax.pipeline.find import SELECT, Found, find
from hagd_jax.pipeline.levels import Coarse, levels
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.stages import Stage, require_stage
from hagd_jax.scores import GradientConfig, node_scores
from hagd_jax.search import Tree
from hagd_jax.tasks import Seen, Task
from hagd_jax.tasks import task as find_task
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary, Nodes, as_dictionary


@dataclasses.dataclass(frozen=True)
class Result:
    """What an extraction returns.

    Attributes:
        circuit: The circuit, with its provenance.
        report: The verdict of the judge, on the test split.
        curve: Faithfulness against size, under the counterfactual.
        scores: Every node's score.
        task: The behaviour, with its prompts.
    """

    circuit: Circuit
    report: ValidationReport
    curve: tuple[SizePoint, ...]
    scores: Nodes
    task: Task


def extract(
    model: LanguageModel,
    task: Task | str,
    config: ExtractConfig = ExtractConfig(),
    *,
    dictionary: Dictionary | Transcoder | None = None,
    run: RunFolder | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find a circuit and test it.

    Nodes are scored on the discover split, masks are trained from there, and the circuit is judged
    on the test split by ablating what is outside it, what is inside it, and random circuits like
    it. Where masks do no better on the select split than the nodes with the best scores, those
    are the circuit.

    Args:
        model: The model, on any mesh.
        task: The behaviour: a name, or a `Task` of this model's tokens.
        config: Size, scoring, judging.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        run: Where to log and to keep checkpoints; an interrupted run continues there.
        progress: Called with (stage, done, total) as work proceeds.

    Returns:
        The circuit and what was measured of it.

    Raises:
        ConfigError: If the asked size does not fit the model.
        InputError: If the task is unknown, has no discover or test split, or does not fit; or
            if the dictionary is one for another model.

    Example:
        >>> model = hagd.models.load("smollm2-135m")
        >>> result = hagd.extract(model, "ioi", ExtractConfig(nodes="5%"))
        >>> result.report.headline
        'rejected on 64 test prompts under mean, resample'
    """
    nodes = as_dictionary(model, dictionary)
    size = config.size(nodes.space.nodes)
    if isinstance(task, str):
        task = find_task(task, model, sizes=config.sizes, seed=config.seed)
    tell = progress or (lambda stage, done, total: None)
    scores, found = _found(model, task, size, config, nodes, run, tell, "judge")
    assert found is not None
    circuit = Circuit.from_mask(
        found.masks[size],
        found.ranks,
        model=model.name,
        task=task.name,
        dictionary=nodes.label,
        seen=_seen(model, nodes, task, config, found),
        seed=config.seed,
        config=dataclasses.asdict(config) | {"found_by": found.by},
    )
    if run is not None:
        run.rewind("verdict", -1)
    report = _judge(model, nodes, circuit, task, config, tell)
    curve = _curve(model, nodes, found.masks, task, config, tell)
    if run is not None:
        run.log("verdict", **report.to_json())
        for point in curve:
            run.log("curve", **_plain(point))
        if (found := curve_areas(curve, nodes.space.nodes)) is not None:
            run.log("areas", cpr=found.cpr, cmd=found.cmd)
        run.write("circuit.json", circuit.to_json())
    return Result(circuit, report, curve, scores, task)


def _seen(
    model: LanguageModel, nodes: Dictionary, task: Task, config: ExtractConfig, found: Found
) -> Seen:
    """What the circuit was chosen by looking at."""
    ablations = ["counterfactual"]
    ablations += ["mean"] if found.by != "steps" and config.masks.mean else []
    seen = task.look("discover", ablation=ablations, model=model, dictionary=nodes)
    if found.compared:
        seen |= task.look("select", ablation=SELECT)
    return seen


def run_until(
    until: Stage,
    model: LanguageModel,
    task: Task,
    config: ExtractConfig = ExtractConfig(),
    *,
    run: RunFolder,
    dictionary: Dictionary | Transcoder | None = None,
    progress: Progress | None = None,
) -> None:
    """The stages of `extract` up to one, that one included; another call goes on from there.

    Args:
        until: `score`, `hierarchy` or `search`.
        model: The model.
        task: The behaviour.
        config: As in `extract`.
        run: Where stages leave what they find.
        dictionary: As in `extract`.
        progress: As in `extract`.

    Raises:
        ConfigError: If there is no such stage.
        InputError: As in `extract`.
    """
    nodes = as_dictionary(model, dictionary)
    tell = progress or (lambda stage, done, total: None)
    size = config.size(nodes.space.nodes)
    _found(model, task, size, config, nodes, run, tell, require_stage(until, "until"))


def _found(
    model: LanguageModel,
    task: Task,
    size: int,
    config: ExtractConfig,
    nodes: Dictionary,
    run: RunFolder | None,
    tell: Progress,
    until: Stage,
) -> tuple[Nodes, Found | None]:
    """Scores, and circuits unless a stage before the search was to be the last."""
    for split in ("discover", "test"):
        if split not in task.splits:
            raise InputError(f"task {task.name!r}", got=sorted(task.splits), expected=repr(split))
    if config.prior == "learner":
        meta.load()  # refused now, if there is none, and not after hours
    scores = score(model, task, config.gradient, dictionary=nodes, run=run, progress=tell)
    if until == "score":
        return scores, None
    coarse = Coarse(Tree(()), scores)
    if config.search == "masks" and size < nodes.space.nodes:
        coarse = levels(model, task, scores, config, dictionary=nodes, run=run, progress=tell)
    if until == "hierarchy":
        return scores, None
    found = find(
        model, task, scores, size, config, dictionary=nodes, run=run, progress=tell,
        tree=coarse.tree, prior=coarse.prior,
    )  # fmt: skip
    return scores, found


def score(
    model: LanguageModel,
    task: Task,
    config: GradientConfig,
    *,
    dictionary: Dictionary | Transcoder | None = None,
    run: RunFolder | None = None,
    progress: Progress | None = None,
    save_every: float = 10.0,
) -> Nodes:
    """Mean score of every node on the discover split; see `scores.node_scores`.

    Args:
        model: The model.
        task: The behaviour.
        config: Steps and batching.
        dictionary: As in `extract`.
        run: Where to log and to keep the running sum.
        progress: Called with ("score", done, total).
        save_every: Seconds between checkpoints; the last batch is always saved.

    Returns:
        `Nodes` of float32 on the host.
    """
    prompts, nodes = task.splits["discover"], as_dictionary(model, dictionary)
    nothing = Nodes.full(nodes.space, 0.0)
    start = run.checkpoints.latest(nothing) if run else None
    reached = start[0] if start else 0
    if run is not None and reached < len(prompts):
        run.rewind("score", reached)
    saved = began = time.monotonic()
    done, total = start or (0, nothing)
    for done, total in node_scores(model, prompts, config, dictionary=nodes, start=start):
        jax.block_until_ready(total)
        if progress is not None:
            progress("score", done, len(prompts))
        if run is None:
            continue
        now = time.monotonic()
        run.log("score", step=done, of=len(prompts), seconds=round(now - began, 3))
        # All processes save together, so one clock decides.
        if agree(now - saved >= save_every or done == len(prompts)):
            run.checkpoints.save(done, total)
            saved = now
    return jax.tree.map(lambda x: np.asarray(x) / len(prompts), total)


def _judge(
    model: LanguageModel,
    nodes: Dictionary,
    circuit: Circuit,
    task: Task,
    config: ExtractConfig,
    tell: Progress,
) -> ValidationReport:
    done = []

    def on_ablation(name: str) -> None:
        done.append(name)
        tell("judge", len(done), len(config.judge.ablations))

    return validate(
        model,
        circuit,
        task,
        config.judge,
        dictionary=nodes,
        seed=config.seed,
        progress=on_ablation,
    )


def _curve(
    model: LanguageModel,
    nodes: Dictionary,
    masks: dict[int, Nodes],
    task: Task,
    config: ExtractConfig,
    tell: Progress,
) -> tuple[SizePoint, ...]:
    curve = size_curve(
        model,
        task,
        [masks[size] for size in sorted(masks)],
        dictionary=nodes,
        ablation=SELECT,
        batch_size=config.judge.batch_size,
        seed=config.seed,
    )
    tell("curve", 1, 1)
    return curve


def _plain(point: SizePoint) -> dict[str, Any]:
    """Named tuples within as dicts."""
    values = point._asdict()
    return values | {k: v._asdict() for k, v in values.items() if hasattr(v, "_asdict")}
