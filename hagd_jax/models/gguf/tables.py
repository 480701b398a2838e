"""Where each parameter lies in a GGUF file: one table for each architecture.

The names are those of llama.cpp (gguf-py, `tensor_mapping.py`), the layouts those that its
converters write: matrices are (outputs, inputs) in every architecture, GPT-2 included, and fused
queries, keys and values lie one after the other, GPT-NeoX included. llama.cpp rotates neighbouring
entries of a Llama's head, so only there the rows of queries and keys are stored as (head, pair,
member) where Hugging Face has (head, member, pair).
"""

from __future__ import annotations

from hagd_jax.models.families.table import Weight, dense

_LAYER = "blk.{layer}."


def _scales(**names: str) -> tuple[Weight, ...]:
    """Map norms of a block, by their path inside it, to tensors of a layer."""
    return tuple(
        Weight(f"blocks/{leaf}/scale", f"{_LAYER}{name}.weight", "e")
        for leaf, name in names.items()
    )


def _layer_norm(leaf: str, name: str) -> tuple[Weight, ...]:
    return (
        Weight(f"{leaf}/scale", f"{name}.weight", "e"),
        Weight(f"{leaf}/bias", f"{name}.bias", "e"),
    )


def _fused() -> tuple[Weight, ...]:
    name, out = f"{_LAYER}attn_qkv", []
    for c, leaf in enumerate("qkv"):
        path = f"blocks/attn/{leaf}"
        out.append(Weight(f"{path}/kernel", f"{name}.weight", "(c h d) e", "e h d", {"c": c}))
        out.append(Weight(f"{path}/bias", f"{name}.bias", "(c h d)", "h d", {"c": c}))
    return tuple(out)


_EMBED = Weight("embed/embedding", "token_embd.weight", "v e")
_HEAD = Weight("unembed/kernel", "output.weight", "v e", "e v")
_RMS_ENDS = (_EMBED, Weight("norm_f/scale", "output_norm.weight", "e"), _HEAD)
_VALUES = dense("attn/v", f"{_LAYER}attn_v", "(k d) e", "e k d", "(k d)", "k d")
_READS = (
    *dense("attn/q", f"{_LAYER}attn_q", "(h d) e", "e h d", "(h d)", "h d"),
    *dense("attn/k", f"{_LAYER}attn_k", "(k d) e", "e k d", "(k d)", "k d"),
    *_VALUES,
)
_PAIRED_READS = (
    *dense("attn/q", f"{_LAYER}attn_q", "(h j t) e", "e h (t j)", "(h j t)", "h (t j)"),
    *dense("attn/k", f"{_LAYER}attn_k", "(k j t) e", "e k (t j)", "(k j t)", "k (t j)"),
    *_VALUES,
)
_OUT = (*dense("attn/o", f"{_LAYER}attn_output", "e (h d)", "h d e", "e"),)
_GATED = (
    *_OUT,
    *dense("mlp/gate", f"{_LAYER}ffn_gate", "m e", "e m", "m"),
    *dense("mlp/in", f"{_LAYER}ffn_up", "m e", "e m", "m"),
    *dense("mlp/out", f"{_LAYER}ffn_down", "e m", "m e", "e"),
)
# One tensor a matrix for all experts of a layer, one expert after the other.
_EXPERTS = (
    *_OUT,
    Weight("blocks/mlp/router/kernel", f"{_LAYER}ffn_gate_inp.weight", "x e", "e x"),
    Weight("blocks/mlp/gate/kernel", f"{_LAYER}ffn_gate_exps.weight", "x f e", "e (x f)"),
    Weight("blocks/mlp/in/kernel", f"{_LAYER}ffn_up_exps.weight", "x f e", "e (x f)"),
    Weight("blocks/mlp/out/kernel", f"{_LAYER}ffn_down_exps.weight", "x e f", "(x f) e"),
)
_BEFORE = _scales(norm1="attn_norm", norm2="ffn_norm")
_AFTER = _scales(norm_attn_out="post_attention_norm", norm_mlp_out="post_ffw_norm")
_QK_NORMS = (
    Weight("blocks/attn/q_norm/scale", f"{_LAYER}attn_q_norm.weight", "d"),
    Weight("blocks/attn/k_norm/scale", f"{_LAYER}attn_k_norm.weight", "d"),
)

LLAMA = (*_RMS_ENDS, *_BEFORE, *_PAIRED_READS, *_GATED)
QWEN2 = (*_RMS_ENDS, *_BEFORE, *_READS, *_GATED)
QWEN3 = (*QWEN2, *_QK_NORMS)
MIXTRAL = (*_RMS_ENDS, *_BEFORE, *_PAIRED_READS, *_EXPERTS)
QWEN3_MOE = (*_RMS_ENDS, *_BEFORE, *_READS, *_EXPERTS, *_QK_NORMS)
GEMMA2 = (*QWEN2, *_AFTER)
GEMMA3 = (*QWEN3, *_AFTER)
GPT_NEOX = (
    _EMBED,
    *_layer_norm("blocks/norm1", f"{_LAYER}attn_norm"),
    *_fused(),
    *dense("attn/o", f"{_LAYER}attn_output", "e (h d)", "h d e", "e"),
    *_layer_norm("blocks/norm2", f"{_LAYER}ffn_norm"),
    *dense("mlp/in", f"{_LAYER}ffn_up", "m e", "e m", "m"),
    *dense("mlp/out", f"{_LAYER}ffn_down", "e m", "m e", "e"),
    *_layer_norm("norm_f", "output_norm"),
    _HEAD,
)
GPT2 = (*GPT_NEOX, Weight("positions/embedding", "position_embd.weight", "p e"))
