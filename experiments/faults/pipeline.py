"""Does an extraction survive `kill -9` at any moment?

    python -m experiments.faults.pipeline  # about ten minutes on two idle cores

All stages up to repair, a transcoder's training among them, in a small random model, by the fused
executor: twenty runs that are killed at a random moment and started again, with a checkpoint after
every step. Expected: all twenty end with the bytes of one that was never killed. Writes
results/pipeline_kills.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.kills import SEED, Kills, kill_after, survivors
from experiments.common.record import record
from experiments.common.script import run
from hagd_jax import models
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.pipeline import ExtractConfig
from hagd_jax.pipeline.config import Executor
from hagd_jax.pipeline.extract import prepare
from hagd_jax.pipeline.extract import run as run_stages
from hagd_jax.search import MaskConfig, RepairConfig
from hagd_jax.tasks import SPLITS, Task, Text, make_prompts
from hagd_jax.transcoders import TrainConfig

MODEL = models.DecoderConfig(
    vocab_size=64, n_layers=3, d_model=32, n_heads=2, d_mlp=64, max_positions=16
)


@dataclasses.dataclass(frozen=True)
class Config(Kills):
    """Extractions that are killed and started again.

    Attributes:
        executor: What runs the stages.
        tokens: Tokens that a transcoder is trained on; 0 for neurons.
        masks: Steps of the masks.
        lines: A run is killed when its log has this many lines, or fewer.
    """

    executor: Executor = "fused"
    tokens: int = 5000
    masks: int = 30
    lines: int = 30

    @property
    def extraction(self) -> ExtractConfig:
        """The extraction."""
        learned = TrainConfig(
            features="4x", k=4, tokens=max(self.tokens, 1), batch_size=16, estimate=2
        )
        return ExtractConfig(
            nodes="12", executor=self.executor, features="transcoder" if self.tokens else "neurons",
            train=learned, graph_prompts=8, candidates=64,
            masks=MaskConfig(steps=self.masks, batch_size=8), repair=RepairConfig(rounds=1),
        )  # fmt: skip


def main(config: Config) -> None:
    """Kill runs and start them again, or be one of them."""
    if config.folder is not None:
        return work(config.folder, config)
    began = time.monotonic()
    rows = survivors(
        "experiments.faults.pipeline", config,
        ("--executor", config.executor, "--tokens", config.tokens, "--masks", config.masks),
        lambda folder: work(folder, config), digest,
        lambda process, folder, rng: kill(process, folder, rng.randrange(1, config.lines)),
    )  # fmt: skip
    same = sum(row["identical"] for row in rows)
    record(
        config.results / "pipeline_kills.json", rows, seconds=time.monotonic() - began, seed=SEED,
        identical=same, kills=len(rows), steps=config.masks, executor=config.executor,
    )  # fmt: skip
    if same != len(rows):
        sys.exit("NOT as expected")


def work(folder: Path, config: Config) -> None:
    """Run in a folder, from wherever it was."""
    model = models.init(MODEL, jax.random.key(SEED))
    rng = np.random.default_rng(SEED)
    rows = rng.integers(1, 64, (400, 16))
    corpus = corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.1))
    clean, other = rng.integers(1, 64, (2, 32, 8)).tolist()
    prompts = make_prompts(clean, other, [1] * 32, [2] * 32, vocab_size=64)
    texts = (Text(*"abcde"),) * 32
    task = Task("random", "Nothing.", dict.fromkeys(SPLITS, prompts), dict.fromkeys(SPLITS, texts))
    text = corpus if config.tokens else None
    context, _ = prepare(model, task, config.extraction, out=folder, corpus=text)
    left = run_stages(dataclasses.replace(context, save_every=0.0), "repair")
    found = left["repair"].circuit.mask, *left["search"].ranks.values()
    total = hashlib.sha256(b"".join(np.ascontiguousarray(x.flat()).tobytes() for x in found))
    (folder / "digest").write_text(total.hexdigest())


def reached(folder: Path) -> int:
    """How many lines the run has logged."""
    log = folder / "metrics.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def kill(process: subprocess.Popen[bytes], folder: Path, at: int) -> dict[str, Any]:
    """Kill a run soon after its log has so many lines."""
    while reached(folder) < at and process.poll() is None:
        time.sleep(0.01)
    kill_after(process, random.Random(at).uniform(0, 0.3))
    return {"killed_near_line": at, "lines": reached(folder)}


def digest(folder: Path) -> str:
    """Digest of every bit of the circuit and of the ranks."""
    return (folder / "digest").read_text()


if __name__ == "__main__":
    run(main, Config, __doc__)
