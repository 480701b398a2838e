"""The meta-learner: which nodes belong to a circuit, judged by the look of the graph."""

from hagd_jax.meta.adapt import Measured, adapt, adapted, effects, most_telling
from hagd_jax.meta.describe import Described, describe, describe_arrays
from hagd_jax.meta.learner import Learner, LearnerConfig, init, load, logits, padded, save, score
from hagd_jax.meta.training import Example, MetaConfig, train

__all__ = [
    "Described",
    "Example",
    "Learner",
    "LearnerConfig",
    "Measured",
    "MetaConfig",
    "adapt",
    "adapted",
    "describe",
    "describe_arrays",
    "effects",
    "init",
    "load",
    "logits",
    "most_telling",
    "padded",
    "save",
    "score",
    "train",
]
