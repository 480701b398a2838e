"""The judge: circuits, ablations, metrics, verdicts. It imports nothing that finds circuits."""

from hagd_jax.causal.ablation import ABLATIONS, Ablation, Behaviour, behaviour
from hagd_jax.causal.about import About
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.claim import Claim
from hagd_jax.causal.curve import SizePoint, curve_areas, size_curve, sizes_of
from hagd_jax.causal.edge_circuit import Edge, EdgeCircuit, named_edges
from hagd_jax.causal.evidence import Evidence
from hagd_jax.causal.gates import ACCURACY_GATE, FAITHFULNESS_GATE, KL_GATE, Alone
from hagd_jax.causal.grouping import Grouping
from hagd_jax.causal.keeps import keeps
from hagd_jax.causal.load import load_circuit
from hagd_jax.causal.metrics import (
    Estimate,
    Faithfulness,
    accuracy,
    auroc,
    faithfulness,
    kept_accuracy,
    permutation_p,
    preservation,
    ratio_of_means,
)
from hagd_jax.causal.mib import MibGraph
from hagd_jax.causal.mib_curve import MibCurve, mib_curve
from hagd_jax.causal.node import Node
from hagd_jax.causal.validate import ValidateConfig, validate
from hagd_jax.causal.verdict import ValidationReport
from hagd_jax.causal.wiring import MeasuredEdge, Wiring

__all__ = [
    "ABLATIONS",
    "ACCURACY_GATE",
    "FAITHFULNESS_GATE",
    "KL_GATE",
    "Ablation",
    "About",
    "Alone",
    "Behaviour",
    "Circuit",
    "Claim",
    "Edge",
    "EdgeCircuit",
    "Estimate",
    "Evidence",
    "Faithfulness",
    "Grouping",
    "MeasuredEdge",
    "MibCurve",
    "MibGraph",
    "Node",
    "SizePoint",
    "ValidateConfig",
    "ValidationReport",
    "Wiring",
    "accuracy",
    "auroc",
    "behaviour",
    "curve_areas",
    "faithfulness",
    "keeps",
    "kept_accuracy",
    "load_circuit",
    "mib_curve",
    "named_edges",
    "permutation_p",
    "preservation",
    "ratio_of_means",
    "size_curve",
    "sizes_of",
    "validate",
]
