"""The stages of an extraction, in order, and everything that follows from the list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hagd_jax.errors import ConfigError, require_is
from hagd_jax.pipeline import (
    features,
    judging,
    levels,
    masks,
    paging,
    repairing,
    scoring,
    selecting,
    starts,
    trees,
    unit_found,
    unit_stages,
)
from hagd_jax.pipeline.context import Context, Left, Stage
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.seen_files import file_of

_Step = Callable[[Context, Left], Any]
_Keep = Callable[[RunFolder, Any], None]


def _by_search(over_nodes: _Step, over_units: _Step) -> _Step:
    """Choose what a stage does by what is searched over."""

    def act(context: Context, left: Left) -> Any:
        return (over_units if context.config.search == "units" else over_nodes)(context, left)

    return act


def _by_kind(over_nodes: _Keep, over_units: _Keep) -> _Keep:
    """Choose how a result is kept by what was searched over."""

    def keep(run: RunFolder, value: Any) -> None:
        units = isinstance(value, unit_found.FoundUnits | unit_found.MendedUnits)
        (over_units if units else over_nodes)(run, value)

    return keep


STAGES: tuple[Stage, ...] = (
    Stage(
        "features",
        reads=("executor", "seed", "sizes", "features", "corpus", "train"),
        leaves=("features",),
        looks=features.looks,
        make=features.features,
    ),
    Stage(
        "score",
        reads=("gradient", "score_prompts", "starts"),
        leaves=("checkpoints", scoring.FILE, starts.FILE),
        looks=scoring.looks,
        make=scoring.score,
        keep=scoring.keep,
        kept=scoring.kept,
    ),
    Stage(
        "hierarchy",
        reads=("levels", "prior", "graph_prompts", "candidates", "graph_steps", "hierarchy"),
        leaves=(levels.FILE,),
        looks=levels.looks,
        make=levels.hierarchy,
        keep=levels.keep,
        kept=levels.kept,
    ),
    Stage(
        "search",
        reads=("nodes", "search", "units", "unit_masks", "masks"),
        leaves=("masks", masks.FILE, trees.FILE),
        looks=_by_search(masks.looks, unit_stages.search_looks),
        make=_by_search(masks.search, unit_stages.search),
        keep=_by_kind(masks.keep, unit_found.keep_search),
        kept=_by_search(masks.kept, unit_stages.search_kept),
    ),
    Stage(
        "repair",
        reads=("unit_repair", "unit_prune", "repair"),
        leaves=(repairing.FILE,),
        looks=_by_search(repairing.looks, unit_stages.repair_looks),
        make=_by_search(repairing.repair, unit_stages.repair),
        keep=_by_kind(repairing.keep, unit_found.keep_repair),
        kept=_by_search(repairing.kept, unit_stages.repair_kept),
    ),
    Stage(
        "select",
        reads=("by_span", "unit_spans", "describe"),
        leaves=(selecting.FILE,),
        looks=_by_search(selecting.looks, unit_stages.select_looks),
        make=_by_search(selecting.select, unit_stages.select),
        keep=selecting.keep,
        kept=_by_search(selecting.kept, unit_stages.select_kept),
    ),
    Stage(
        "judge",
        reads=("judge",),
        leaves=(judging.FILE,),
        looks=features.looks,
        make=judging.judge,
        keep=judging.keep,
    ),
    Stage(
        "page",
        reads=(),
        leaves=("report.html",),
        looks=features.looks,
        make=paging.write_page,
    ),
)
NAMES: tuple[str, ...] = tuple(stage.name for stage in STAGES)
LAST = NAMES[-1]
# The state of the fused executor between two stages; any of them may be what it goes on with.
STEPS = "steps"


def require_stage(name: str, flag: str) -> str:
    """Refuse a name that is not a stage.

    Args:
        name: As a user typed it.
        flag: The flag or argument that it was typed for.

    Returns:
        The name.

    Raises:
        ConfigError: If there is no such stage.
    """
    require_is("flag", flag, str)
    if not isinstance(name, str) or name not in NAMES:
        raise ConfigError(flag, got=repr(name), expected=f"one of {', '.join(NAMES)}")
    return name


def files_from(first: str) -> tuple[str, ...]:
    """List the files and folders that a stage and those after it write.

    Example:
        >>> files_from("judge")
        ('validation.json', 'seen/judge.json', 'report.html', 'seen/page.json', 'steps')
    """
    own = STAGES[NAMES.index(first) :]
    files = [name for stage in own for name in (*stage.leaves, file_of(stage.name))]
    return (*files, STEPS)


def fields_after() -> dict[str, tuple[str, ...]]:
    """Map the files and folders of stages to the fields that only later stages read.

    Example:
        >>> fields_after()["search.npz"]
        ('unit_repair', 'unit_prune', 'repair', 'by_span', 'unit_spans', 'describe', 'judge')
    """
    found = {}
    for place, stage in enumerate(STAGES):
        fields = [name for later in STAGES[place + 1 :] for name in later.reads]
        found |= dict.fromkeys(stage.leaves, tuple(fields))
    return found


def fields_from(first: str) -> tuple[str, ...]:
    """List the fields of `ExtractConfig` that a stage or a later one is the first to read.

    They may change when the stage is done again, the others must stay as they were.

    Example:
        >>> fields_from("repair")
        ('unit_repair', 'unit_prune', 'repair', 'by_span', 'unit_spans', 'describe', 'judge')
    """
    return tuple(name for stage in STAGES[NAMES.index(first) :] for name in stage.reads)
