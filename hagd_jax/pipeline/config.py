"""The configuration of an extraction."""

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
from hagd_jax.transcoders import TrainConfig
from hagd_jax.units.dictionary import NEURONS

Progress = Callable[[str, int, int], None]
Prior = Literal["ig", "learner"]
Search = Literal["masks", "top"]
Executor = Literal["staged", "fused"]

# The value of `features` that learns a transcoder for the run.
TRANSCODER = "transcoder"


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """Configure an extraction.

    Attributes:
        nodes: Size of the circuit: a number of nodes ("64") or a share of the model's ("5%").
        executor: How the stages run: `staged`, one program after the other; or `fused`, up to the
            circuit as one compiled step for meshes. Both end with the same circuit.
        seed: Seed of the prompts, the masks, the controls and the bootstrap.
        sizes: Prompts in each split, if the task is given by name.
        features: The nodes inside MLPs: `neurons`; `mlps`, each MLP as one node; a transcoder, as a
            folder or hub id; or `transcoder` to learn one for this run.
        corpus: Text that a transcoder is learned from, see `hagd train-transcoder --help`. For
            algorithms the default is the examples that the model was trained on.
        train: How that transcoder is trained. Algorithms use settings for small models unless one
            of these is changed.
        gradient: How nodes are scored.
        search: How the circuit is chosen: `masks` trains masks from the scores, `top` keeps the
            nodes with the highest scores.
        levels: Levels of clusters that masks are opened through. By default two, or as many as the
            graph is large enough for; 0 for none.
        prior: Where masks begin: at signed integrated gradients (`ig`), or at the meta-learner's
            membership scores of the graph (`learner`).
        graph_prompts: Prompts of the discover split that the graph is averaged over.
        candidates: Features that are nodes of the graph, those with the largest scores; the other
            features are clustered by layer.
        graph_steps: Points on the path from the counterfactual (0) to the clean prompt (1) where
            the graph's gradients are taken.
        hierarchy: How the graph is coarsened.
        masks: How masks are trained.
        repair: How members are swapped after the search.
        judge: How the circuit is tested: by default the claims that decide, and no more of them
            than it takes. The first ablation is that of the curve of sizes.

    Raises:
        ConfigError: If a value is impossible.
    """

    nodes: str = "5%"
    executor: Executor = "staged"
    seed: int = 0
    sizes: Sizes = Sizes()
    features: str = NEURONS
    corpus: str | None = None
    train: TrainConfig = TrainConfig()
    gradient: GradientConfig = GradientConfig()
    search: Search = "masks"
    levels: int | None = None
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
        if min(self.levels or 0, self.graph_prompts - 1, self.candidates - 1) < 0:
            raise ConfigError(
                "levels, graph_prompts and candidates",
                got=(self.levels, self.graph_prompts, self.candidates),
                expected="0 or more, and 1 or more of the others",
            )  # fmt: skip
        if not self.graph_steps or not all(0 <= step <= 1 for step in self.graph_steps):
            raise ConfigError(
                "graph_steps", got=self.graph_steps, expected="numbers from 0 to 1, at least one"
            )
        for field, kind in (("prior", Prior), ("search", Search), ("executor", Executor)):
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(
                    field, got=repr(getattr(self, field)), expected=" or ".join(get_args(kind))
                )
        if not str(self.features).strip():
            raise ConfigError(
                "features", got=repr(self.features),
                expected="neurons, mlps, transcoder, a folder or a hub id",
            )  # fmt: skip

    def size(self, total: int) -> int:
        """Return the requested number of nodes.

        Args:
            total: Nodes of the model.

        Returns:
            From 1 to `total`.

        Raises:
            ConfigError: If `nodes` is neither a whole number from 1 to `total` nor a percentage.

        Example:
            >>> ExtractConfig(nodes="5%").size(1000)
            50
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
