"""What decides an extraction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

from hagd_jax.causal import ValidateConfig
from hagd_jax.errors import ConfigError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.scores import GradientConfig
from hagd_jax.search import MaskConfig, RepairConfig
from hagd_jax.tasks import Sizes

Progress = Callable[[str, int, int], None]
Prior = Literal["ig", "learner"]
Search = Literal["masks", "top", "steps"]


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """What decides an extraction.

    Attributes:
        nodes: Size of the circuit: a number of nodes ("64") or a share of them ("5%").
        seed: Of the prompts, the controls and the bootstrap.
        sizes: Prompts in each split, when the task is given by name.
        gradient: How nodes are scored.
        search: What makes a circuit of the scores: `masks`, trained from there; the `top` ones; or
            `steps`, the composed step, which does everything from scores to masks in one program.
        levels: How many levels of clusters masks are opened through; 0 for none.
        prior: Where masks begin: at signed integrated gradients (`ig`), or at what the meta-learner
            makes of the graph (`learner`).
        graph_prompts: Prompts of the graph that clusters come from.
        candidates: Features that the graph is made of, those with the largest scores; the others
            are clustered by layer.
        graph_steps: Where on the path from the counterfactual its gradients are taken.
        hierarchy: How that graph is coarsened.
        masks: How masks are trained.
        repair: Swaps that are measured at the end.
        judge: How the circuit is tested: by default the claims that decide, and no more of them
            than it takes.
    """

    nodes: str = "5%"
    seed: int = 0
    sizes: Sizes = Sizes()
    gradient: GradientConfig = GradientConfig()
    search: Search = "masks"
    levels: int = 2
    prior: Prior = "ig"
    graph_prompts: int = 16
    candidates: int = 4096
    graph_steps: tuple[float, ...] = (0.3, 0.6, 0.9)
    hierarchy: HierarchyConfig = HierarchyConfig(ratio=1 / 16)
    masks: MaskConfig = MaskConfig()
    repair: RepairConfig = RepairConfig()
    judge: ValidateConfig = ValidateConfig(claims="core")

    def __post_init__(self):
        if self.seed < 0:
            raise ConfigError("seed", got=self.seed, expected="0 or more")
        if self.levels < 0 or min(self.graph_prompts, self.candidates) < 1:
            raise ConfigError(
                "levels, graph_prompts and candidates",
                got=(self.levels, self.graph_prompts, self.candidates),
                expected="0 or more, and 1 or more of the others",
            )  # fmt: skip
        if self.prior not in get_args(Prior):
            raise ConfigError("prior", got=repr(self.prior), expected="ig or learner")
        if self.search not in get_args(Search):
            raise ConfigError("search", got=repr(self.search), expected="masks, top or steps")
        asked = self.repair.rounds > 0, self.masks.mean > 0
        if self.search == "steps" and any(asked):
            raise ConfigError(
                "search", got="steps, with repair or mean ablation",
                expected="neither, which the composed step does not do",
                mend="Use --search masks.",
            )  # fmt: skip

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
