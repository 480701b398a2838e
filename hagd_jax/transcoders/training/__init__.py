"""Training of a transcoder: its losses, one step, and the loop over a corpus."""

from hagd_jax.errors import TrainingError
from hagd_jax.transcoders.training.activations import activations, estimate, moments
from hagd_jax.transcoders.training.losses import LossConfig
from hagd_jax.transcoders.training.state import Metrics, TrainState, finish, init_state
from hagd_jax.transcoders.training.step import step
from hagd_jax.transcoders.training.train_config import TrainConfig
from hagd_jax.transcoders.training.trainer import train, watch_at

__all__ = [
    "LossConfig",
    "Metrics",
    "TrainConfig",
    "TrainState",
    "TrainingError",
    "activations",
    "estimate",
    "finish",
    "init_state",
    "moments",
    "step",
    "train",
    "watch_at",
]
