"""Circuits of units: how far they are from the model, and what they have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Ablation
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.search.config import RepairConfig
from hagd_jax.search.outcome import measured_losses
from hagd_jax.search.unit_config import UnitMaskConfig, UnitRepairConfig
from hagd_jax.search.unit_sizes import UnitSize
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Dictionary, Nodes, Source, Unit, UnitTree, as_dictionary
from hagd_jax.units.dictionary import tail


class UnitCircuit(NamedTuple):
    """A circuit of units is an antichain of the tree, with how far it is from the model.

    Attributes:
        units: Its units, in the order of the tree, as `Circuit.of_units` takes them.
        ranks: For each unit the logit that it was chosen by, higher is likelier.
        size: The size asked for.
        losses: Ablation → measured loss on the prompts that were searched on.
        seen: The data that decided it.
    """

    units: tuple[Unit, ...]
    ranks: tuple[float, ...]
    size: UnitSize
    losses: dict[str, float]
    seen: Seen

    __repr__ = one_line

    @property
    def leaves(self) -> int:
        """Return the number of leaves."""
        return sum(map(len, self.units))

    @property
    def worst(self) -> float:
        """Return the largest loss."""
        return max(self.losses.values())


def unit_losses(
    model: LanguageModel,
    prompts: Prompts,
    tree: UnitTree,
    circuits: Sequence[Sequence[Unit]],
    config: UnitMaskConfig | UnitRepairConfig,
    *,
    dictionary: Source | None = None,
    ablations: Mapping[str, Ablation] | None = None,
) -> dict[str, np.ndarray]:
    """Measure the search's loss of circuits of units under each ablation, see `measured_losses`.

    Args:
        model: The model.
        prompts: Where to measure.
        tree: The tree of units.
        circuits: K antichains.
        config: Ablations, batch size, and weight of the metric.
        dictionary: As in `search_units`.
        ablations: Name → ablation, of all that the configuration names; by default their means and
            partners are taken from the prompts themselves.

    Returns:
        Ablation → (K,) float64 losses.

    Raises:
        InputError: As `measured_losses`, or if an ablation is missing among those given.
    """
    nodes = dictionary_of(model, tree, dictionary)
    require_is("config", config, UnitMaskConfig, UnitRepairConfig)
    chains = require_list("circuits", circuits, "circuits, each of units")
    masks = [Nodes.from_flat(tree.space, mask_row(tree, tree.antichain(chain)))
             for chain in chains]  # fmt: skip
    if ablations is not None:
        require_is("ablations", ablations, Mapping)
        for name in config.ablations:
            require_is(f"ablations[{name!r}]", ablations.get(name), Ablation)
    inside = RepairConfig(batch_size=config.batch_size, metric=config.metric)
    return {
        name: measured_losses(
            model, prompts, masks, inside, dictionary=nodes,
            ablation=name if ablations is None else ablations[name],
        )
        for name in config.ablations
    }  # fmt: skip


def mask_row(tree: UnitTree, units: Sequence[Unit]) -> np.ndarray:
    """Return the (N,) bool mask of the leaves of some units, in the order of `Nodes.flat`."""
    row = np.zeros(tree.space.nodes, bool)
    for unit in units:
        for start, stop in unit.ranges:
            row[start:stop] = True
    return row


def dictionary_of(model: LanguageModel, tree: Any, source: Source | None) -> Dictionary:
    """Return the dictionary of a search, refusing a tree over another one.

    Args:
        model: The model.
        tree: The tree of units.
        source: A transcoder, a dictionary, or None for neurons.

    Returns:
        The dictionary.

    Raises:
        InputError: If the tree is none, or one over another dictionary or model.
    """
    nodes = as_dictionary(model, source)
    require_is("tree", tree, UnitTree, mend="Make one with units.tree.")
    if (tree.space, tail(tree.dictionary)) != (nodes.space, tail(nodes.label)):
        raise InputError("tree", got=f"one of {tree.dictionary!r} with {tuple(tree.space)}",
                         expected=f"one of {nodes.label!r} with {tuple(nodes.space)}",
                         mend="Make it with units.tree(model, dictionary).")  # fmt: skip
    return nodes
