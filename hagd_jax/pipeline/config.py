"""What decides an extraction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

from hagd_jax.attribution import GradientConfig
from hagd_jax.causal import JudgeConfig
from hagd_jax.errors import ConfigError
from hagd_jax.search import MaskConfig
from hagd_jax.tasks import Sizes

Progress = Callable[[str, int, int], None]
Search = Literal["masks", "top"]


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """What decides an extraction.

    Attributes:
        nodes: Size of the circuit: a number of nodes ("64") or a share of them ("5%").
        seed: Of the prompts, the controls and the bootstrap.
        sizes: Prompts in each split, when the task is given by name.
        gradient: How nodes are scored.
        search: What makes a circuit of the scores: `masks`, trained from there, or the `top` ones.
        masks: How masks are trained.
        judge: How the circuit is tested.
    """

    nodes: str = "5%"
    seed: int = 0
    sizes: Sizes = Sizes()
    gradient: GradientConfig = GradientConfig()
    search: Search = "masks"
    masks: MaskConfig = MaskConfig()
    judge: JudgeConfig = JudgeConfig()

    def __post_init__(self):
        if self.seed < 0:
            raise ConfigError("seed", got=self.seed, expected="0 or more")
        if self.search not in get_args(Search):
            raise ConfigError("search", got=repr(self.search), expected="masks or top")

    def size(self, total: int) -> int:
        """The number of nodes asked for, of `total`.

        Raises:
            ConfigError: If `nodes` is neither a whole number from 1 to `total` nor a percentage.
        """
        text = str(self.nodes).strip()
        try:
            share = text.endswith("%")
            size = round(float(text[:-1]) / 100 * total) if share else int(text)
        except (ValueError, OverflowError):
            size = 0
        if not 1 <= size <= total:
            raise ConfigError(
                "nodes", got=repr(self.nodes), expected=f'1 to {total}, or a share such as "5%"'
            )
        return size
