"""circuit-tracer attributing the prompt of `speed/attribution.py`, which starts this.

It runs in a Python of its own that has circuit-tracer, and is not meant to be run by hand. The
model and the transcoder are rebuilt from the arrays that are handed over; nothing else is changed
in what was released. For each line on standard input it attributes once, and answers with a line
of JSON: seconds, peak memory, and with `deliver` the adjacency, written beside the arrays.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens import HookedTransformerConfig
from transformers import PreTrainedTokenizerFast


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    arrays = {k: torch.from_numpy(v) for k, v in np.load(folder / "arrays.npz").items()}
    model = build(arrays, settings)
    prompt = torch.from_numpy(np.load(folder / "prompt.npy").astype(np.int64))
    say(ready=True, before=peak(), versions={p: version(p) for p in ("circuit-tracer", "torch")})
    for line in sys.stdin:
        batch, features = int(line.split()[1]), settings["features"]
        began = time.perf_counter()
        # All features are chosen in one go, as its defaults do with so many.
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


def build(arrays: dict[str, torch.Tensor], settings: dict[str, Any]) -> Any:
    """The replacement model."""
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


def transcoder(arrays: dict[str, torch.Tensor], settings: dict[str, Any]) -> Any:
    """The transcoder, of either kind."""
    layers, width, count = settings["layers"], settings["width"], len(arrays["tc/b_enc"][0])
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    options: Any = {"device": torch.device("cpu"), "dtype": torch.float32}
    if settings["kind"] == "per-layer":
        made = {}
        for i in range(layers):
            one = SingleLayerTranscoder(width, count, TopKReLU(settings["k"]), i, **options)
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                getattr(one, name).data = arrays[f"tc/{name}"][i]
            made[i] = one
        return TranscoderSet(made, **hooks)
    made = CrossLayerTranscoder(
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


class TopKReLU(torch.nn.Module):
    """Its TopK, of what is positive."""

    def __init__(self, k: int):
        super().__init__()
        self.inner = TopK(k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The k largest, or fewer."""
        return self.inner(torch.relu(x))


def peak() -> int:
    """Bytes of memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(**answer: Any) -> None:
    print("ANSWER " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
