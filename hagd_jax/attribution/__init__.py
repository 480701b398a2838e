"""How much each node drives a behaviour."""

from hagd_jax.attribution.scores import GradientConfig, mean_scores, node_scores

__all__ = ["GradientConfig", "mean_scores", "node_scores"]
