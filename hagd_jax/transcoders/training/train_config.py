"""How a transcoder is trained."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import ConfigError
from hagd_jax.models import DecoderConfig
from hagd_jax.transcoders.config import Activation, Reads, TranscoderConfig
from hagd_jax.transcoders.training.losses import LossConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a transcoder looks like and how it is trained.

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
        ConfigError: If a number is impossible.
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
        for field in ("tokens", "batch_size", "accumulate", "estimate"):
            if not getattr(self, field) >= 1:
                raise ConfigError(field, got=getattr(self, field), expected="1 or more")
        for field in ("learning_rate", "clip"):
            if not getattr(self, field) > 0:
                raise ConfigError(field, got=getattr(self, field), expected="more than 0")
        for field in ("warmup", "decay", "through"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(field, got=getattr(self, field), expected="a share, 0 to 1")
        if self.warmup + self.decay > 1:
            raise ConfigError("warmup + decay", got=self.warmup + self.decay, expected="at most 1")
        if self.seed < 0:
            raise ConfigError("seed", got=self.seed, expected="0 or more")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                "accumulate", got=self.accumulate, expected=f"a divisor of {self.batch_size}"
            )

    def transcoder(self, model: DecoderConfig) -> TranscoderConfig:
        """The transcoder asked for, of a model.

        Raises:
            ConfigError: If it does not fit the model, or `features` is not of its form.
        """
        text = str(self.features).strip().lower()
        try:
            times = text.endswith("x")
            count = round(float(text[:-1]) * model.d_model) if times else int(text)
        except (ValueError, OverflowError):
            count = 0
        if count < 1:
            raise ConfigError(
                "features", got=repr(self.features), expected='a number, or a multiple like "8x"'
            )
        return TranscoderConfig(
            n_layers=model.n_layers,
            d_model=model.d_model,
            n_features=count,
            activation=self.activation,
            k=self.k if self.activation in ("topk", "batch_topk") else 0,
            window=None if self.window == -1 else self.window,
            reads=self.reads,
            skip=self.skip,
            predict=self.loss.predict > 0,
            dtype=self.dtype,
        )

    def steps(self, length: int) -> int:
        """Steps of sequences of `length` tokens."""
        return max(1, self.tokens // (self.batch_size * length))
