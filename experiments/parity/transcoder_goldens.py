"""Write the small transcoders under `tests/transcoders/formats/goldens`, and their outputs.

Both are made by the formats' own libraries. The tests compare with these files, so that they need
neither torch nor a network.

    pip install torch==2.13.0 eai-sparsify==1.3.3 sae-lens==6.54.12
    python -m experiments.parity.transcoder_goldens

Expected: a few seconds; 7 folders, below 150 kB together. Each holds a transcoder saved by
`sparsify` or SAELens, and `expected.npz`: inputs x (L, N, D), features (L, N, F) and outputs (L, N,
D), in float32.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.common.script import ROOT, need, run

LAYERS, TOKENS, WIDTH, FEATURES = 2, 16, 6, 20

# Name → options. The second is like folders from before the option `transcode` existed.
SPARSIFY = {
    "sparsify_skip": {"transcode": True, "skip_connection": True},
    "sparsify_old_skip": {"skip_connection": True},
    "sparsify_plain": {"transcode": True},
}
# Name → class; the configuration class appends `Config` to its name.
SAELENS = {
    "saelens_relu": "Transcoder",
    "saelens_skip": "SkipTranscoder",
    "saelens_jump": "JumpReLUTranscoder",
    "saelens_jump_skip": "JumpReLUSkipTranscoder",
}
OLD_OPTIONS = ("expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk",
               "skip_connection", "d_in")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Config holds the settings for writing the goldens of sparsify and SAELens.

    Attributes:
        out: Folder that they are written to.
    """

    out: pathlib.Path = ROOT / "tests" / "transcoders" / "formats" / "goldens"


def main(config: Config) -> None:
    """Write all golden folders."""
    need(
        "torch", "sparsify", "sae_lens",
        install="pip install torch==2.13.0 eai-sparsify==1.3.3 sae-lens==6.54.12",
    )  # fmt: skip
    for name, options in SPARSIFY.items():
        write(config.out / name, lambda layer, folder, o=options: sparsify(layer, folder, **o))
    for name, kind in SAELENS.items():
        write(config.out / name, lambda layer, folder, k=kind: sae_lens(layer, folder, k))


def write(folder: pathlib.Path, save: Callable[[int, pathlib.Path], Any]) -> None:
    """Save one transcoder per layer, with random inputs and its features and outputs."""
    import torch  # pyright: ignore[reportMissingImports]

    name = folder.name
    torch.manual_seed(zlib.crc32(name.encode()))
    shutil.rmtree(folder, ignore_errors=True)
    xs, features, outputs = [], [], []
    for layer in range(LAYERS):
        compute = save(layer, folder)
        x = torch.randn(TOKENS, WIDTH)
        with torch.no_grad():
            found, output = compute(x)
        xs.append(x)
        features.append(found)
        outputs.append(output)
    arrays = {"x": xs, "features": features, "outputs": outputs}
    np.savez_compressed(
        folder / "expected.npz", **{k: torch.stack(v).numpy() for k, v in arrays.items()}
    )
    active = torch.stack(features) > 0
    print(f"{name:<20} {active.float().mean():.2f} of the features active")


def sparsify(layer: int, folder: pathlib.Path, **options: Any) -> Any:
    """Save one layer with `sparsify`; return a function that computes with the loaded layer."""
    import torch  # pyright: ignore[reportMissingImports]
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    config = SparseCoderConfig(num_latents=FEATURES, k=4, **options)
    coder = SparseCoder(WIDTH, config)
    randomise(coder)
    old = "transcode" not in options
    place = folder / (f"layers.{layer}.mlp" if old else f"model.layers.{layer}.mlp")
    coder.save_to_disk(place)
    if old:
        given = json.loads((place / "cfg.json").read_text())
        (place / "cfg.json").write_text(json.dumps({name: given[name] for name in OLD_OPTIONS}))
    loaded = SparseCoder.load_from_disk(place)

    def compute(x: Any) -> tuple[Any, Any]:
        out = loaded(x, torch.zeros_like(x))
        dense = torch.zeros(len(x), FEATURES).scatter(1, out.latent_indices, out.latent_acts)
        return dense, out.sae_out

    return compute


def sae_lens(layer: int, folder: pathlib.Path, name: str) -> Any:
    """Save one layer with SAELens; return a function that computes with the loaded layer."""
    from sae_lens.saes import transcoder as saelens  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.sae import SAEMetadata  # pyright: ignore[reportMissingImports]

    kind, config = getattr(saelens, name), getattr(saelens, f"{name}Config")
    metadata = SAEMetadata(
        model_name="gpt2", hook_name=f"blocks.{layer}.mlp.hook_in",
        hook_name_out=f"blocks.{layer}.hook_mlp_out",
    )  # fmt: skip
    options = {"d_in": WIDTH, "d_out": WIDTH, "d_sae": FEATURES, "apply_b_dec_to_input": False}
    made = kind(config(**options, metadata=metadata))
    randomise(made)
    place = folder / f"mlp_{layer}"
    made.save_model(place)
    loaded = kind.load_from_disk(place).eval()

    def compute(x: Any) -> tuple[Any, Any]:
        output, found = loaded.forward_with_activations(x)
        return found, output

    return compute


def randomise(module: Any) -> None:
    """Draw all parameters at random, with thresholds of either sign."""
    import torch  # pyright: ignore[reportMissingImports]

    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)


if __name__ == "__main__":
    run(main, Config, __doc__)
