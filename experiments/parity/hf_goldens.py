"""Write the small models under `tests/models/goldens/hf`, and their outputs by `transformers`.

The tests compare with these files, so that they need neither torch nor a network. Each case names
the release of `transformers` that writes it, 4 or 5, because the two write rotary settings
differently. Run the script once in an environment with each:

    pip install torch==2.13.0 transformers==4.57.3 && python -m experiments.parity.hf_goldens
    pip install torch==2.13.0 'transformers>=5,<6' && python -m experiments.parity.hf_goldens

Expected: about twenty seconds; 60 folders, below 3 MB together. Each holds `config.json`, the
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
from tyro.conf import Positional

from experiments.common.script import ROOT, need, run
from experiments.parity import hf_cases, hf_family_cases, hf_mixture_cases
from experiments.parity.hf_cases import Case
from hagd_jax.errors import MissingDependencyError

LENGTH = 12
CASES = [*hf_cases.CASES, *hf_family_cases.CASES, *hf_mixture_cases.CASES]
BASE = hf_cases.BASE | hf_family_cases.BASE | hf_mixture_cases.BASE
# Where the class of the configuration has another name than that of the model.
CONFIGS = {"Gemma3": "Gemma3Text"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Config holds the settings for writing the goldens of transformers.

    Attributes:
        out: Folder that they are written to.
        only: Names of the cases to write; all of the installed release if empty.
    """

    only: Positional[tuple[str, ...]] = ()
    out: pathlib.Path = ROOT / "tests" / "models" / "goldens" / "hf"


def main(config: Config) -> None:
    """Write the cases of the installed release of transformers."""
    need("torch", "transformers", install="pip install torch==2.13.0 transformers==4.57.3")
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    version = transformers.__version__
    cases = [case for case in CASES if case.release == int(version.split(".")[0])]
    cases = [case for case in cases if not config.only or case.name in config.only]
    if not cases:
        raise MissingDependencyError(
            "transformers", got=version, expected="release 4 or 5, and its cases"
        )
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
    config = getattr(transformers, f"{CONFIGS.get(case.family, case.family)}Config")(
        **BASE[case.family] | {"bos_token_id": 0, "eos_token_id": 0} | case.options
    )
    head = "LMHeadModel" if case.family == "GPT2" else "ForCausalLM"
    kind = getattr(transformers, f"{case.family}{head}")
    model = kind(config)
    randomise(model, torch.Generator().manual_seed(seed))
    shutil.rmtree(folder, ignore_errors=True)
    # Only release 5 knows two forms.
    form = {"save_original_format": False} if case.as_computed else {}
    model.to(getattr(torch, case.dtype))
    model.save_pretrained(folder, max_shard_size=case.shard_size, **form)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if case.as_on_hub:
        _spell_as_on_hub(case, folder / "model.safetensors")
    _forget_release(folder / "config.json")
    # Read back, not cast in place: `model.to(bfloat16)` has rounded the rotary buffers.
    plain = hf_cases.eager(transformers.__version__)
    read = kind.from_pretrained(folder, dtype=torch.float32, **plain)
    np.savez_compressed(folder / "expected.npz", **expected(read, seed))


def randomise(model: Any, generator: Any) -> None:
    """Draw every parameter: fresh norms are ones and fresh biases zeros, which hide mistakes.

    Gemma's norms multiply by 1 + their weight: theirs lie around zero.
    """
    import torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1:
                one = name.endswith("weight") and "Gemma" not in type(model).__name__
                value.copy_(1 + 0.3 * noise if one else 0.3 * noise)
            else:
                value.copy_(noise * value.shape[-1] ** -0.5)


def expected(model: Any, seed: int) -> Any:
    """Return random tokens, and the model's logits and hidden states."""
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
