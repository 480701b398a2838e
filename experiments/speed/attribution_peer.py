"""Attribute the prompt of `speed/attribution.py` with circuit-tracer.

`speed/attribution.py` starts this script with a Python that has circuit-tracer; it is not meant to
be run by hand. The model and the transcoder are rebuilt from saved arrays; circuit-tracer itself is
as released. For each line on standard input the script attributes once, and answers with a line of
JSON: seconds and peak memory. The line `deliver` also writes the adjacency beside the arrays.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def main(argv: Sequence[str]) -> None:
    """Parse the arguments, and attribute once for every line on standard input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with arrays.npz and prompt.npy")
    parser.add_argument("settings", type=json.loads, help="JSON: shapes, features and threads")
    args = parser.parse_args(argv)
    needs("torch", "circuit_tracer", "transformer_lens", "transformers")
    answer_lines(args.folder, args.settings)


def answer_lines(folder: Path, settings: dict[str, Any]) -> None:
    """Attribute once for every line on standard input, and answer with seconds and memory."""
    import torch  # pyright: ignore[reportMissingImports]
    from circuit_tracer import attribute  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(settings["threads"])
    arrays = {k: torch.from_numpy(v) for k, v in np.load(folder / "arrays.npz").items()}
    model = build(arrays, settings)
    prompt = torch.from_numpy(np.load(folder / "prompt.npy").astype(np.int64))
    say(ready=True, before=peak(), versions={p: version(p) for p in ("circuit-tracer", "torch")})
    for line in sys.stdin:
        batch, features = int(line.split()[1]), settings["features"]
        began = time.perf_counter()
        # All features are chosen in a single round, as with its defaults at this size.
        graph = attribute(
            prompt, model, max_feature_nodes=features, batch_size=batch,
            update_interval=-(-features // batch), verbose=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if line.startswith("deliver"):
            np.savez(
                folder / "peer.npz",
                adjacency=graph.adjacency_matrix.numpy(),
                features=graph.active_features[graph.selected_features].numpy(),
            )
        say(seconds=seconds, peak=peak())


def needs(*packages: str) -> None:
    """Raise an error if a package is not installed.

    The Python that runs this script need not have any other file of this repository.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        from hagd_jax.errors import MissingDependencyError

        raise MissingDependencyError(
            "circuit-tracer's side", got=f"no {', '.join(missing)}",
            expected=f"a Python that has {', '.join(packages)}",
            mend="The top of speed/attribution.py says how to make one.",
        )  # fmt: skip


def build(arrays: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Build circuit-tracer's replacement model from the arrays."""
    import torch  # pyright: ignore[reportMissingImports]
    from circuit_tracer import ReplacementModel  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens import HookedTransformerConfig  # pyright: ignore[reportMissingImports]
    from transformers import PreTrainedTokenizerFast  # pyright: ignore[reportMissingImports]

    vocabulary = {f"w{i}": i for i in range(settings["vocab"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w1")),
        bos_token="w1", unk_token="w1", eos_token="w1", pad_token="w1",
    )  # fmt: skip
    config = HookedTransformerConfig(
        n_layers=settings["layers"], d_model=settings["width"], n_ctx=settings["positions"],
        d_head=settings["width"] // settings["heads"], n_heads=settings["heads"],
        d_mlp=settings["mlp"], d_vocab=settings["vocab"], act_fn="silu", gated_mlp=True,
        normalization_type="RMS", final_rms=True, eps=settings["eps"], default_prepend_bos=False,
        positional_embedding_type="rotary", rotary_base=settings["theta"], device="cpu",
        rotary_dim=settings["width"] // settings["heads"], dtype=torch.float32,
    )  # fmt: skip
    model = ReplacementModel.from_config(config, transcoder(arrays, settings))
    model.tokenizer = tokenizer
    state = model.state_dict()
    found = {}
    for name in state:
        plain = name.replace(".old_mlp", "").replace(".old_unembed", "")
        if plain in arrays:
            found[name] = arrays[plain]
    missing = {k for k in arrays if not k.startswith("tc/")} - {
        name.replace(".old_mlp", "").replace(".old_unembed", "") for name in found
    }
    if missing:
        raise SystemExit(f"{missing} have no place among {list(state)[:40]}")
    model.load_state_dict(state | found)
    return model


def transcoder(arrays: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Build circuit-tracer's per-layer or cross-layer transcoder from the arrays."""
    import torch  # pyright: ignore[reportMissingImports]
    from circuit_tracer.transcoder import (  # pyright: ignore[reportMissingImports]
        cross_layer_transcoder,
        single_layer_transcoder,
    )

    layers, width, count = settings["layers"], settings["width"], len(arrays["tc/b_enc"][0])
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    options: Any = {"device": torch.device("cpu"), "dtype": torch.float32}
    if settings["kind"] == "per-layer":
        made = {}
        for i in range(layers):
            one = single_layer_transcoder.SingleLayerTranscoder(
                width, count, topk_relu(settings["k"]), i, **options
            )
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                getattr(one, name).data = arrays[f"tc/{name}"][i]
            made[i] = one
        return single_layer_transcoder.TranscoderSet(made, **hooks)
    made = cross_layer_transcoder.CrossLayerTranscoder(
        layers, count, width, "relu", lazy_decoder=False, **hooks, **options
    )
    for name in ("W_enc", "b_enc", "b_dec"):
        getattr(made, name).data = arrays[f"tc/{name}"]
    first = 0
    for i in range(layers):
        # (edges, F, D) of one sender → (F, edges, D).
        last = first + layers - i
        made.W_dec[i].data = arrays["tc/W_dec"][first:last].permute(1, 0, 2).contiguous()
        first = last
    return made


def topk_relu(k: int) -> Any:
    """Return circuit-tracer's TopK of the positive pre-activations."""
    import torch  # pyright: ignore[reportMissingImports]
    from circuit_tracer.transcoder.activation_functions import (  # pyright: ignore[reportMissingImports]
        TopK,
    )

    return torch.nn.Sequential(torch.nn.ReLU(), TopK(k))


def peak() -> int:
    """Return the peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(**answer: Any) -> None:
    """Print an answer as a line of JSON on standard output."""
    print("ANSWER " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
