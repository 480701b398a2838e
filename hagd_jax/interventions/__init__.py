"""Values that rewrite activations in a forward pass, and compose."""

from hagd_jax.interventions.edit import Edit, add, replace
from hagd_jax.interventions.freeze import Freeze, freeze
from hagd_jax.interventions.gradients import (
    HalveGates,
    HoldActivations,
    ScaleGradient,
    SoftenAttention,
    StopGradient,
    scale_gradient,
    stop_gradient,
)
from hagd_jax.interventions.mask import (
    MaskHeads,
    MaskNeurons,
    at_positions,
    mask_heads,
    mean_alternative,
    mean_of_sums,
    position_sums,
    resample_alternative,
    zero_alternative,
)
from hagd_jax.models import Chain, Identity, Intervention, chain

__all__ = [
    "Chain",
    "Edit",
    "Freeze",
    "HalveGates",
    "HoldActivations",
    "Identity",
    "Intervention",
    "MaskHeads",
    "MaskNeurons",
    "ScaleGradient",
    "SoftenAttention",
    "StopGradient",
    "add",
    "at_positions",
    "chain",
    "freeze",
    "mask_heads",
    "mean_alternative",
    "mean_of_sums",
    "position_sums",
    "replace",
    "resample_alternative",
    "scale_gradient",
    "stop_gradient",
    "zero_alternative",
]
