"""What a model's options mean for code that uses its weights directly.

A forward pass knows every option. Code that multiplies by W_O, W_out, the unembedding or a norm's
weight itself knows those that it was written for, and refuses the others by name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError, InputError, require_is
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.model import LanguageModel

# Options beyond GPT-2, Pythia and Llama, with the values that switch them off.
OPTIONS: dict[str, Any] = {
    "norm_offset": False,
    "norm_placement": "before",
    "qk_norm": "none",
    "window": 0,
    "rope_local_theta": 0.0,
    "query_scalar": 0.0,
    "attn_softcap": 0.0,
    "scale_embed": False,
    "logit_softcap": 0.0,
    "experts": 0,
}


def require_supported(config: DecoderConfig, who: str, supported: Collection[str] = ()) -> None:
    """Refuse a model with an option that code was not written for.

    Args:
        config: Of the model.
        who: The code, for the message.
        supported: The options of `OPTIONS` that it may have.

    Raises:
        ConfigError: Naming the option.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=1, d_model=8, n_heads=2, d_mlp=16)
        >>> require_supported(config.replace(logit_softcap=30.0), "this example", OPTIONS)
        >>> require_supported(config.replace(logit_softcap=30.0), "this example")
        Traceback (most recent call last):
        ...
        hagd_jax.errors.ConfigError: logit_softcap of the model: got 30.0; expected 0.0 for this \
example. It would compute another function: it does not know this option yet.
    """
    require_is("config", config, DecoderConfig)
    for name, plain in OPTIONS.items():
        value = getattr(config, name)
        if value != plain and name not in supported:
            raise ConfigError(
                f"{name} of the model",
                got=quoted(value),
                expected=f"{quoted(plain)} for {who}",
                mend="It would compute another function: it does not know this option yet.",
            )


def norm_weight(scale: jax.Array, config: DecoderConfig) -> jax.Array:
    """Return what a norm multiplies by: its stored weight, or 1 + it, in float32 or wider."""
    wide = scale.astype(jnp.promote_types(scale.dtype, jnp.float32))
    return 1 + wide if config.norm_offset else wide


def write_gain(model: LanguageModel, trace: dict[str, jax.Array], site: str) -> jax.Array:
    """Compute the linear map from what a sublayer puts out to what is added to the stream.

    The map is a diagonal, the weight of the norm after the sublayer divided by its denominator in
    this pass: attn_out = gain · (Σ_h head_write + b_O), mlp_out = gain · (neuron · W_out + b_out).

    Args:
        model: The model.
        trace: Of a pass that captured `attn_out_scale` or `mlp_out_scale`.
        site: `attn_out` or `mlp_out`.

    Returns:
        (L, B, T, D); (L, B, T, 1) of ones where the model has no such norm.

    Raises:
        InputError: If there is no such site, or its denominators were not captured.

    Example:
        >>> from hagd_jax.models import forward, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16,
        ...                        norm="rms", norm_placement="both", attn_out_bias=False)
        >>> model = init(config, jax.random.key(0))
        >>> sites = ("head_write", "attn_out", "attn_out_scale")
        >>> trace = forward(model, [[1, 2, 3]], capture=sites).trace
        >>> added = trace["head_write"].sum(3) * write_gain(model, trace, "attn_out")
        >>> bool(jnp.allclose(added, trace["attn_out"], atol=1e-5))
        True
    """
    require_is("model", model, LanguageModel)
    if site not in ("attn_out", "mlp_out"):
        raise InputError("site", got=quoted(site), expected="'attn_out' or 'mlp_out'")
    if f"{site}_scale" not in trace:
        raise InputError("trace", got=f"no {site}_scale", expected="it among the captured sites")
    scale = trace[f"{site}_scale"]
    blocks = model.params["blocks"]
    if f"norm_{site}" not in blocks:
        return 1 / scale
    weight = norm_weight(blocks[f"norm_{site}"]["scale"], model.config)
    return weight[:, None, None] / scale
