"""From scores to circuits of all sizes: masks trained from there, or the best scores."""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import numpy as np

from hagd_jax.causal import size_curve, sizes_of
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import agree
from hagd_jax.pipeline.composed import circuits as circuits_of
from hagd_jax.pipeline.config import ExtractConfig, Progress
from hagd_jax.pipeline.driver import run_steps
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.step_plan import StepConfig
from hagd_jax.search import MaskState, Tree, init_masks, repair, search_masks, top_nodes
from hagd_jax.tasks import Task
from hagd_jax.units import Dictionary, Nodes

# What masks and the best scores are compared under: one that the search has seen already, whatever
# the judge will ask.
SELECT = "counterfactual"


class Found(NamedTuple):
    """What a search found.

    Attributes:
        masks: Size → circuit, of the size asked for and of the ten of the curve.
        ranks: By which nodes were kept, at the size asked for: logits of masks, or scores.
        by: `masks`, `top` or `steps`.
        compared: Whether the select split chose between masks and the best scores.
    """

    masks: dict[int, Nodes]
    ranks: Nodes
    by: str
    compared: bool = False


def find(
    model: LanguageModel,
    task: Task,
    scores: Nodes,
    size: int,
    config: ExtractConfig,
    *,
    dictionary: Dictionary,
    run: RunFolder | None = None,
    progress: Progress | None = None,
    save_every: float = 10.0,
    tree: Tree | None = None,
    prior: Nodes | None = None,
) -> Found:
    """Circuits of all sizes from scores.

    Args:
        model: The model.
        task: The behaviour; masks are trained on its discover split, and compared with the best
            scores on its select split, if it has one.
        scores: Of every node.
        size: Of the circuit.
        config: How.
        dictionary: Whose nodes.
        run: Where to log and to keep checkpoints.
        progress: Called with ("masks", step, steps).
        save_every: Seconds between checkpoints; the last step is always saved.
        tree: Clusters that masks open through; none if None.
        prior: Where masks begin; the scores if None.

    Returns:
        The circuits.
    """
    total = dictionary.space.nodes
    sizes = sorted({*sizes_of(total), size})
    top = {k: top_nodes(scores, k) for k in sizes}
    if config.search == "top" or size == total:
        return Found(top, scores, "top")
    trained = [k for k in sizes if k < config.masks.start * total]
    trained = sorted({*trained, size})
    if config.search == "steps":
        state = run_steps(
            model, task, steps_of(config, size, trained), dictionary=dictionary, run=run,
            progress=progress, save_every=save_every,
        )  # fmt: skip
        ranks = _logits(state.masks.kept[trained.index(size)], dictionary)
        return Found(top | circuits_of(state, model), ranks, "steps")
    circuits, state = _trained(
        model,
        task,
        scores if prior is None else prior,
        trained,
        size,
        config,
        dictionary,
        run,
        progress,
        save_every,
        tree or Tree(()),
    )
    if config.repair.rounds:
        better = repair(
            model, task.splits["discover"], circuits[size], config.repair, dictionary=dictionary
        )
        circuits[size] = better.mask
        if run is not None:
            run.log("repair", losses=better.losses, evaluations=better.evaluations)
    ranks = _logits(state.kept[trained.index(size)], dictionary)
    pair = [circuits[size], top[size]]
    if "select" in task.splits and not _nearer(model, task, pair, config, dictionary, run):
        return Found(top, scores, "top", compared=True)
    return Found(top | circuits, ranks, "masks", compared="select" in task.splits)


def _nearer(
    model: LanguageModel,
    task: Task,
    pair: list[Nodes],
    config: ExtractConfig,
    dictionary: Dictionary,
    run: RunFolder | None,
) -> bool:
    """Whether masks are as near to the model as the best scores, on prompts neither has seen."""
    masks, top = size_curve(
        model, task, pair, dictionary=dictionary, split="select",
        ablation=SELECT, batch_size=config.judge.batch_size, seed=config.seed,
    )  # fmt: skip
    if run is not None:
        run.log("select", masks_kl=masks.kl, top_kl=top.kl)
    # As good is good enough: which one it is must not hang on rounding.
    return masks.kl <= 1.01 * top.kl + 1e-3


def steps_of(config: ExtractConfig, size: int, sizes: list[int]) -> StepConfig:
    """What the composed step is asked for by the same configuration."""
    return StepConfig(
        nodes=size, sizes=tuple(sizes), seed=config.seed, candidates=config.candidates,
        path=config.graph_steps, hierarchy=config.hierarchy, levels=max(config.levels, 1),
        prior="learner" if config.prior == "learner" else "scores",
        masks=config.masks,
    )  # fmt: skip


def _logits(kept: jax.Array, dictionary: Dictionary) -> Nodes:
    """Log-probabilities of being open, as logits: those are easier to read near 1."""
    chance = np.minimum(np.asarray(kept), -1e-7)
    return Nodes.from_flat(dictionary.space, chance - np.log(-np.expm1(chance)))


def _trained(
    model: LanguageModel,
    task: Task,
    scores: Nodes,
    sizes: list[int],
    size: int,
    config: ExtractConfig,
    dictionary: Dictionary,
    run: RunFolder | None,
    progress: Progress | None,
    save_every: float,
    tree: Tree,
) -> tuple[dict[int, Nodes], MaskState]:
    """Train masks, from the last checkpoint if there is one."""
    key = jax.random.key(config.seed)
    start = init_masks(key, scores.flat(), config.masks, tree=tree, sizes=len(sizes))
    saved = [time.monotonic()]
    resumed = run.masks.latest(start) if run else None
    if run is not None:
        run.rewind("masks", resumed[0] if resumed else 0)

    def on_state(state: MaskState) -> None:
        step, now = int(state.step), time.monotonic()
        # All processes save together, so one clock decides.
        if run and agree(now - saved[0] >= save_every or step == config.masks.steps):
            run.masks.save(step, state)
            saved[0] = now

    def on_steps(step: int, steps: int, metrics: dict[str, float]) -> None:
        if run is not None:
            run.log("masks", step=step, **metrics)
        if progress is not None:
            progress("masks", step, steps)

    return search_masks(
        model, task.splits["discover"], scores, sizes, config.masks, least=size, tree=tree,
        dictionary=dictionary, state=resumed[1] if resumed else start, on_state=on_state,
        on_steps=on_steps,
    )  # fmt: skip
