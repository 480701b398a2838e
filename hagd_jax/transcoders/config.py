"""What a transcoder is, apart from its weights."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from hagd_jax.errors import ConfigError, require, require_choice, require_flag, require_number
from hagd_jax.models.config import DecoderConfig, float_dtype

Activation = Literal["topk", "batch_topk", "relu", "jump_relu"]
Reads = Literal["mlp_in", "resid_mid"]
Writes = Literal["mlp_out", "mlp_out_raw"]
# Those that keep a given number of features, k.
_MOST = {"n_layers": 2**14, "d_model": 2**20, "n_features": 2**24}
COUNTED = ("topk", "batch_topk")


@dataclasses.dataclass(frozen=True)
class TranscoderConfig:
    """Configure the mathematics of a transcoder; hashable, so static under `jit`.

    Features at layer l read x_l and write to the MLP outputs of layers l to l + window: behind a
    norm after the MLP, or before it.

    Attributes:
        n_layers: Layers of the model, L.
        d_model: Width of its residual stream, D.
        n_features: Features a layer, F.
        activation: `topk` keeps the k largest positive pre-activations of each token;
            `batch_topk` the k · N largest of N tokens (a fixed threshold stands in for them after
            training); `relu` keeps what is positive; `jump_relu` what is above a learned threshold
            of each feature.
        k: Active features a token, for `topk` and `batch_topk`; 0 for the others.
        window: How many later layers a feature writes to besides its own: 0 is a transcoder per
            layer, n_layers − 1 the full cross-layer transcoder, and so is None.
        reads: Site of x: `mlp_in`, the normed MLP input, or `resid_mid`, the stream before it.
        writes: What is reconstructed: `mlp_out`, as it is added to the stream, or `mlp_out_raw`,
            what the MLP itself puts out, so that what features write passes the norm after it. They
            differ in models with such a norm (Gemma 2 and 3, OLMo 2).
        skip: Whether a linear map of x_l is added to the output of layer l.
        predict: Whether features at l + 1 are also predicted from those at l.
        dtype: Dtype of the computation; parameters keep their own.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> TranscoderConfig(n_layers=4, d_model=8, n_features=32, k=4, window=None).window
        3
    """

    n_layers: int
    d_model: int
    n_features: int
    activation: Activation = "topk"
    k: int = 0
    window: int | None = 0
    reads: Reads = "mlp_in"
    writes: Writes = "mlp_out"
    skip: bool = False
    predict: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for field, most in _MOST.items():
            require_number(field, getattr(self, field), least=1, most=most, whole=True)
        if self.window is None:
            object.__setattr__(self, "window", self.n_layers - 1)
        require_choice("activation", self.activation, get_args(Activation))
        require_choice("reads", self.reads, get_args(Reads))
        require_choice("writes", self.writes, get_args(Writes))
        float_dtype(self.dtype)  # or refused
        require_number("window", self.window, least=0, whole=True)
        require(
            self.width <= self.n_layers,
            "window",
            got=self.window,
            expected=f"0 to {self.n_layers - 1} in a model of {self.n_layers} layers",
        )
        require_number("k", self.k, least=0, whole=True)
        if self.activation in COUNTED:
            require_number("k", self.k, least=1, whole=True)
            most = f"at most n_features = {self.n_features}"
            require(self.k <= self.n_features, "k", got=self.k, expected=most)
        else:
            none = f"0 with {self.activation}, which has none"
            require(self.k == 0, "k", got=self.k, expected=none)
        for field in ("skip", "predict"):
            require_flag(field, getattr(self, field))
        if self.predict and self.n_layers < 2:
            raise ConfigError("predict", got=True, expected="False in a model of one layer")

    @property
    def width(self) -> int:
        """Return the most layers that a feature writes to, its own included."""
        assert self.window is not None
        return self.window + 1

    def target(self, decoder: DecoderConfig) -> Writes:
        """Return the site that is reconstructed: of the two, `mlp_out` where they are the same."""
        return "mlp_out" if decoder.norm_placement == "before" else self.writes

    def replace(self, **changes: Any) -> TranscoderConfig:
        """Copy this configuration with some fields changed."""
        return dataclasses.replace(self, **changes)
