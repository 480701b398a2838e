"""Qwen 3 with mixtures of experts, as Hugging Face stores it: in every layer, or in some."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError, require_number
from hagd_jax.models.config import MOST_LAYERS, DecoderConfig
from hagd_jax.models.families import kin, mixtures, options, windows
from hagd_jax.models.families.options import Options, option, same, words
from hagd_jax.models.families.table import Weight

MODEL_TYPE = "qwen3_moe"
ARCHITECTURE = "Qwen3MoeForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words(
    """
        attention_bias decoder_sparse_step max_window_layers mlp_only_layers moe_intermediate_size
        norm_topk_prob num_experts num_experts_per_tok num_local_experts sliding_window
        use_sliding_window
        """
)
_USUAL = kin.Usual(32768, heads_shared=True)
_NAMES = mixtures.Names(
    "mlp.gate.weight", "mlp.experts", "gate_proj.weight", "up_proj.weight", "down_proj.weight"
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
    kin.whole_heads(given)
    found = kin.read(given, _USUAL, strict) | kin.biases(given)
    dense = _dense_layers(given, found["n_layers"])
    width = found["d_mlp"] if dense else 0
    count = same(given, "num_experts", "num_local_experts")
    experts = option({"num_experts": count}, "num_experts", int)
    each = option(given, "moe_intermediate_size", int)
    found |= mixtures.neurons(experts, each, "moe_intermediate_size")
    return DecoderConfig(
        family="qwen3_moe",
        qk_norm="head",
        window=_window(given),
        experts_per_token=option(given, "num_experts_per_tok", int),
        normalise_routing=option(given, "norm_topk_prob", bool, False),
        dense_layers=dense,
        d_dense=width,
        **found,
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return kin.write(config) | {
        "attention_bias": config.qkv_bias,
        "decoder_sparse_step": 1,
        # Of no meaning where every layer is a mixture.
        "intermediate_size": config.d_dense or config.d_expert,
        "mlp_only_layers": list(config.dense_layers),
        "moe_intermediate_size": config.d_expert,
        "norm_topk_prob": config.normalise_routing,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "sliding_window": config.window or None,
        "use_sliding_window": bool(config.window),
    }


def _window(given: Options) -> int:
    """Read the window, which all layers have if it is switched on.

    Raises:
        ConfigError: If it should begin at some layer: the first releases did that, later ones
            pass over it.
    """
    size = windows.size(given, 4096)
    if not option(given, "use_sliding_window", bool, False):
        return 0
    first = option(given, "max_window_layers", int, 0)
    if size and first:
        raise ConfigError(
            "config.json: max_window_layers",
            got=first,
            expected="0 where use_sliding_window is on",
            mend="Releases of transformers differ in the layers that then have the window.",
        )
    return size


def _dense_layers(given: Options, n_layers: int) -> tuple[int, ...]:
    """Read which layers are no mixture: those listed, and those between the steps.

    Raises:
        ConfigError: If a listed one is no layer, or the step is not positive.
    """
    # Before a list is made of them: a damaged file may say any number.
    require_number("n_layers", n_layers, least=1, most=MOST_LAYERS, whole=True)
    step = option(given, "decoder_sparse_step", int, 1)
    require_number("config.json: decoder_sparse_step", step, least=1, whole=True)
    listed = option(given, "mlp_only_layers", list, [])
    for i, layer in enumerate(listed):
        if type(layer) is not int or not 0 <= layer < n_layers:
            raise ConfigError(
                f"config.json: mlp_only_layers[{i}]",
                got=quoted(layer),
                expected=f"the number of a layer, 0 to {n_layers - 1}",
            )
    chosen = set(listed)
    return tuple(i for i in range(n_layers) if i in chosen or (i + 1) % step)


def table(config: DecoderConfig, names: Collection[str] = ()) -> tuple[Weight, ...]:
    """List the weights, in the form that a checkpoint with these tensors has."""
    return mixtures.table(config, names, _NAMES)
