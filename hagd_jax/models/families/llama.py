"""Llama 1, 2 and 3, and what shares their class (SmolLM2 ...), as Hugging Face stores them."""

from __future__ import annotations

from typing import Any

from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import options, rope
from hagd_jax.models.families.options import Options, option, same, words
from hagd_jax.models.families.table import Weight, dense

MODEL_TYPE = "llama"
ARCHITECTURE = "LlamaForCausalLM"
PREFIX = "model."
UNEMBED = "lm_head.weight"
BUFFERS = r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"

UNDERSTOOD = words(
    """
    attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings
    mlp_bias num_attention_heads num_hidden_layers num_key_value_heads partial_rotary_factor
    rms_norm_eps rope_parameters rope_scaling rope_theta tie_word_embeddings vocab_size
    """
)


def from_hf(given: Options, strict: bool = True) -> DecoderConfig:
    """Translate a `config.json`.

    Args:
        given: The parsed file.
        strict: Refuse options nobody here has heard of.

    Returns:
        The configuration, computing in float32.

    Raises:
        ConfigError: Naming the option that is missing, of the wrong type, or unsupported.
    """
    options.check(given, UNDERSTOOD, strict)
    theta, scaling, inner = rope.from_hf(given, strict=strict)
    _whole_head_rotated(given, inner)
    heads = option(given, "num_attention_heads", int)
    bias = option(given, "attention_bias", bool, False)
    return DecoderConfig(
        family="llama",
        vocab_size=option(given, "vocab_size", int),
        n_layers=option(given, "num_hidden_layers", int),
        d_model=option(given, "hidden_size", int),
        n_heads=heads,
        n_kv_heads=option(given, "num_key_value_heads", int, heads),
        d_head=option(given, "head_dim", int, 0),
        d_mlp=option(given, "intermediate_size", int),
        max_positions=option(given, "max_position_embeddings", int, 2048),
        norm="rms",
        norm_eps=option(given, "rms_norm_eps", float, 1e-6),
        positions="rotary",
        rope_theta=theta,
        rope_scaling=scaling,
        activation=options.activation(given, "hidden_act", "silu"),
        gated_mlp=True,
        qkv_bias=bias,
        attn_out_bias=bias,
        mlp_bias=option(given, "mlp_bias", bool, False),
        tied=option(given, "tie_word_embeddings", bool, False),
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return {
        "attention_bias": config.qkv_bias,
        "head_dim": config.d_head,
        "hidden_act": options.ACTIVATION_NAMES[config.activation],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "max_position_embeddings": config.max_positions,
        "mlp_bias": config.mlp_bias,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": rope.to_hf(config.rope_scaling, config.max_positions),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
    }


def _whole_head_rotated(given: Options, inner: Options) -> None:
    for where in (given, inner):
        share = same(where, "partial_rotary_factor")
        if share not in (None, 1):
            raise ConfigError(
                "config.json: partial_rotary_factor",
                got=share,
                expected="1",
                mend="The Llama class of Hugging Face has no partial rotation either.",
            )


_LAYER = "model.layers.{layer}."

TABLE = (
    Weight("embed/embedding", "model.embed_tokens.weight", "v e"),
    Weight("blocks/norm1/scale", _LAYER + "input_layernorm.weight", "e"),
    *dense("attn/q", _LAYER + "self_attn.q_proj", "(h d) e", "e h d", "(h d)", "h d"),
    *dense("attn/k", _LAYER + "self_attn.k_proj", "(k d) e", "e k d", "(k d)", "k d"),
    *dense("attn/v", _LAYER + "self_attn.v_proj", "(k d) e", "e k d", "(k d)", "k d"),
    *dense("attn/o", _LAYER + "self_attn.o_proj", "e (h d)", "h d e", "e"),
    Weight("blocks/norm2/scale", _LAYER + "post_attention_layernorm.weight", "e"),
    *dense("mlp/gate", _LAYER + "mlp.gate_proj", "m e", "e m", "m"),
    *dense("mlp/in", _LAYER + "mlp.up_proj", "m e", "e m", "m"),
    *dense("mlp/out", _LAYER + "mlp.down_proj", "e m", "m e", "e"),
    Weight("norm_f/scale", "model.norm.weight", "e"),
    Weight("unembed/kernel", UNEMBED, "v e", "e v"),
)
