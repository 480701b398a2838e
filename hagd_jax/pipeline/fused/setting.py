"""What decides the program of a step: the shapes of its state, and which parts there are."""

from __future__ import annotations

import dataclasses

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import sizes_of
from hagd_jax.pipeline.config import TRANSCODER, ExtractConfig
from hagd_jax.pipeline.graph import GraphSize, graph_size
from hagd_jax.pipeline.repairing import asked, swaps
from hagd_jax.pipeline.selecting import loss_of
from hagd_jax.search.config import MaskConfig, RepairConfig, shares
from hagd_jax.units import Space


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting determines the program of a step and the shapes of its state.

    Attributes:
        config: The configuration.
        size: The sizes of the graph.
        sizes: Sizes of the circuits that are read from masks, ascending.
        asked: Size of the circuit.
        steps: Steps that train a transcoder; 0 if none is learned.
        length: Tokens in a sequence of its text.
        groups: Groups that mean ablation tells apart, and positions; None without it.
    """

    config: ExtractConfig
    size: GraphSize
    sizes: tuple[int, ...]
    asked: int
    steps: int
    length: int
    groups: tuple[int, int] | None

    __repr__ = one_line

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and features."""
        return self.size.space

    @property
    def learns(self) -> bool:
        """Tell whether a transcoder is trained in the steps."""
        return self.config.features == TRANSCODER

    @property
    def masks(self) -> bool:
        """Tell whether masks are trained."""
        return self.config.search == "masks" and self.asked < self.space.nodes

    @property
    def graph(self) -> bool:
        """Tell whether a graph is built."""
        searched = self.config.search != "top" and self.asked < self.space.nodes
        return searched and (bool(self.size.levels) or self.config.prior == "learner")

    @property
    def units(self) -> bool:
        """Tell whether units are searched over: then the steps end with their tree."""
        return self.config.search == "units"

    @property
    def repairs(self) -> RepairConfig | None:
        """Return how the circuit is repaired; None if it is not."""
        swapped = not self.units and asked(self.config, self.space)
        return swaps(self.config) if swapped else None

    @property
    def loss(self) -> MaskConfig:
        """Return the loss of the search: its ablations and the weight of the metric."""
        return loss_of(self.config)

    @property
    def rows(self) -> int:
        """Return the most circuits that are measured at once."""
        if self.repairs is None:
            return 2
        pairs = 2 * self.repairs.pairs
        return max(2, len(swap_sizes(self)), pairs * (pairs - 1) // 2)


def swap_sizes(setting: Setting) -> list[tuple[int, int, int]]:
    """List the swaps that a round measures: (rank of leaver, rank of enterer, count).

    One member for one other, each of the likeliest with each; then the first n for the first n.
    """
    repairs = setting.repairs
    if repairs is None:
        return []
    others = setting.space.nodes - setting.asked
    most = min(setting.asked, others)
    found = [
        (out, into, 1)
        for out in range(min(repairs.pairs, setting.asked))
        for into in range(min(repairs.pairs, others))
    ]
    many = 2 ** np.arange(0 if not repairs.pairs else 1, 20)
    return found + [(0, 0, int(n)) for n in many[many <= most // 2]]


def setting_of(
    config: ExtractConfig,
    space: Space,
    *,
    text: tuple[int, int] = (0, 0),
    groups: tuple[int, int] | None = None,
) -> Setting:
    """Derive the setting of an extraction from its configuration.

    Args:
        config: The configuration.
        space: The nodes.
        text: Steps that train a transcoder, and tokens in a sequence of its text.
        groups: Groups and positions that mean ablation tells apart.

    Returns:
        The setting.

    Raises:
        ConfigError: If the circuit has more nodes than the model.
    """
    size, asked_for = graph_size(config, space), config.size(space.nodes)
    sizes = tuple(sorted({*sizes_of(space.nodes), asked_for}))
    return Setting(config, size, sizes, asked_for, *text, groups)


def uses_means(config: ExtractConfig) -> bool:
    """Tell whether the search uses mean ablation anywhere."""
    under = {*shares(config.masks), *(shares(swaps(config)) if config.repair.rounds else ())}
    return config.search == "masks" and "mean" in under
