"""The configuration of the one decoder that expresses every supported model."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import (
    ConfigError,
    require,
    require_choice,
    require_config,
    require_flag,
    require_number,
    shown,
)
from hagd_jax.models.config_checks import (
    check_experts,
    check_norms,
    check_rotary,
    check_windows,
    require_multiple,
)
from hagd_jax.models.rope_scaling import RopeScaling

Norm = Literal["layer", "rms", "none"]
Positions = Literal["learned", "rotary", "none"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "linear"]
NormPlacement = Literal["before", "both", "after"]
QKNorm = Literal["none", "head", "all"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Configure the mathematics of a decoder; hashable, so static under `jit`.

    Attributes:
        family: Which family file translates it, a key of `models.families.FAMILIES`.
        vocab_size: Tokens in the vocabulary.
        n_layers: Blocks.
        d_model: Width of the residual stream.
        n_heads: Query heads.
        n_kv_heads: Key/value heads; divides `n_heads` (grouped-query attention).
        d_head: Width of one head.
        d_mlp: MLP neurons a layer, those of all its experts together.
        max_positions: Longest sequence; the size of a learned position table.
        norm: LayerNorm, RMSNorm, or none at all.
        norm_eps: Added to the variance.
        norm_offset: Norms multiply by 1 + their weight (Gemma). Needs RMSNorm, as do the next two.
        norm_placement: Norms `before` attention and MLP, also after them (`both`, Gemma 2), or
            only `after` them (OLMo 2).
        qk_norm: Norm of queries and keys before rotation: `none`, over each `head` (Qwen 3,
            Gemma 3), or over `all` heads at once (OLMo 2).
        positions: Learned table, rotary, or none.
        rotary_dim: Leading part of each head that is rotated.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: Stretching of the rotary frequencies, if any.
        window: Positions that a layer with a window sees, itself included; 0 for no windows.
        window_layers: Numbers of the layers that have it, rising; all of them if empty.
        rope_local_theta: Base of the rotary frequencies in layers with a window, which are then
            not stretched (Gemma 3); 0 where all layers share one table.
        activation: Non-linearity of the MLP.
        gated_mlp: neuron = act(gate(x)) · in(x) rather than act(in(x)).
        qkv_bias: Biases on queries, keys and values.
        attn_out_bias: Bias on the attention output.
        mlp_bias: Biases in the MLP.
        experts: Experts of a mixture, each with d_mlp / experts neurons; neuron i of expert e is
            number e · d_mlp / experts + i of its layer. 0 where every token uses the whole MLP.
        experts_per_token: Experts that a token uses: those of its largest router weights.
        normalise_routing: Divide the weights of a token's experts by their sum.
        dense_layers: Numbers of the layers that are no mixture, rising; none if empty. In them
            every token uses the same neurons, with weight one.
        d_dense: Neurons that these layers have, the first of their d_mlp; 0 without such layers.
        parallel_residual: Attention and MLP both read the block's input (GPT-NeoX).
        causal: Attend to earlier positions only.
        scale_attn: Divide scores by √d_head, or by √query_scalar.
        query_scalar: What stands in for d_head there (Gemma's query_pre_attn_scalar); 0 for d_head.
        scale_attn_by_layer: Divide scores by the layer's number as well (a GPT-2 option).
        attn_softcap: Scores s become c · tanh(s / c) before the mask; 0 for no cap.
        scale_embed: Multiply token embeddings by √d_model, rounded to `dtype`.
        tied: The unembedding is the embedding, transposed.
        unembed_bias: Bias on the logits.
        logit_softcap: Logits z become c · tanh(z / c); 0 for no cap.
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
    norm_offset: bool = False
    norm_placement: NormPlacement = "before"
    qk_norm: QKNorm = "none"
    positions: Positions = "learned"
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    window: int = 0
    window_layers: tuple[int, ...] = ()
    rope_local_theta: float = 0.0
    activation: Activation = "relu"
    gated_mlp: bool = False
    qkv_bias: bool = True
    attn_out_bias: bool = True
    mlp_bias: bool = True
    experts: int = 0
    experts_per_token: int = 0
    normalise_routing: bool = False
    dense_layers: tuple[int, ...] = ()
    d_dense: int = 0
    parallel_residual: bool = False
    causal: bool = True
    scale_attn: bool = True
    query_scalar: float = 0.0
    scale_attn_by_layer: bool = False
    attn_softcap: float = 0.0
    scale_embed: bool = False
    tied: bool = False
    unembed_bias: bool = False
    logit_softcap: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        for field, most in _MOST.items():
            least = int(field not in _OPTIONAL)
            require_number(field, getattr(self, field), least=least, most=most, whole=True)
        for field, allowed in _CHOICES.items():
            require_choice(field, getattr(self, field), allowed)
        for field in _FLAGS:
            require_flag(field, getattr(self, field))
        # Zero means "derive it": the usual values need not be written out.
        if not self.n_kv_heads:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if not self.d_head:
            require_multiple("d_model", self.d_model, "n_heads", self.n_heads)
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        require_multiple("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        # These are read by some models only, and their types hold for all. Less than 1e-30 is
        # nothing in float32, and a constant stream divides by it.
        require_number("norm_eps", self.norm_eps, least=0 if self.norm == "none" else 1e-30, most=1)
        require_number("rope_theta", self.rope_theta, least=0)
        if self.rope_scaling is not None:
            require_config("rope_scaling", self.rope_scaling, RopeScaling)
        require(isinstance(self.family, str), "family", got=quoted(self.family), expected="a name")
        if self.positions == "rotary":
            if not self.rotary_dim:
                object.__setattr__(self, "rotary_dim", self.d_head)
            check_rotary(self)
        bias = self.tied and self.unembed_bias
        require(not bias, "unembed_bias", got=True, expected="False in a tied model")
        for field in ("query_scalar", "attn_softcap", "logit_softcap", "rope_local_theta"):
            require_number(field, getattr(self, field), least=0, most=1e15)
        if self.query_scalar == self.d_head:
            object.__setattr__(self, "query_scalar", 0.0)
        check_norms(self)
        check_windows(self)
        check_experts(self)

    @property
    def d_expert(self) -> int:
        """Return how many neurons one expert has; all of a layer where there are no experts."""
        return self.d_mlp // max(self.experts, 1)

    @property
    def windows(self) -> tuple[int, ...]:
        """List how many positions each layer sees; 0 where it sees all of them."""
        if not self.window or not self.window_layers:
            return (self.window,) * self.n_layers
        return tuple(self.window * (i in self.window_layers) for i in range(self.n_layers))

    def replace(self, **changes: Any) -> DecoderConfig:
        """Copy this configuration with some fields changed."""
        return dataclasses.replace(self, **changes)


MOST_LAYERS = 2**14
# Far above every published model, and low enough that no product of them leaves 64 bits.
_MOST = {
    "vocab_size": 2**24, "n_layers": MOST_LAYERS, "d_model": 2**20, "n_heads": 2**14,
    "d_mlp": 2**22, "max_positions": 2**30, "n_kv_heads": 2**14, "d_head": 2**20,
    "rotary_dim": 2**20, "window": 2**30, "experts": 2**14, "experts_per_token": 2**14,
    "d_dense": 2**22,
}  # fmt: skip
# Those that may be 0: derived from others, or absent.
_OPTIONAL = frozenset(
    {"n_kv_heads", "d_head", "rotary_dim", "window", "experts", "experts_per_token", "d_dense"}
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "norm": get_args(Norm),
    "norm_placement": get_args(NormPlacement),
    "qk_norm": get_args(QKNorm),
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
        raise ConfigError("dtype", got=quoted(dtype), expected="a floating dtype") from error
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
