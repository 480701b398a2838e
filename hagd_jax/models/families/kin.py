"""What Llama, Qwen, Gemma, Mistral, OLMo 2 and Phi-3 have in common.

All have RMSNorms, rotary positions and gated MLPs, and Hugging Face names their options and
tensors alike. A family adds its own options and its rows of the table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import options, rope
from hagd_jax.models.families.options import REQUIRED, Options, option, same, words
from hagd_jax.models.families.table import Weight, dense

PREFIX = "model."
UNEMBED = "lm_head.weight"
BUFFERS = r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"

UNDERSTOOD = words(
    """
    head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads
    num_hidden_layers num_key_value_heads original_max_position_embeddings partial_rotary_factor
    rms_norm_eps rope_parameters rope_scaling rope_theta tie_word_embeddings vocab_size
    """
)


class Usual(NamedTuple):
    """The usual values are those of a family where its file is silent, as in `transformers`.

    Attributes:
        max_positions: Of `max_position_embeddings`.
        norm_eps: Of `rms_norm_eps`.
        d_head: Of `head_dim`; 0 for d_model / n_heads.
        heads_shared: Whether `num_key_value_heads` must be given.
        act: Of `activation`.
        activation: Names of that option, which must agree.
        theta: Of `rope_theta`.
        tied: Of `tie_word_embeddings`.
    """

    max_positions: int = 2048
    norm_eps: float = 1e-6
    d_head: int = 0
    heads_shared: bool = False
    act: str = "silu"
    activation: tuple[str, ...] = ("hidden_act",)
    theta: float = 10000.0
    tied: bool = False


def read(given: Options, usual: Usual, strict: bool = True) -> dict[str, Any]:
    """Read the options that all of them have.

    Args:
        given: The parsed `config.json`.
        usual: What stands where it is silent.
        strict: Refuse entries of the rotary settings that nobody here has heard of.

    Returns:
        Fields of `DecoderConfig`.

    Raises:
        ConfigError: Naming the option that is missing, of the wrong type, or unsupported.
    """
    longest = option(given, "max_position_embeddings", int, usual.max_positions)
    given = {**given, "max_position_embeddings": longest}
    theta, scaling, inner = rope.from_hf(given, strict=strict, usual=usual.theta)
    share = option(_shares(given, inner), "partial_rotary_factor", float, 1.0)
    heads = option(given, "num_attention_heads", int)
    # Absent, it means as many as heads, or in some classes a number of their own: then it must be.
    grouped = REQUIRED if usual.heads_shared else heads
    act = {"hidden_act": same(given, *usual.activation)}
    return {
        "vocab_size": option(given, "vocab_size", int),
        "n_layers": option(given, "num_hidden_layers", int),
        "d_model": option(given, "hidden_size", int),
        "n_heads": heads,
        "n_kv_heads": option(given, "num_key_value_heads", int, grouped),
        "d_head": option(given, "head_dim", int, usual.d_head),
        "d_mlp": option(given, "intermediate_size", int),
        "max_positions": longest,
        "norm": "rms",
        "norm_eps": option(given, "rms_norm_eps", float, usual.norm_eps),
        "positions": "rotary",
        "rotary_dim": _rotary_dim(given, share, heads, usual),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "activation": options.activation(act, "hidden_act", usual.act),
        "gated_mlp": True,
        "qkv_bias": False,
        "attn_out_bias": False,
        "mlp_bias": False,
        "tied": option(given, "tie_word_embeddings", bool, usual.tied),
    }


def whole_heads(given: Options) -> None:
    """Refuse a partial rotation.

    Raises:
        ConfigError: If the file has one; the classes of Hugging Face cannot compute it.
    """
    inner = same(given, *rope.SPELLINGS)
    for where in (given, inner if isinstance(inner, dict) else {}):
        share = same(where, "partial_rotary_factor")
        if share not in (None, 1):
            raise ConfigError(
                "config.json: partial_rotary_factor",
                got=share,
                expected="1",
                mend="The class of Hugging Face has no partial rotation either.",
            )


def biases(given: Options) -> dict[str, Any]:
    """Read `attention_bias`, which is of all four projections."""
    bias = option(given, "attention_bias", bool, False)
    return {"qkv_bias": bias, "attn_out_bias": bias}


def write(config: DecoderConfig) -> dict[str, Any]:
    """Write the options that all of them have, for version 4 and 5 of Hugging Face."""
    scaling = rope.to_hf(config.rope_scaling, config.max_positions)
    found: dict[str, Any] = {
        "head_dim": config.d_head,
        "hidden_act": options.ACTIVATION_NAMES[config.activation],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": scaling,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
    }
    if config.rope_scaling is not None and config.rope_scaling.kind == "longrope":
        # Version 4 reads it here only.
        trained = config.rope_scaling.original_max_positions
        found["original_max_position_embeddings"] = trained
    return found


def _shares(given: Options, inner: Options) -> dict[str, Any]:
    """The share of a head that is rotated, from both places where it may stand."""
    found = {
        "beside": given.get("partial_rotary_factor"),
        "inside": inner.get("partial_rotary_factor"),
    }
    return {"partial_rotary_factor": same(found, "beside", "inside")}


def _rotary_dim(given: Options, share: float, heads: int, usual: Usual) -> int:
    """How much of a head is rotated, rounded down; 0 for all of it."""
    if share == 1:
        return 0
    width = option(given, "hidden_size", int) // max(heads, 1)
    d_head = option(given, "head_dim", int, usual.d_head) or width
    dim = int(d_head * share) if 0 < share < 1 else 0
    if dim == 0 or dim % 2:
        raise ConfigError(
            "config.json: partial_rotary_factor",
            got=f"{share}, {dim} of the {d_head} dimensions of a head",
            expected="a share above 0, at most 1, that is an even number of dimensions",
        )
    return dim


# Hugging Face's own defaults lie outside a smaller vocabulary.
NO_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LAYER = "model.layers.{layer}."


def scales(**names: str) -> tuple[Weight, ...]:
    """Map norms of a block, by their path inside it, to tensors of a layer."""
    return tuple(
        Weight(f"blocks/{leaf}/scale", f"{LAYER}{name}.weight", "e") for leaf, name in names.items()
    )


BEFORE = scales(norm1="input_layernorm", norm2="post_attention_layernorm")
# Gemma 2 and 3 norm on both sides, OLMo 2 only after.
AFTER = scales(norm_attn_out="post_attention_layernorm", norm_mlp_out="post_feedforward_layernorm")
BOTH = scales(norm1="input_layernorm", norm2="pre_feedforward_layernorm") + AFTER
QK_NORMS = (
    Weight("blocks/attn/q_norm/scale", LAYER + "self_attn.q_norm.weight", "d"),
    Weight("blocks/attn/k_norm/scale", LAYER + "self_attn.k_norm.weight", "d"),
)
ENDS = (
    Weight("embed/embedding", "model.embed_tokens.weight", "v e"),
    Weight("norm_f/scale", "model.norm.weight", "e"),
    Weight("unembed/kernel", UNEMBED, "v e", "e v"),
)
WRITES = (
    *dense("attn/o", LAYER + "self_attn.o_proj", "e (h d)", "h d e", "e"),
    *dense("mlp/out", LAYER + "mlp.down_proj", "e m", "m e", "e"),
)
READS = (
    *dense("attn/q", LAYER + "self_attn.q_proj", "(h d) e", "e h d", "(h d)", "h d"),
    *dense("attn/k", LAYER + "self_attn.k_proj", "(k d) e", "e k d", "(k d)", "k d"),
    *dense("attn/v", LAYER + "self_attn.v_proj", "(k d) e", "e k d", "(k d)", "k d"),
    *dense("mlp/gate", LAYER + "mlp.gate_proj", "m e", "e m", "m"),
    *dense("mlp/in", LAYER + "mlp.up_proj", "m e", "e m", "m"),
)
