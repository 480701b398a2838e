"""Which nodes belong to a circuit."""

from hagd_jax.search.many import search_many
from hagd_jax.search.mask_search import MaskState, init_masks, search_masks
from hagd_jax.search.repair import RepairConfig, Repaired, measured_losses, repair
from hagd_jax.search.restarts import Best, search_restarts
from hagd_jax.search.schedule import MaskConfig, Schedule, schedule
from hagd_jax.search.top import top_nodes
from hagd_jax.search.tree import Tree

__all__ = [
    "Best",
    "MaskConfig",
    "MaskState",
    "RepairConfig",
    "Repaired",
    "Schedule",
    "Tree",
    "init_masks",
    "measured_losses",
    "repair",
    "schedule",
    "search_many",
    "search_masks",
    "search_restarts",
    "top_nodes",
]
