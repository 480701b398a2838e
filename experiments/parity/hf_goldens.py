"""Write the small models under `tests/models/goldens/hf`, and their outputs by `transformers`.

The tests compare with these files, so that they need neither torch nor a network. Each case names
the release of `transformers` that writes it, 4 or 5, because the two write rotary settings
differently. Run the script once in an environment with each:

    pip install torch==2.13.0 transformers==4.57.3 && python -m experiments.parity.hf_goldens
    pip install torch==2.13.0 'transformers>=5,<6' && python -m experiments.parity.hf_goldens

Expected: about ten seconds; 24 folders, below 1.5 MB together. Each holds `config.json`, the
weights in one or more safetensors files, and `expected.npz`: tokens (2, 12), logits (2, 12, V),
hidden_states (L+1, 2, 12, D) in float32; the last hidden state is after the final norm.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import zlib
from typing import Any

import numpy as np

from experiments.common.script import ROOT, need, run
from hagd_jax.errors import MissingDependencyError

LENGTH = 12


@dataclasses.dataclass(frozen=True)
class Case:
    """Case describes a golden model folder.

    Attributes:
        name: Name of the folder.
        family: Prefix of the configuration and model class: GPT2, GPTNeoX or Llama.
        options: Changes to the family's small base configuration.
        release: Major release of `transformers` that writes it.
        shard_size: Largest weights file, in the format of `save_pretrained`, such as "1GB".
        dtype: Dtype of the stored weights; expected values are computed from them in float32.
        as_on_hub: Rename and add tensors to match the family's published checkpoints.
    """

    name: str
    family: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    release: int = 4
    shard_size: str = "1GB"
    dtype: str = "float32"
    as_on_hub: bool = False


BASE: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "GPTNeoX": {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
    },
    "Llama": {
        "vocab_size": 61,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
    },
}

# Of the four wavelengths 2π·100^(j/4), one stays, one is blended and two are stretched.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CASES = [
    Case("gpt2", "GPT2"),
    Case(
        "gpt2_options",
        "GPT2",
        {
            "n_inner": 24,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
            "scale_attn_weights": False,
            "layer_norm_epsilon": 1e-3,
        },
    ),
    Case("gpt2_inverse_layer", "GPT2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
    Case("gpt2_untied", "GPT2", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    Case("gpt2_hub", "GPT2", as_on_hub=True),
    Case("neox_parallel", "GPTNeoX", {"rotary_pct": 0.25}),
    Case(
        "neox_sequential",
        "GPTNeoX",
        {
            "use_parallel_residual": False,
            "rotary_pct": 1.0,
            "rotary_emb_base": 500,
            "attention_bias": False,
            "hidden_act": "gelu_fast",
        },
    ),
    Case("neox_hub", "GPTNeoX", {"rotary_pct": 0.5}, as_on_hub=True, dtype="float16"),
    Case(
        "neox_linear",
        "GPTNeoX",
        {
            "rotary_pct": 0.5,
            "tie_word_embeddings": True,
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        },
    ),
    Case("llama_mha", "Llama", {"tie_word_embeddings": False, "rms_norm_eps": 1e-2}),
    Case(
        "llama_gqa_shards",
        "Llama",
        {"num_key_value_heads": 2, "rope_theta": 500.0},
        shard_size="12KB",
    ),
    Case(
        "llama_mqa_tied",
        "Llama",
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "hidden_act": "gelu"},
    ),
    Case("llama_biases", "Llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama_head_dim", "Llama", {"head_dim": 6, "num_key_value_heads": 2}),
    Case("llama_linear", "Llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Case(
        "llama_dynamic",
        "Llama",
        {"max_position_embeddings": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ),
    Case(
        "llama_llama3",
        "Llama",
        {
            "head_dim": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "rope_theta": 100.0,
            "rope_scaling": LLAMA3,
        },
    ),
    Case("llama_bfloat16", "Llama", {"num_key_value_heads": 2}, dtype="bfloat16"),
    Case("v5_gpt2", "GPT2", release=5),
    Case(
        "v5_neox",
        "GPTNeoX",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 700.0,
                "partial_rotary_factor": 0.25,
            }
        },
        release=5,
    ),
    Case(
        "v5_llama",
        "Llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 900.0}},
        release=5,
    ),
    Case(
        "v5_llama_linear",
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 2.0}},
        release=5,
        shard_size="12KB",
    ),
    Case(
        "v5_llama_dynamic",
        "Llama",
        {
            "max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 900.0, "factor": 3.0},
        },
        release=5,
    ),
    Case(
        "v5_llama_llama3",
        "Llama",
        {
            "head_dim": 8,
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_theta": 100.0} | LLAMA3,
            "tie_word_embeddings": True,
        },
        release=5,
        dtype="bfloat16",
    ),
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Config holds the settings for writing the goldens of transformers.

    Attributes:
        out: Folder that they are written to.
    """

    out: pathlib.Path = ROOT / "tests" / "models" / "goldens" / "hf"


def main(config: Config) -> None:
    """Write the cases of the installed release of transformers."""
    need("torch", "transformers", install="pip install torch==2.13.0 transformers==4.57.3")
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    version = transformers.__version__
    cases = [case for case in CASES if case.release == int(version.split(".")[0])]
    if not cases:
        raise MissingDependencyError("transformers", got=version, expected="release 4 or 5")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for case in cases:
        write(case, config.out / case.name)
    print(f"{len(cases)} cases written by transformers {version} to {config.out}")


def write(case: Case, folder: pathlib.Path) -> None:
    """Write one case: the model folder, and the float32 outputs of the saved weights."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    seed = zlib.crc32(case.name.encode())
    config = getattr(transformers, f"{case.family}Config")(
        **BASE[case.family] | {"bos_token_id": 0, "eos_token_id": 0} | case.options
    )
    head = "LMHeadModel" if case.family == "GPT2" else "ForCausalLM"
    kind = getattr(transformers, f"{case.family}{head}")
    model = kind(config)
    randomise(model, torch.Generator().manual_seed(seed))
    shutil.rmtree(folder, ignore_errors=True)
    model.to(getattr(torch, case.dtype)).save_pretrained(folder, max_shard_size=case.shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if case.as_on_hub:
        _spell_as_on_hub(case, folder / "model.safetensors")
    _forget_release(folder / "config.json")
    # Read back, not cast in place: `model.to(bfloat16)` has rounded the rotary buffers.
    read = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    np.savez_compressed(folder / "expected.npz", **expected(read, seed))


def randomise(model: Any, generator: Any) -> None:
    """Draw all parameters at random, since initial norms of one and zero biases hide mistakes."""
    import torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1:
                is_scale = name.endswith("weight")
                value.copy_(1 + 0.3 * noise if is_scale else 0.3 * noise)
            else:
                value.copy_(noise * value.shape[-1] ** -0.5)


def expected(model: Any, seed: int) -> Any:
    """Return random tokens, and the model's logits and hidden states.

    The model must use eager attention: the fused one ignores GPT-2's two score options.
    """
    import torch  # pyright: ignore[reportMissingImports]

    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randint(model.config.vocab_size, (2, LENGTH), generator=generator)
    with torch.inference_mode():
        out = model.eval()(tokens, output_hidden_states=True, use_cache=False)
    return {
        "tokens": tokens.numpy().astype(np.int32),
        "logits": out.logits.numpy(),
        "hidden_states": torch.stack(out.hidden_states).numpy(),
    }


def _spell_as_on_hub(case: Case, path: pathlib.Path) -> None:
    """Rename tensors like published checkpoints, and add their unused buffers.

    Published GPT-2 weights lack the `transformer.` prefix; both families have unused buffers.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    context = 16
    mask = torch.tril(torch.ones(1, 1, context, context))
    for layer in range(2):
        if case.family == "GPT2":
            tensors[f"transformer.h.{layer}.attn.bias"] = mask.clone()
        else:
            attention = f"gpt_neox.layers.{layer}.attention"
            tensors[f"{attention}.bias"] = mask.bool()
            tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{attention}.rotary_emb.inv_freq"] = 10000.0 ** -(torch.arange(4.0) / 4)
    renamed = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})


def _forget_release(path: pathlib.Path) -> None:
    """Keep only the major release, so that a patch release does not change the goldens."""
    config = json.loads(path.read_text())
    config["transformers_version"] = config["transformers_version"].split(".")[0]
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    run(main, Config, __doc__)
