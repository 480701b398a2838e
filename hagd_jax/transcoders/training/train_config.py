"""How a transcoder is trained."""

from __future__ import annotations

import dataclasses
from typing import get_args

from hagd_jax.errors import (
    ConfigError,
    require,
    require_choice,
    require_config,
    require_flag,
    require_number,
)
from hagd_jax.models import DecoderConfig
from hagd_jax.models.config import float_dtype
from hagd_jax.transcoders.config import COUNTED, Activation, Reads, TranscoderConfig
from hagd_jax.transcoders.training.loss_config import LossConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Configure a transcoder and its training.

    Attributes:
        features: Features a layer: a number ("4608") or a multiple of d_model ("8x").
        k: Active features a token, for `topk` and `batch_topk`.
        activation: See `TranscoderConfig`.
        window: How many later layers a feature writes to; −1 for all of them.
        reads: Site of the features' input.
        skip: Whether a linear map of the input is added.
        tokens: How many to train on.
        batch_size: Sequences a step.
        accumulate: Parts a step is computed in, one after the other, to save memory.
        learning_rate: Adam's, at its height.
        warmup: Share of the steps over which it rises.
        decay: Share of the steps, at the end, over which it falls to nothing.
        clip: Largest norm of the gradient.
        estimate: Batches from which means and scales are estimated before training.
        through: Share of the steps, at the end, that train through the model: the KL divergence
            of its predictions with all MLPs replaced is added to the loss.
        dtype: Of the products; parameters and their moments are float32.
        seed: Of the initial weights, the order of the data and random directions.
        loss: Weights of the terms beside the reconstruction error.

    Raises:
        ConfigError: If a number is impossible, or two of them contradict each other.

    Example:
        >>> TrainConfig(features="8x", k=32, tokens=100_000).steps(length=128)
        97
    """

    features: str = "8x"
    k: int = 32
    activation: Activation = "topk"
    window: int = 0
    reads: Reads = "mlp_in"
    skip: bool = False
    tokens: int = 1_000_000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: float = 0.05
    decay: float = 0.2
    clip: float = 1.0
    estimate: int = 8
    through: float = 0.0
    dtype: str = "float32"
    seed: int = 0
    loss: LossConfig = LossConfig()

    def __post_init__(self):
        _parse(self.features)
        require_choice("activation", self.activation, get_args(Activation))
        require_choice("reads", self.reads, get_args(Reads))
        float_dtype(self.dtype)  # or refused
        for field in ("tokens", "batch_size", "accumulate", "estimate"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("k", self.k, least=int(self.activation in COUNTED), whole=True)
        require_number("window", self.window, least=-1, whole=True)
        require_number("seed", self.seed, least=0, most=2**32 - 1, whole=True)
        require_flag("skip", self.skip)
        for field in ("learning_rate", "clip"):
            require_number(field, getattr(self, field), above=0)
        for field in ("warmup", "decay", "through"):
            require_number(field, getattr(self, field), least=0, most=1)
        both = self.warmup + self.decay
        require(both <= 1, "warmup + decay", got=both, expected="at most 1")
        divisor = f"a divisor of {self.batch_size}"
        parts = self.accumulate
        require(self.batch_size % parts == 0, "accumulate", got=parts, expected=divisor)
        require_config("loss", self.loss, LossConfig)
        if self.loss.sparsity and self.activation in COUNTED:
            raise ConfigError(
                "loss.sparsity",
                got=self.loss.sparsity,
                expected=f"0 with {self.activation}, which keeps k features anyway",
                mend="Use --k, or --activation relu or jump_relu.",
            )

    def transcoder(self, model: DecoderConfig) -> TranscoderConfig:
        """Make the configuration of the transcoder for a model.

        Args:
            model: The model's configuration.

        Returns:
            The transcoder's.

        Raises:
            ConfigError: If it does not fit the model.
        """
        size, times = _parse(self.features)
        count = round(size * model.d_model) if times else int(size)
        require(count >= 1, "features", got=repr(self.features), expected="1 feature or more")
        most = max(self.loss.prefixes, default=0)
        fewer = f"fewer than the {count} features of a layer"
        require(most < count, "loss.prefixes", got=most, expected=fewer)
        return TranscoderConfig(
            n_layers=model.n_layers,
            d_model=model.d_model,
            n_features=count,
            activation=self.activation,
            k=self.k if self.activation in COUNTED else 0,
            window=None if self.window == -1 else self.window,
            reads=self.reads,
            skip=self.skip,
            predict=self.loss.predict > 0,
            dtype=self.dtype,
        )

    def steps(self, length: int) -> int:
        """Compute the number of steps with sequences of `length` tokens."""
        return max(1, self.tokens // (self.batch_size * length))


def _parse(features: object) -> tuple[float, bool]:
    """A number of features, and whether it is a multiple of d_model."""
    text = str(features).strip().lower()
    times = text.endswith("x")
    try:
        size = float(text[:-1]) if times else int(text)
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size < 2**31:
        raise ConfigError(
            "features", got=repr(features), expected='a number, or a multiple like "8x"'
        )
    return size, times
