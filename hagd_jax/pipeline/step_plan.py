"""What the composed step is asked for, and what each step does: data, one row a step."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.models import DecoderConfig
from hagd_jax.search import MaskConfig, schedule
from hagd_jax.search.schedule import trained_at
from hagd_jax.transcoders import TrainConfig
from hagd_jax.units import Space


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What the composed method does, fixed before its first step.

    Attributes:
        nodes: Of the circuit.
        sizes: Of other circuits that are kept on the way there.
        seed: Of everything random.
        features: A layer, of a dictionary that is given to each step; 0 for neurons.
        train: How a transcoder is trained here; None for neurons, or what is given.
        train_steps: How many steps train it.
        graph_steps: How many steps add prompts to the graph: half to scores, by which features
            are chosen, half to edges between those.
        candidates: Features that the graph is made of.
        path: Where gradients are taken between counterfactual, 0, and clean prompt, 1.
        hierarchy: How the graph is coarsened.
        levels: Levels of clusters, one to three.
        prior: Where masks begin: `scores`, sums of first-order scores, or `learner`, the
            meta-learner's logits.
        masks: How masks are trained; `masks.steps` steps.
    """

    nodes: int
    sizes: tuple[int, ...] = ()
    seed: int = 0
    features: int = 0
    train: TrainConfig | None = None
    train_steps: int = 0
    graph_steps: int = 4
    candidates: int = 1024
    path: tuple[float, ...] = (0.3, 0.6, 0.9)
    hierarchy: HierarchyConfig = HierarchyConfig(ratio=1 / 8)
    levels: int = 2
    prior: Literal["scores", "learner"] = "scores"
    masks: MaskConfig = MaskConfig()

    def __post_init__(self):
        if min(self.nodes, self.candidates, *self.sizes) < 1:
            raise ConfigError(
                "nodes, sizes and candidates", got=(self.nodes, self.sizes, self.candidates),
                expected="1 or more",
            )  # fmt: skip
        if self.graph_steps < 2 or self.graph_steps % 2:
            raise ConfigError("graph_steps", got=self.graph_steps, expected="2, 4, 6 or more")
        if self.prior not in ("scores", "learner"):
            raise ConfigError("prior", got=self.prior, expected="scores or learner")
        if not 1 <= self.levels <= 3:
            raise ConfigError("levels", got=self.levels, expected="1 to 3")
        if self.masks.mean:
            raise ConfigError("masks.mean", got=self.masks.mean, expected="0 in the composed step",
                              mend="Search with masks by themselves.")  # fmt: skip
        if bool(self.train) != bool(self.train_steps):
            raise ConfigError("train_steps", got=self.train_steps,
                              expected="some with `train`, none without")  # fmt: skip

    @property
    def kept(self) -> tuple[int, ...]:
        """All sizes of circuits."""
        return tuple(sorted({self.nodes, *self.sizes}))

    @property
    def steps(self) -> int:
        """Of all phases."""
        return self.train_steps + self.graph_steps + 1 + self.masks.steps

    def space(self, decoder: DecoderConfig) -> Space:
        """The nodes of a model."""
        width = self.features or decoder.d_mlp
        if self.train is not None:
            width = self.train.transcoder(decoder).n_features
        return Space(decoder.n_layers, decoder.n_heads, width)

    def counts(self, decoder: DecoderConfig) -> tuple[int, ...]:
        """Clusters of each level, coarsest first; those of other nodes, a layer each, included."""
        space = self.space(decoder)
        count = space.layers * space.heads + self.chosen(decoder)
        found = []
        for _ in range(self.levels):
            fewer = max(int(np.ceil(self.hierarchy.ratio * count)), self.hierarchy.least)
            count = min(count, fewer)
            found.append(count + space.layers)
        return tuple(found[::-1])

    def trained_at(self, decoder: DecoderConfig) -> np.ndarray:
        """(K,) expected sizes down to which the logits of each of `kept` are kept."""
        own = schedule(self.masks, self.space(decoder).nodes, self.nodes, self.levels)
        return trained_at(self.kept, self.masks, own)

    def chosen(self, decoder: DecoderConfig) -> int:
        """Features that the graph is made of."""
        space = self.space(decoder)
        return min(self.candidates, space.layers * space.features)


class Plan(NamedTuple):
    """What each step does: one row a step.

    Attributes:
        train: (S,) bool: update the transcoder.
        attribute: (S,) bool: add prompts to scores and edges.
        choose: (S,) bool: choose features by their scores, and begin edges anew.
        coarsen: (S,) bool: make clusters, and begin masks.
        search: (S,) bool: update masks.
        size: (S,) float32 expected nodes.
        opened: (S, levels + 1) bool: which levels decide.
    """

    train: np.ndarray
    attribute: np.ndarray
    choose: np.ndarray
    coarsen: np.ndarray
    search: np.ndarray
    size: np.ndarray
    opened: np.ndarray

    __repr__ = one_line


def plan(config: StepConfig, decoder: DecoderConfig) -> Plan:
    """Phases one after the other.

    Args:
        config: How long each is.
        decoder: The model's configuration.

    Returns:
        A row for each of `config.steps` steps.
    """
    total = config.space(decoder).nodes
    own = schedule(config.masks, total, config.nodes, config.levels)
    number = np.arange(config.steps)
    graph = config.train_steps, config.train_steps + config.graph_steps
    middle = config.train_steps + config.graph_steps // 2
    before = config.steps - config.masks.steps
    return Plan(
        train=number < graph[0],
        attribute=(number >= graph[0]) & (number < graph[1]),
        choose=number == middle,
        coarsen=number == graph[1],
        search=number >= before,
        size=np.pad(own.size, (before, 0), constant_values=total),
        opened=np.pad(own.opened, ((before, 0), (0, 0))),
    )
