"""Values that rewrite activations in a forward pass, and compose."""

from hagd_jax.interventions.edges import WRITES, Edges, MaskEdges, mask_edges
from hagd_jax.interventions.edit import Edit, add, replace
from hagd_jax.interventions.freeze import Freeze, freeze
from hagd_jax.interventions.mask import (
    MaskHeads,
    MaskNeurons,
    mask_heads,
    mask_nodes,
    mean_alternative,
    mean_of_sums,
    position_sums,
    resample_alternative,
    zero_alternative,
)
from hagd_jax.interventions.nodes import Nodes, Space
from hagd_jax.models import Chain, Identity, Intervention, chain

__all__ = [
    "WRITES",
    "Chain",
    "Edges",
    "Edit",
    "Freeze",
    "Identity",
    "Intervention",
    "MaskEdges",
    "MaskHeads",
    "MaskNeurons",
    "Nodes",
    "Space",
    "add",
    "chain",
    "freeze",
    "mask_edges",
    "mask_heads",
    "mask_nodes",
    "mean_alternative",
    "mean_of_sums",
    "position_sums",
    "replace",
    "resample_alternative",
    "zero_alternative",
]
