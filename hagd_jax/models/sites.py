"""The named places in a forward pass where a value can be read or rewritten.

The same names hold for every family. Each site lists the logical axes of its value; capturing a
block site stacks it over layers, so the trace has a leading L.

Every norm divides by a site of its own, so that all of them can be held, and with held
denominators and patterns the stream is linear in what was written to it:

- `q_scale`, `k_scale`: of the norms of queries and keys. `q` and `k` come after these norms and
  before rotation, so that scores are products of rotated `q` and `k` in every family; before the
  norm a query was q · q_scale / weight. A norm over all heads at once has one denominator, and each
  head a copy of it.
- `attn_out_scale`, `mlp_out_scale`: of the norms after attention and after the MLP. `attn_out` and
  `mlp_out` come after them: they are what is added to the stream. `head_out`, `head_write` and
  `neuron` come before: Σ_h head_write + W_O's bias is what the norm reads, and `write_gain` gives
  the factor that takes it to `attn_out`, the norm's weight / its denominator. `head_added` is
  `head_write` times that factor: what each head adds to the stream. `mlp_out_raw` is what the norm
  after the MLP reads; without one it is `mlp_out`.

Where a model lacks a norm, its denominator is one. `logits` come after a soft cap, as does the
softmax of `attn_pattern` after that of the scores; `embed` comes after the embedding's scale.

In a mixture of experts `router` holds the weight of each expert after the choice, zero where it
was not chosen, and `neuron` comes after that weight: neuron = router · act(gate) · in. So
mlp_out = neuron · W_out as elsewhere, and with `router` held the choice is held, too. Neuron i of
expert e is number e · (M / E) + i. A dense MLP is one expert, whose weight is one.

A neuron is the product neuron_act · neuron_up · router, where neuron_act = act(neuron_pre). In a
gated MLP `neuron_pre` is x · W_gate and `neuron_up` is x · W_in; without a gate they are x · W_in
and one. These three are computed for all experts where somebody asks for one of them.

Shapes: B batch, T positions, S key positions, D d_model, H heads, K key/value heads, Dh d_head,
E experts (1 without), M neurons, V vocabulary.
"""

from __future__ import annotations

import difflib
from typing import Any

from hagd_jax.errors import ConfigError, require_list
from hagd_jax.models.config import DecoderConfig

_STREAM = ("batch", "length", "act_embed")
_SCALE = ("batch", "length", None)

# In the order in which a block computes them.
BLOCK_SITES: dict[str, tuple[str | None, ...]] = {
    "resid_pre": _STREAM,  # (B,T,D) the stream as the block receives it
    "q_in": ("batch", "length", "heads", "act_embed"),  # (B,T,H,D) one copy a head, before the norm
    "k_in": ("batch", "length", "kv_heads", "act_embed"),  # (B,T,K,D)
    "v_in": ("batch", "length", "kv_heads", "act_embed"),  # (B,T,K,D)
    "norm1_scale": _SCALE,  # (B,T,1) what the first norm divides by
    "q_scale": ("batch", "length", "heads", None),  # (B,T,H,1) what the queries' norm divides by
    "k_scale": ("batch", "length", "kv_heads", None),  # (B,T,K,1) what the keys' norm divides by
    "q": ("batch", "length", "heads", "head_dim"),  # (B,T,H,Dh) normed, before rotation
    "k": ("batch", "length", "kv_heads", "head_dim"),  # (B,T,K,Dh) normed, before rotation
    "v": ("batch", "length", "kv_heads", "head_dim"),  # (B,T,K,Dh)
    "attn_pattern": ("batch", "heads", "length", None),  # (B,H,T,S) after the softmax
    "head_out": ("batch", "length", "heads", "head_dim"),  # (B,T,H,Dh) before W_O
    "head_write": ("batch", "length", "heads", "act_embed"),  # (B,T,H,D) after W_O, without bias
    "attn_out_scale": _SCALE,  # (B,T,1) what the norm after attention divides by
    "head_added": ("batch", "length", "heads", "act_embed"),  # (B,T,H,D) head_write, normed alike
    "attn_out": _STREAM,  # (B,T,D) summed over heads, with bias, normed: as added to the stream
    "resid_mid": _STREAM,  # (B,T,D) the stream as the MLP's half finds it
    "resid_mlp": _STREAM,  # (B,T,D) the MLP's own copy of it, before the norm
    "norm2_scale": _SCALE,  # (B,T,1) what the second norm divides by
    "mlp_in": _STREAM,  # (B,T,D) the normed MLP input
    "router": ("batch", "length", "act_experts"),  # (B,T,E) weights of experts, after the choice
    "neuron_pre": ("batch", "length", "mlp"),  # (B,T,M) what the activation function reads
    "neuron_act": ("batch", "length", "mlp"),  # (B,T,M) what the activation function gives
    "neuron_up": ("batch", "length", "mlp"),  # (B,T,M) what a gate multiplies; one without a gate
    "neuron": ("batch", "length", "mlp"),  # (B,T,M) after activation, gate and router
    "mlp_out_raw": _STREAM,  # (B,T,D) what the MLP puts out, before a norm after it
    "mlp_out_scale": _SCALE,  # (B,T,1) what the norm after the MLP divides by
    "mlp_out": _STREAM,  # (B,T,D) as added to the stream
    "resid_post": _STREAM,  # (B,T,D) the stream as the block leaves it
}

MODEL_SITES: dict[str, tuple[str | None, ...]] = {
    "embed": _STREAM,  # (B,T,D) token plus position embedding
    "resid_final": _STREAM,  # (B,T,D) the stream after the last block
    "normf_scale": _SCALE,  # (B,T,1) what the final norm divides by
    "normed_final": _STREAM,  # (B,T,D) what the unembedding reads
    "logits": ("batch", "length", "vocab"),  # (B,T,V)
}

SITES: dict[str, tuple[str | None, ...]] = BLOCK_SITES | MODEL_SITES

# One copy of the stream a head, one write a head, or the factors of neurons: computed only when
# somebody asks.
QKV_INPUT_SITES = frozenset({"q_in", "k_in", "v_in"})
NEURON_PARTS = frozenset({"neuron_pre", "neuron_act", "neuron_up"})
ON_REQUEST_SITES = QKV_INPUT_SITES | NEURON_PARTS | {"head_write", "head_added", "resid_mlp"}


def site_shape(site: str, config: DecoderConfig, batch: int, length: int) -> tuple[int, ...]:
    """Return the shape of a site's value in one layer.

    Args:
        site: One of `SITES`.
        config: The decoder.
        batch: Prompts, B.
        length: Positions, T.

    Returns:
        The shape; a trace has a leading L for block sites.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> site_shape("attn_pattern", config, 3, 5)
        (3, 2, 5, 5)
    """
    # The one axis without a name: key positions in a pattern, a single entry in a scale.
    sizes: dict[str | None, int] = {
        "batch": batch, "length": length, "act_embed": config.d_model, "heads": config.n_heads,
        "kv_heads": config.n_kv_heads, "head_dim": config.d_head, "mlp": config.d_mlp,
        "act_experts": max(config.experts, 1), "vocab": config.vocab_size,
        None: length if site == "attn_pattern" else 1,
    }  # fmt: skip
    return tuple(sizes[axis] for axis in SITES[site])


def require_sites(names: Any, what: str = "sites") -> tuple[str, ...]:
    """Read names of sites, refusing unknown ones.

    Args:
        names: One name, or several.
        what: Who asked, for the message.

    Returns:
        The names.

    Raises:
        ConfigError: If a site does not exist.
        InputError: If it is no list of names.
    """
    names = (names,) if isinstance(names, str) else tuple(require_list(what, names, "sites"))
    for name in names:
        require_site(name, what)
    return names


def require_site(name: str, what: str = "site") -> None:
    """Check that a site exists.

    Args:
        name: The name to check.
        what: Who asked, for the message.

    Raises:
        ConfigError: If there is no such site; the message names the closest ones.
    """
    if not isinstance(name, str) or name not in SITES:
        close = difflib.get_close_matches(str(name), SITES, n=3)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else None
        raise ConfigError(what, got=repr(name), expected=f"one of {', '.join(SITES)}", mend=hint)
