"""The stages of an extraction: which configuration each reads, and what each leaves in a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from hagd_jax.errors import ConfigError

Stage = Literal["score", "hierarchy", "search", "judge"]
STAGES: tuple[Stage, ...] = get_args(Stage)
# The stage that first reads a field of the configuration; all others decide from the start.
READ_BY: Mapping[str, Stage] = MappingProxyType(
    {
        "levels": "hierarchy",
        "graph_prompts": "hierarchy",
        "candidates": "hierarchy",
        "graph_steps": "hierarchy",
        "hierarchy": "hierarchy",
        "prior": "hierarchy",
        "nodes": "search",
        "search": "search",
        "masks": "search",
        "repair": "search",
        "judge": "judge",
    }
)
LEFT: Mapping[Stage, tuple[str, ...]] = MappingProxyType(
    {
        "score": ("checkpoints",),
        "hierarchy": ("hierarchy.npz",),
        "search": ("masks", "steps"),
        "judge": ("circuit.json", "report.html"),
    }
)


def require_stage(name: str, field: str) -> Stage:
    """The stage of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in STAGES:
        raise ConfigError(field, got=repr(name), expected=f"one of {', '.join(STAGES)}")
    return name


def left_by(first: Stage) -> tuple[str, ...]:
    """What stages from one on leave in a run's folder.

    Example:
        >>> left_by("search")
        ('masks', 'steps', 'circuit.json', 'report.html')
    """
    return tuple(name for stage in STAGES[STAGES.index(first) :] for name in LEFT[stage])


def settled_before(first: Stage, config: Mapping[str, object]) -> dict[str, object]:
    """Fields that decide what stages before one leave: those must be what they were.

    Args:
        first: The first stage that is run again.
        config: Of an extraction, as JSON values.

    Returns:
        The others left out.
    """
    again = STAGES[STAGES.index(first) :]
    return {name: value for name, value in config.items() if READ_BY.get(name) not in again}
