"""Values that rewrite activations in a forward pass, and compose."""

from hagd_jax.interventions.edit import Edit, add, replace
from hagd_jax.interventions.freeze import Freeze, freeze
from hagd_jax.interventions.mask import (
    MaskNodes,
    mask_nodes,
    mean_alternative,
    mean_of_sums,
    position_sums,
    resample_alternative,
    zero_alternative,
)
from hagd_jax.interventions.nodes import KINDS, NODE_SITES, Nodes, count_nodes
from hagd_jax.models import Chain, Identity, Intervention, chain

__all__ = [
    "KINDS",
    "NODE_SITES",
    "Chain",
    "Edit",
    "Freeze",
    "Identity",
    "Intervention",
    "MaskNodes",
    "Nodes",
    "add",
    "chain",
    "count_nodes",
    "freeze",
    "mask_nodes",
    "mean_alternative",
    "mean_of_sums",
    "position_sums",
    "replace",
    "resample_alternative",
    "zero_alternative",
]
