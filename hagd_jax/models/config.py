"""The configuration of the one decoder that expresses every supported model."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import ConfigError, require, require_choice, require_number, shown

Norm = Literal["layer", "rms", "none"]
Positions = Literal["learned", "rotary", "none"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "linear"]
RopeKind = Literal["linear", "dynamic", "llama3", "factors"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Configure how rotary frequencies are scaled beyond the trained context.

    Attributes:
        kind: `linear` divides every frequency by `factor`; `dynamic` raises the base with the
            sequence length (NTK); `llama3` divides low frequencies only; `factors` divides each
            frequency by its own entry of `factors` (how GGUF files store llama3 scaling).
        factor: The stretch.
        low_freq_factor: `llama3`: wavelengths above original / low are divided by `factor`.
        high_freq_factor: `llama3`: wavelengths below original / high are left alone.
        original_max_positions: Context length before stretching (`llama3`, `dynamic`).
        factors: `factors`: one divisor per frequency, rotary_dim / 2 of them.

    Raises:
        ConfigError: If the kind is unknown, or a number that it needs is missing or impossible.
    """

    kind: RopeKind
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0
    factors: tuple[float, ...] = ()

    def __post_init__(self):
        require_choice("rope_scaling kind", self.kind, get_args(RopeKind))
        require_number("rope_scaling factor", self.factor, above=0)
        is_tuple = isinstance(self.factors, tuple)
        require(is_tuple, "rope_scaling factors", got=repr(self.factors), expected="a tuple")
        needed = self.kind != "factors" or len(self.factors) > 0
        require(needed, "rope_scaling factors", got="none", expected="one a frequency")
        for i, factor in enumerate(self.factors):
            require_number(f"rope_scaling factors[{i}]", factor, above=0)
        for field in ("low_freq_factor", "high_freq_factor"):
            require_number(f"rope_scaling {field}", getattr(self, field))
        longest, low, high = "original_max_positions", self.low_freq_factor, self.high_freq_factor
        least = int(self.kind == "llama3")
        require_number(f"rope_scaling {longest}", getattr(self, longest), least=least, whole=True)
        if self.kind == "llama3":
            expected = f"less than the high {high}"
            require(low < high, "rope_scaling low_freq_factor", got=low, expected=expected)


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Configure the mathematics of a decoder; hashable, so static under `jit`.

    Attributes:
        family: Which family file translates it: `gpt2`, `gpt_neox`, `llama` or `custom`.
        vocab_size: Tokens in the vocabulary.
        n_layers: Blocks.
        d_model: Width of the residual stream.
        n_heads: Query heads.
        n_kv_heads: Key/value heads; divides `n_heads` (grouped-query attention).
        d_head: Width of one head.
        d_mlp: MLP neurons a layer.
        max_positions: Longest sequence; the size of a learned position table.
        norm: LayerNorm, RMSNorm, or none at all.
        norm_eps: Added to the variance.
        positions: Learned table, rotary, or none.
        rotary_dim: Leading part of each head that is rotated.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: Stretching of the rotary frequencies, if any.
        activation: Non-linearity of the MLP.
        gated_mlp: neuron = act(gate(x)) · in(x) rather than act(in(x)).
        qkv_bias: Biases on queries, keys and values.
        attn_out_bias: Bias on the attention output.
        mlp_bias: Biases in the MLP.
        parallel_residual: Attention and MLP both read the block's input (GPT-NeoX).
        causal: Attend to earlier positions only.
        scale_attn: Divide scores by √d_head.
        scale_attn_by_layer: Divide scores by the layer's number as well (a GPT-2 option).
        tied: The unembedding is the embedding, transposed.
        unembed_bias: Bias on the logits.
        dtype: Dtype of the computation; parameters keep their own.

    Example:
        >>> DecoderConfig(vocab_size=10, n_layers=1, d_model=8, n_heads=2, d_mlp=16).d_head
        4
    """

    vocab_size: int
    n_layers: int
    d_model: int
    n_heads: int
    d_mlp: int
    n_kv_heads: int = 0
    d_head: int = 0
    max_positions: int = 1024
    family: str = "custom"
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    positions: Positions = "learned"
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    activation: Activation = "relu"
    gated_mlp: bool = False
    qkv_bias: bool = True
    attn_out_bias: bool = True
    mlp_bias: bool = True
    parallel_residual: bool = False
    causal: bool = True
    scale_attn: bool = True
    scale_attn_by_layer: bool = False
    tied: bool = False
    unembed_bias: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for field in ("vocab_size", "n_layers", "d_model", "n_heads", "d_mlp", "max_positions"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("n_kv_heads", "d_head", "rotary_dim"):
            require_number(field, getattr(self, field), least=0, whole=True)
        for field, allowed in _CHOICES.items():
            require_choice(field, getattr(self, field), allowed)
        for field in _FLAGS:
            value = getattr(self, field)
            require(isinstance(value, bool), field, got=repr(value), expected="True or False")
        # Zero means "derive it": the usual values need not be written out.
        if not self.n_kv_heads:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if not self.d_head:
            _require_multiple("d_model", self.d_model, "n_heads", self.n_heads)
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        _require_multiple("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        if self.positions == "rotary":
            if not self.rotary_dim:
                object.__setattr__(self, "rotary_dim", self.d_head)
            _check_rotary(self)
        if self.norm != "none":
            require_number("norm_eps", self.norm_eps, above=0)
        bias = self.tied and self.unembed_bias
        require(not bias, "unembed_bias", got=True, expected="False in a tied model")

    def replace(self, **changes: Any) -> DecoderConfig:
        """Copy this configuration with some fields changed."""
        return dataclasses.replace(self, **changes)


_CHOICES: dict[str, tuple[str, ...]] = {
    "norm": get_args(Norm),
    "positions": get_args(Positions),
    "activation": get_args(Activation),
    "dtype": ("float32", "bfloat16", "float16", "float64"),
}
_FLAGS = tuple(field.name for field in dataclasses.fields(DecoderConfig) if field.type == "bool")


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of a name, refusing one that a decoder cannot use.

    Raises:
        ConfigError: If it is none of the four floating dtypes, or float64 without x64 mode.
    """
    if isinstance(dtype, jax.Array | np.ndarray | np.generic):
        raise ConfigError("dtype", got=shown(dtype), expected="a floating dtype")
    try:
        found = np.dtype(jnp.dtype(dtype))
    except (TypeError, ValueError) as error:
        raise ConfigError("dtype", got=repr(dtype), expected="a floating dtype") from error
    if found.name not in ("float32", "bfloat16", "float16", "float64"):
        raise ConfigError("dtype", got=found.name, expected="float32, bfloat16, float16 or float64")
    if found.name == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ConfigError(
            "dtype",
            got="float64",
            expected="float32, or JAX in 64-bit mode",
            mend='Call jax.config.update("jax_enable_x64", True) first.',
        )
    return found


def _check_rotary(config: DecoderConfig) -> None:
    """Rotated entries come in pairs, and the stretching fits their number."""
    dim, scaling = config.rotary_dim, config.rope_scaling
    fits = dim % 2 == 0 and 0 < dim <= config.d_head
    expected = f"an even number from 2 to d_head = {config.d_head}"
    require(fits, "rotary_dim", got=dim, expected=expected)
    require_number("rope_theta", config.rope_theta, above=0)
    if scaling is None:
        return
    known = isinstance(scaling, RopeScaling)
    require(known, "rope_scaling", got=shown(scaling), expected="a RopeScaling or None")
    # The new base is the old one times stretch ** (dim / (dim - 2)).
    enough = scaling.kind != "dynamic" or dim > 2
    require(enough, "rotary_dim", got=dim, expected="at least 4 with dynamic rope_scaling")
    if scaling.kind == "factors":
        require(
            len(scaling.factors) == dim // 2,
            "rope_scaling factors",
            got=f"{len(scaling.factors)} of them",
            expected=f"{dim // 2}, one for each pair of rotary_dim = {dim}",
        )


def _require_multiple(name: str, value: int, of_name: str, of: int) -> None:
    require(value % of == 0, name, got=value, expected=f"a multiple of {of_name} = {of}")
