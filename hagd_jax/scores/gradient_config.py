"""How gradients along a path are computed, and what can be scored by them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax.errors import InputError, require, require_flag, require_is, require_number
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """Configure how gradients along a path are computed.

    Attributes:
        steps: Where on the path the gradient is taken: 0 is the counterfactual, 1 the clean
            prompt. The mean over the steps stands for the integral.
        batch_size: Prompts in one call.
        remat: Recompute blocks in the backward pass; needed for large models only.
    """

    steps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    batch_size: int = 8
    remat: bool = False

    def __post_init__(self):
        steps = self.steps
        whole = isinstance(steps, tuple) and len(steps) > 0
        require(whole, "steps", got=repr(steps), expected="a tuple of one number or more")
        for step in steps:
            require_number("steps", step, least=0, most=1)
        require_number("batch_size", self.batch_size, least=1, whole=True)
        require_flag("remat", self.remat)


def check_scored(model: Any, prompts: Any, config: Any) -> None:
    """Refuse models, prompts and configurations that cannot be scored.

    Args:
        model: A `LanguageModel`.
        prompts: One prompt or more.
        config: A `GradientConfig`.

    Raises:
        InputError: If one of them is something else, or there are no prompts.
    """
    require_is("model", model, LanguageModel)
    require_is("prompts", prompts, Prompts, mend="A split of a task has some.")
    require_is("config", config, GradientConfig)
    if not len(prompts):
        raise InputError("prompts", got="none", expected="one or more")
