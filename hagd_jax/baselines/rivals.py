"""All rivals on one task: each at its best variant, at the sizes asked for, with its costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from hagd_jax.baselines.acdc import acdc
from hagd_jax.baselines.edge_pruning import EdgePruningConfig, edge_pruning
from hagd_jax.baselines.node_masks import node_masks
from hagd_jax.brief import one_line
from hagd_jax.errors import (
    InputError,
    require_choice,
    require_config,
    require_index,
    require_is,
    require_list,
    require_number,
)
from hagd_jax.models import LanguageModel
from hagd_jax.scores import METHODS, GradientConfig, component_graph, mean_scores
from hagd_jax.search import MaskConfig, RepairConfig, measured_losses
from hagd_jax.search.checks import require_sizes
from hagd_jax.search.parts import best, count, flat
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Parts, Scores, Selection, Source, components, parts_of

Of = Literal["nodes", "edges"]
NODE_RIVALS = (*METHODS, "masks")
EDGE_RIVALS = ("eap", "eap_ig", "relp", "gim", "acdc", "edge_pruning", "masks")
# A gradient takes about three forward passes.
_GRADIENT = 3


@dataclasses.dataclass(frozen=True)
class RivalsConfig:
    """Configure all rivals of one comparison.

    Attributes:
        masks: Training of masks without levels; its steps times its batch size bound the prompts
            that the gradient methods average over, so that nobody sees more prompts than masks do.
        pruning: Training of Edge Pruning.
        thresholds: ACDC's sweep, in nats.
        swept: Largest number of discover prompts that ACDC runs each edge on.
        batch_size: Prompts in one call of the others.
    """

    masks: MaskConfig = MaskConfig()
    pruning: EdgePruningConfig = EdgePruningConfig()
    thresholds: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
    swept: int = 32
    batch_size: int = 8

    def __post_init__(self):
        require_config("masks", self.masks, MaskConfig)
        require_config("pruning", self.pruning, EdgePruningConfig)
        for threshold in require_list("thresholds", self.thresholds, "numbers above 0"):
            require_number("thresholds", threshold, above=0)
        for field in ("swept", "batch_size"):
            require_number(field, getattr(self, field), least=1, whole=True)


class Rival(NamedTuple):
    """What one rival found, and what that took.

    Attributes:
        name: Of `NODE_RIVALS` or `EDGE_RIVALS`.
        of: What its circuits consist of.
        variant: The variant that was chosen: `signed` or `magnitude` of scores; else empty.
        circuits: Size → circuit. ACDC's are the largest of its sweep that are no larger than the
            size; where all are larger the size is missing.
        seconds: Wall time, with compilation and with the choice of the variant.
        passes: Forward passes of one prompt; a gradient counts as three of them.
        losses: Variant → mean over sizes of its loss on the select split, where there are several.
    """

    name: str
    of: Of
    variant: str
    circuits: dict[int, Selection]
    seconds: float
    passes: int
    losses: dict[str, float]

    __repr__ = one_line


class _Setting(NamedTuple):
    """What all rivals are given."""

    model: LanguageModel
    task: Task
    prompts: Prompts  # of the discover split, as many as masks see
    parts: Parts
    of: Of
    sizes: list[int]
    config: RivalsConfig
    seed: int


class _Found(NamedTuple):
    """Circuits by variant and size, and the passes that they took."""

    variants: dict[str, dict[int, Selection]]
    passes: int


def rivals(
    model: LanguageModel,
    task: Task,
    sizes: Sequence[int],
    config: RivalsConfig = RivalsConfig(),
    *,
    of: Of = "nodes",
    names: Sequence[str] | None = None,
    dictionary: Source | None = None,
    seed: int = 0,
) -> tuple[Rival, ...]:
    """Run other ways to find circuits on the prompts of a task, each at its best variant.

    All rivals read the discover split alone, under counterfactual ablation. Scores give two
    circuits of each size, of the highest scores and of the largest magnitudes; the select split
    chooses between them, by KL plus squared relative error of the metric, averaged over sizes
    (`search.measured_losses`). The test split is not looked at. Circuits record what they have
    seen. Circuits of nodes and of edges have different units, so each kind has its own call.

    Args:
        model: The model.
        task: The behaviour, with a discover and a select split.
        sizes: Numbers of nodes, or of edges.
        config: How the rivals run.
        of: `nodes` or `edges`.
        names: Which rivals, of `NODE_RIVALS` or `EDGE_RIVALS`; all if None.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        seed: Seed of masks and of Edge Pruning.

    Returns:
        One result for each rival, in the order of the names.

    Raises:
        InputError: If a size is not from 1 to the number of units, or the task lacks a split, or
            there is no such rival.
        ConfigError: If `of` is neither.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> task = hagd.testbeds.as_task(case, test=16)
        >>> (found,) = rivals(case.model, task, [4], names=["eap"])
        >>> found.variant in ("signed", "magnitude"), len(found.circuits[4])
        (True, 4)
    """
    require_is("model", model, LanguageModel)
    require_is("task", task, Task)
    require_is("config", config, RivalsConfig)
    require_choice("of", of, get_args(Of))
    every = NODE_RIVALS if of == "nodes" else EDGE_RIVALS
    names = every if names is None else require_list("names", names, "names of rivals")
    for name in names:
        if name not in every:
            raise InputError("rival", got=repr(name)[:80], expected=f"one of {', '.join(every)}")
    seed = require_index("seed", seed)
    if of == "edges" and dictionary is not None:
        raise InputError("dictionary", got="one for edges", expected="none",
                         mend="Edges run between whole components.")  # fmt: skip
    parts = components(model) if of == "edges" else parts_of(model, dictionary)
    sizes = require_sizes(sizes, count(parts))
    most = config.masks.steps * config.masks.batch_size
    setting = _Setting(model, task, task.splits["discover"][:most], parts, of, sizes, config, seed)
    return tuple(_run(name, setting) for name in names)


def _run(name: str, setting: _Setting) -> Rival:
    began = time.monotonic()
    found = _FINDERS.get(name, _ranked)(name, setting)
    variant, losses, extra = _chosen(found.variants, setting)
    circuits = found.variants[variant]
    if losses:
        seen = setting.task.look("select", ablation="counterfactual", model=setting.model)
        circuits = {size: each.after(seen) for size, each in circuits.items()}
    seconds = time.monotonic() - began
    return Rival(name, setting.of, variant, circuits, seconds, found.passes + extra, losses)


def _chosen(
    variants: dict[str, dict[int, Selection]], setting: _Setting
) -> tuple[str, dict[str, float], int]:
    """The variant with the least mean loss on the select split, all losses, and the passes."""
    if len(variants) == 1:
        return next(iter(variants)), {}, 0
    prompts = setting.task.splits["select"]
    masks = [each for circuits in variants.values() for each in circuits.values()]
    config = RepairConfig(batch_size=setting.config.batch_size)
    found = measured_losses(setting.model, prompts, masks, config, dictionary=setting.parts)
    means = found.reshape(len(variants), -1).mean(1)
    losses = dict(zip(variants, map(float, means), strict=True))
    return min(losses, key=losses.__getitem__), losses, (2 + len(masks)) * len(prompts)


def _ranked(name: str, setting: _Setting) -> _Found:
    """Circuits of the highest scores, and of those with the largest magnitudes."""
    scores, passes = _scored(name, setting)
    row = flat(setting.parts, scores.values).astype(np.float64)
    variants = {
        variant: {size: Selection(best(setting.parts, rank, size), scores.seen)
                  for size in setting.sizes}
        for variant, rank in (("signed", row), ("magnitude", np.abs(row)))
    }  # fmt: skip
    return _Found(variants, passes)


def _scored(name: str, setting: _Setting) -> tuple[Scores, int]:
    """Scores by a method of `METHODS`, and the passes that they take."""
    method, prompts = METHODS[name], setting.prompts
    config = GradientConfig(method.steps, setting.config.batch_size)
    if setting.of == "edges":
        graph = component_graph(setting.model, prompts, config, rules=method.rules)
        # A gradient at each step, and both ends of the path.
        return graph.scores, len(prompts) * (2 + _GRADIENT * len(method.steps))
    dictionary: Any = setting.parts
    scores = mean_scores(setting.model, prompts, config, method=name, dictionary=dictionary)
    beside = {"masks": (1, 0), "embeddings": (2, 2 if method.factor == "rate" else 1)}
    once, each = beside[method.path]
    return scores, len(prompts) * (once + (each + _GRADIENT) * len(method.steps))


def _masks(name: str, setting: _Setting) -> _Found:
    """Masks without levels, which begin at the best known signed scores."""
    scores, passes = _scored("ig" if setting.of == "nodes" else "eap_ig", setting)
    config = setting.config.masks
    found = node_masks(
        setting.model, setting.prompts, setting.sizes, config, scores=scores,
        dictionary=setting.parts, seed=setting.seed,
    )  # fmt: skip
    trained = config.steps * config.batch_size * (1 + _GRADIENT)
    # The model once as the target, and two circuits in the end.
    return _Found({"": found.circuits}, passes + trained + 5 * len(setting.prompts))


def _acdc(name: str, setting: _Setting) -> _Found:
    config, prompts = setting.config, setting.prompts[: setting.config.swept]
    found = acdc(setting.model, prompts, config.thresholds, batch_size=config.batch_size)
    circuits = {}
    for size in setting.sizes:
        fits = [each for each in found if 0 < len(each.circuit) <= size]
        if fits:
            circuits[size] = max(fits, key=lambda each: len(each.circuit)).circuit
    runs = 2 + sum(each.evaluations for each in found)
    return _Found({"": circuits}, runs * len(prompts))


def _pruning(name: str, setting: _Setting) -> _Found:
    config, prompts = setting.config.pruning, setting.prompts
    found = edge_pruning(setting.model, prompts, setting.sizes, config, seed=setting.seed)
    trained = len(found) * config.steps * config.batch_size * (1 + _GRADIENT)
    return _Found({"": {size: each.circuit for size, each in found.items()}},
                  trained + len(prompts))  # fmt: skip


_FINDERS: dict[str, Callable[[str, _Setting], _Found]] = {
    "masks": _masks,
    "acdc": _acdc,
    "edge_pruning": _pruning,
}
