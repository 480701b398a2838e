"""GPT-2 (124M to 1.5B) as Hugging Face stores it.

Projections are `Conv1D`: (inputs, outputs). Queries, keys and values share one matrix.
"""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import options
from hagd_jax.models.families.options import Options, option, words
from hagd_jax.models.families.table import Weight

MODEL_TYPE = "gpt2"
ARCHITECTURE = "GPT2LMHeadModel"
# The checkpoints on the hub were written from the base model, without this prefix.
PREFIX = "transformer."
UNEMBED = "lm_head.weight"
BUFFERS = r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"

UNDERSTOOD = words(
    """
    activation_function layer_norm_epsilon n_embd n_head n_inner n_layer n_positions
    scale_attn_by_inverse_layer_idx scale_attn_weights tie_word_embeddings vocab_size
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
    width = option(given, "n_embd", int)
    return DecoderConfig(
        family="gpt2",
        vocab_size=option(given, "vocab_size", int),
        n_layers=option(given, "n_layer", int),
        d_model=width,
        n_heads=option(given, "n_head", int),
        d_mlp=option(given, "n_inner", int, 4 * width),
        max_positions=option(given, "n_positions", int, 1024),
        norm="layer",
        norm_eps=option(given, "layer_norm_epsilon", float, 1e-5),
        positions="learned",
        activation=options.activation(given, "activation_function", "gelu_new"),
        scale_attn=option(given, "scale_attn_weights", bool, True),
        scale_attn_by_layer=option(given, "scale_attn_by_inverse_layer_idx", bool, False),
        tied=option(given, "tie_word_embeddings", bool, True),
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face read."""
    return {
        "activation_function": options.ACTIVATION_NAMES[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "n_embd": config.d_model,
        "n_head": config.n_heads,
        "n_inner": config.d_mlp,
        "n_layer": config.n_layers,
        "n_positions": config.max_positions,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_layer,
        "scale_attn_weights": config.scale_attn,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
        # Hugging Face's own defaults are GPT-2's 50256, outside a smaller vocabulary.
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _norm(leaf: str, name: str) -> list[Weight]:
    return [
        Weight(f"{leaf}/scale", f"{name}.weight", "e"),
        Weight(f"{leaf}/bias", f"{name}.bias", "e"),
    ]


def _qkv() -> list[Weight]:
    name, out = "transformer.h.{layer}.attn.c_attn", []
    for c, leaf in enumerate(("q", "k", "v")):
        path = f"blocks/attn/{leaf}"
        out.append(Weight(f"{path}/kernel", f"{name}.weight", "e (c h d)", "e h d", {"c": c}))
        out.append(Weight(f"{path}/bias", f"{name}.bias", "(c h d)", "h d", {"c": c}))
    return out


TABLE = (
    Weight("embed/embedding", "transformer.wte.weight", "v e"),
    Weight("positions/embedding", "transformer.wpe.weight", "p e"),
    *_norm("blocks/norm1", "transformer.h.{layer}.ln_1"),
    *_qkv(),
    Weight("blocks/attn/o/kernel", "transformer.h.{layer}.attn.c_proj.weight", "(h d) e", "h d e"),
    Weight("blocks/attn/o/bias", "transformer.h.{layer}.attn.c_proj.bias", "e"),
    *_norm("blocks/norm2", "transformer.h.{layer}.ln_2"),
    Weight("blocks/mlp/in/kernel", "transformer.h.{layer}.mlp.c_fc.weight", "e m"),
    Weight("blocks/mlp/in/bias", "transformer.h.{layer}.mlp.c_fc.bias", "m"),
    Weight("blocks/mlp/out/kernel", "transformer.h.{layer}.mlp.c_proj.weight", "m e"),
    Weight("blocks/mlp/out/bias", "transformer.h.{layer}.mlp.c_proj.bias", "e"),
    *_norm("norm_f", "transformer.ln_f"),
    Weight("unembed/kernel", UNEMBED, "v e", "e v"),
)
