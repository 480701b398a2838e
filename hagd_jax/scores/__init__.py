"""Scores: how much every node and edge moves a behaviour, over the prompts of a task."""

from hagd_jax.scores.component_graph import ComponentGraph, component_graph
from hagd_jax.scores.cuts import CutConfig, Cuts, cuts
from hagd_jax.scores.gradient_config import GradientConfig
from hagd_jax.scores.methods import METHODS, Method
from hagd_jax.scores.node_graph import NodeGraph, node_graph
from hagd_jax.scores.node_scores import mean_scores, node_scores
from hagd_jax.scores.patching import eap, eap_edges, eap_ig, eap_ig_edges
from hagd_jax.scores.prompt_scores import PromptScores, prompt_score_rows, prompt_scores
from hagd_jax.scores.relevance import conductance, gim, relp
from hagd_jax.scores.rules import gim_rules, relp_rules

__all__ = [
    "METHODS",
    "ComponentGraph",
    "CutConfig",
    "Cuts",
    "GradientConfig",
    "Method",
    "NodeGraph",
    "PromptScores",
    "component_graph",
    "conductance",
    "cuts",
    "eap",
    "eap_edges",
    "eap_ig",
    "eap_ig_edges",
    "gim",
    "gim_rules",
    "mean_scores",
    "node_graph",
    "node_scores",
    "prompt_score_rows",
    "prompt_scores",
    "relp",
    "relp_rules",
]
