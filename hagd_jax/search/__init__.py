"""Which nodes belong to a circuit."""

from hagd_jax.search.certified_core import Core
from hagd_jax.search.config import MaskConfig, RepairConfig
from hagd_jax.search.core import core, core_of_rule
from hagd_jax.search.core_keeps import CoreKeeps, core_keeps
from hagd_jax.search.discoveries import CoreConfig
from hagd_jax.search.eliminate import Eliminated, Step, eliminate
from hagd_jax.search.eliminate_config import EliminateConfig, elimination_cost
from hagd_jax.search.many import search_many
from hagd_jax.search.mask_search import Searched, search_masks, seen_by_masks, train_masks
from hagd_jax.search.mask_steps import MaskState, init_masks, mask_ranks
from hagd_jax.search.measured import search_cost, smallest_circuit, with_cuts
from hagd_jax.search.outcome import is_found, measured_losses, require_found
from hagd_jax.search.repair import Repaired, repair
from hagd_jax.search.restarts import Best, search_restarts
from hagd_jax.search.schedule import Schedule, schedule
from hagd_jax.search.span_config import SpanConfig
from hagd_jax.search.split_spans import split_spans
from hagd_jax.search.start import Start, StartRow, best_start
from hagd_jax.search.top import top_nodes
from hagd_jax.search.tree import Tree
from hagd_jax.search.unit_circuit import UnitCircuit, unit_losses
from hagd_jax.search.unit_config import UnitMaskConfig, UnitPruneConfig, UnitRepairConfig
from hagd_jax.search.unit_edge_config import UnitEdgeConfig
from hagd_jax.search.unit_edges import unit_edges
from hagd_jax.search.unit_prune import PrunedUnits, prune_units
from hagd_jax.search.unit_repair import RepairedUnits, repair_units
from hagd_jax.search.unit_search import (
    SearchedUnits,
    search_units,
    seen_by_units,
    train_units,
)
from hagd_jax.search.unit_steps import UnitState, init_units

__all__ = [
    "Best",
    "Core",
    "CoreConfig",
    "CoreKeeps",
    "EliminateConfig",
    "Eliminated",
    "MaskConfig",
    "MaskState",
    "PrunedUnits",
    "RepairConfig",
    "Repaired",
    "RepairedUnits",
    "Schedule",
    "Searched",
    "SearchedUnits",
    "SpanConfig",
    "Start",
    "StartRow",
    "Step",
    "Tree",
    "UnitCircuit",
    "UnitEdgeConfig",
    "UnitMaskConfig",
    "UnitPruneConfig",
    "UnitRepairConfig",
    "UnitState",
    "best_start",
    "core",
    "core_keeps",
    "core_of_rule",
    "eliminate",
    "elimination_cost",
    "init_masks",
    "init_units",
    "is_found",
    "mask_ranks",
    "measured_losses",
    "prune_units",
    "repair",
    "repair_units",
    "require_found",
    "schedule",
    "search_cost",
    "search_many",
    "search_masks",
    "search_restarts",
    "search_units",
    "seen_by_masks",
    "seen_by_units",
    "smallest_circuit",
    "split_spans",
    "top_nodes",
    "train_masks",
    "train_units",
    "unit_edges",
    "unit_losses",
    "with_cuts",
]
