"""GPT-NeoX and Pythia (14M to 12B) as Hugging Face stores them.

Queries, keys and values of one head lie together in one matrix.
"""

from __future__ import annotations

from typing import Any

from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import options, rope
from hagd_jax.models.families.options import Options, option, same, words
from hagd_jax.models.families.table import Weight

MODEL_TYPE = "gpt_neox"
ARCHITECTURE = "GPTNeoXForCausalLM"
PREFIX = "gpt_neox."
UNEMBED = "embed_out.weight"
BUFFERS = r"(gpt_neox\.)?layers\.\d+\.attention\.(rotary_emb\.inv_freq|bias|masked_bias)"

UNDERSTOOD = words(
    """
    attention_bias hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings
    num_attention_heads num_hidden_layers partial_rotary_factor rope_parameters rope_scaling
    rope_theta rotary_emb_base rotary_pct tie_word_embeddings use_parallel_residual vocab_size
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
    width, heads = option(given, "hidden_size", int), option(given, "num_attention_heads", int)
    theta, scaling, inner = rope.from_hf(given, "rotary_emb_base", strict)
    bias = option(given, "attention_bias", bool, True)
    return DecoderConfig(
        family="gpt_neox",
        vocab_size=option(given, "vocab_size", int),
        n_layers=option(given, "num_hidden_layers", int),
        d_model=width,
        n_heads=heads,
        d_mlp=option(given, "intermediate_size", int),
        max_positions=option(given, "max_position_embeddings", int, 2048),
        norm="layer",
        norm_eps=option(given, "layer_norm_eps", float, 1e-5),
        positions="rotary",
        rotary_dim=_rotary_dim(given, inner, width // max(heads, 1)),
        rope_theta=theta,
        rope_scaling=scaling,
        activation=options.activation(given, "hidden_act", "gelu"),
        qkv_bias=bias,
        attn_out_bias=bias,
        parallel_residual=option(given, "use_parallel_residual", bool, True),
        tied=option(given, "tie_word_embeddings", bool, False),
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return {
        "attention_bias": config.qkv_bias,
        "hidden_act": options.ACTIVATION_NAMES[config.activation],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "rope_scaling": rope.to_hf(config.rope_scaling, config.max_positions),
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": rope.share(config),
        "tie_word_embeddings": config.tied,
        "use_parallel_residual": config.parallel_residual,
        "vocab_size": config.vocab_size,
    }


def _rotary_dim(given: Options, inner: Options, d_head: int) -> int:
    """How much of a head is rotated: its share, rounded down."""
    found = {
        "config.json": same(given, "rotary_pct", "partial_rotary_factor"),
        "rope_parameters": inner.get("partial_rotary_factor"),
    }
    share = option({"rotary_pct": same(found, *found)}, "rotary_pct", float, 0.25)
    dim = int(d_head * share) if 0 < share <= 1 else 0
    # Zero would mean the whole head to the decoder.
    if dim == 0 or dim % 2:
        raise ConfigError(
            "config.json: rotary_pct",
            got=f"{share}, {dim} of the {d_head} dimensions of a head",
            expected="a share above 0, at most 1, that is an even number of dimensions",
        )
    return dim


def _both(leaf: str, name: str, kernel: str = "e", bias: str = "e", ours: str = "") -> list[Weight]:
    path, end = (f"{leaf}/scale", "") if kernel == "e" else (f"{leaf}/kernel", ours)
    return [
        Weight(path, f"{name}.weight", kernel, end),
        Weight(f"{leaf}/bias", f"{name}.bias", bias),
    ]


def _qkv() -> list[Weight]:
    name, out = "gpt_neox.layers.{layer}.attention.query_key_value", []
    for c, leaf in enumerate(("q", "k", "v")):
        path = f"blocks/attn/{leaf}"
        out.append(Weight(f"{path}/kernel", f"{name}.weight", "(h c d) e", "e h d", {"c": c}))
        out.append(Weight(f"{path}/bias", f"{name}.bias", "(h c d)", "h d", {"c": c}))
    return out


_LAYER = "gpt_neox.layers.{layer}"
TABLE = (
    Weight("embed/embedding", "gpt_neox.embed_in.weight", "v e"),
    *_both("blocks/norm1", f"{_LAYER}.input_layernorm"),
    *_qkv(),
    *_both("blocks/attn/o", f"{_LAYER}.attention.dense", "e (h d)", "e", "h d e"),
    *_both("blocks/norm2", f"{_LAYER}.post_attention_layernorm"),
    *_both("blocks/mlp/in", f"{_LAYER}.mlp.dense_h_to_4h", "m e", "m", "e m"),
    *_both("blocks/mlp/out", f"{_LAYER}.mlp.dense_4h_to_h", "e m", "e", "m e"),
    *_both("norm_f", "gpt_neox.final_layer_norm"),
    Weight("unembed/kernel", UNEMBED, "v e", "e v"),
)
