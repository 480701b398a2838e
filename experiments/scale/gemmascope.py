"""Does a graph over a dictionary as large as Gemma Scope's fit on a laptop?

    python -m experiments.scale.gemmascope --family llama

Takes a few minutes on two CPU cores, 8 GB of disk for the dictionary, which is made once under
`--runs`, and at most 16 GB of memory. Writes results/gemmascope_llama.json, or
gemmascope_gemma2.json.

The dictionary has Gemma Scope's layout and sizes, for Gemma 2 2B: 26 layers of 16,384 JumpReLU
features of width 2304, float32, in a params.npz a layer (7.9 GB). Its weights are random, and its
thresholds leave about 64 features active a token. The model has random weights in bfloat16, and the
sizes of Gemma 2 2B; with `--family llama` it is a Llama of the same sizes. One prompt of 20 tokens
is attributed to 2,000 features. The dictionary stays on disk: encoders are read a layer at a time,
decoders only where features are active. A fresh process does this, whose peak memory is recorded.
"""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from scipy.stats import norm

from experiments.common.processes import own_process
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.graphs import AttributionConfig, attribute, graph_scores
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.presets import preset
from hagd_jax.transcoders import open_lazy

LIMIT_GB = 16
_ROWS = 4096
Family = Literal["llama", "gemma2"]


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring a graph over a dictionary on disk.

    Attributes:
        family: Architecture of the model: Gemma 2 itself, or a Llama of its sizes.
        layers: Number of transformer blocks.
        width: Width of the residual stream.
        features: Features of a layer.
        active: Features that are active at a token, on average.
        vocabulary: Size of the vocabulary, in tokens; 0 for Gemma's own.
        tokens: Length of the prompt, in tokens.
        nodes: Features that become nodes of the graph.
        twice: Make the graph a second time, without compiling.
        apart: Measure in a separate process, so that its peak memory is its own.
        here: Measure in this process, print the result and end; used internally.
    """

    family: Family = "llama"
    layers: int = 26
    width: int = 2304
    features: int = 16_384
    active: int = 64
    vocabulary: int = 0
    tokens: int = 20
    nodes: int = 2000
    twice: bool = True
    apart: bool = True
    here: bool = False

    def decoder(self) -> DecoderConfig:
        """Return the configuration of the model."""
        gemma = preset("gemma-2-2b")
        own = gemma.replace(
            n_layers=self.layers, d_model=self.width, dtype="bfloat16",
            vocab_size=self.vocabulary or gemma.vocab_size,
            window_layers=tuple(layer for layer in gemma.window_layers if layer < self.layers),
        )  # fmt: skip
        if self.width < gemma.d_model:
            own = own.replace(n_heads=2, n_kv_heads=1, d_head=8, rotary_dim=8, d_mlp=2 * self.width)
        if self.family == "gemma2":
            return own
        plain = {
            field: getattr(DecoderConfig, field)
            for field in ("attn_softcap", "logit_softcap", "norm_offset", "norm_placement",
                          "query_scalar", "scale_embed", "window", "window_layers")
        }  # fmt: skip
        return own.replace(family="llama", activation="silu", **plain)


def main(config: Config) -> None:
    """Make the dictionary if it is not there, measure, and write the record."""
    if config.here:
        return print(json.dumps(measure(config)))
    began = time.monotonic()
    folder = dictionary(config)
    made = time.monotonic() - began
    if config.apart:
        names = [field.name for field in dataclasses.fields(Config)]
        flags = [
            part
            for name in names
            if name not in ("apart", "here", "results")
            for part in _flag(name, getattr(config, name))
        ]
        said = own_process("experiments.scale.gemmascope", "--here", *flags)
        row = json.loads(said.splitlines()[-1])
    else:
        row = measure(config)
    size = sum(file.stat().st_size for file in folder.glob("*/*/*/params.npz"))
    record(
        config.results / f"gemmascope_{config.family}.json", [row],
        seconds=time.monotonic() - began, seed=0, dictionary_bytes=size,
        seconds_to_make=round(made, 1), limit_gb=LIMIT_GB,
    )  # fmt: skip
    print(json.dumps(row, indent=1))


def _flag(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return (f"--{'' if value else 'no-'}{name}",)
    return f"--{name}", value


def dictionary(config: Config) -> Path:
    """Write random weights in Gemma Scope's layout, unless that was done; return the folder."""
    sizes = f"{config.layers}x{config.features}x{config.width}-{config.active}"
    folder = config.runs / f"gemma-scope-transcoders-{sizes}"
    # A standard normal exceeds the threshold with probability active / features.
    threshold = float(norm.isf(config.active / config.features))
    for layer in range(config.layers):
        file = (
            folder / f"layer_{layer}" / "width_16k" / f"average_l0_{config.active}" / "params.npz"
        )
        if file.exists():
            continue
        rng = np.random.default_rng([0, layer])
        draft = file.with_name("draft.npz")
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = config.width, config.features
        np.savez(
            draft,
            W_enc=rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(config.width)),
            W_dec=rng.standard_normal(shape[::-1], np.float32) * np.float32(0.02),
            b_enc=np.zeros(config.features, np.float32),
            b_dec=np.zeros(config.width, np.float32),
            threshold=np.full(config.features, threshold, np.float32),
        )
        draft.rename(file)
    return folder


def random_model(config: Config) -> LanguageModel:
    """Return a model of random weights in bfloat16, made a few rows of a parameter at a time."""
    decoder, rng = config.decoder(), np.random.default_rng(0)
    params = {}
    for leaf, spec in param_specs(decoder).items():
        # Norms multiply by about one, also where they add it themselves.
        shift = float(leaf.endswith("scale") and not decoder.norm_offset)
        made = np.empty(spec.shape, jnp.bfloat16)
        rows = made.reshape(-1, spec.shape[-1])
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            noise = rng.integers(-127, 128, part.shape, np.int8).astype(np.float32)
            part[:] = shift + noise * np.float32(0.02 / 73.6)  # of standard deviation 0.02
        params[leaf] = jnp.asarray(made)
    return LanguageModel(unflatten_dict(params, sep="/"), decoder, name="random")


def measure(config: Config) -> dict[str, Any]:
    """Attribute one prompt; return times, the graph's measures and this process's peak memory."""
    model = jax.block_until_ready(random_model(config))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    start, before = time.perf_counter(), peak_gb()
    features = open_lazy(dictionary(config), model=model, dtype=jnp.bfloat16)
    opened = time.perf_counter()
    known = features.digest  # reads all of it; graphs keep it
    hashed = time.perf_counter()
    tokens = np.random.default_rng(0).integers(2, model.config.vocab_size, config.tokens)
    settings = AttributionConfig(max_feature_nodes=config.nodes)
    said: list[str] = []
    graph = attribute(model, features, tokens, settings, tell=said.append)
    graphed = time.perf_counter()
    more: dict[str, Any] = {}
    if config.twice:
        again = attribute(model, features, tokens, settings)
        more["seconds"] = round(time.perf_counter() - graphed, 1)
        assert np.array_equal(again.weights, graph.weights)
    found = graph_scores(graph)
    return {
        "family": config.family,
        "model_gb": round(size / 1e9, 2),
        "tokens": config.tokens,
        "active_features": graph.info.active,
        "feature_nodes": min(config.nodes, graph.info.active),
        "edges": len(graph.weights),
        "open_seconds": round(opened - start, 2),
        "digest": known,
        "digest_seconds": round(hashed - opened, 1),
        "first_seconds": round(graphed - hashed, 1),
        "peak_before_gb": round(before, 2),
        "peak_gb": round(peak_gb(), 2),
        "estimate": said[-2],
        "replacement": round(found.replacement, 4),
        "completeness": round(found.completeness, 4),
    } | more


def peak_gb() -> float:
    """Return the largest resident memory of this process so far, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    run(main, Config, __doc__)
