"""The judge: circuits, ablations, metrics. It imports nothing that finds circuits."""

from hagd_jax.causal.ablation import ABLATIONS, Behaviour, behaviour
from hagd_jax.causal.circuit import Circuit, Node
from hagd_jax.causal.claims import Claim
from hagd_jax.causal.curve import SizePoint, curve_areas, size_curve, sizes_of
from hagd_jax.causal.edge_circuit import Edge, EdgeCircuit, load_circuit, named_edges
from hagd_jax.causal.evaluate import JudgeConfig, Verdict, evaluate, random_controls
from hagd_jax.causal.evidence import Evidence
from hagd_jax.causal.metrics import (
    Estimate,
    Faithfulness,
    accuracy,
    auroc,
    faithfulness,
    permutation_p,
    preservation,
    ratio_of_means,
)
from hagd_jax.causal.reference import group_means
from hagd_jax.causal.validate import ValidateConfig, ValidationReport, validate

__all__ = [
    "ABLATIONS",
    "Behaviour",
    "Circuit",
    "Claim",
    "Edge",
    "EdgeCircuit",
    "Estimate",
    "Evidence",
    "Faithfulness",
    "JudgeConfig",
    "Node",
    "SizePoint",
    "ValidateConfig",
    "ValidationReport",
    "Verdict",
    "accuracy",
    "auroc",
    "behaviour",
    "curve_areas",
    "evaluate",
    "faithfulness",
    "group_means",
    "load_circuit",
    "named_edges",
    "permutation_p",
    "preservation",
    "random_controls",
    "ratio_of_means",
    "size_curve",
    "sizes_of",
    "validate",
]
