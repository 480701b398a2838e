"""Does a transcoder's training survive `kill -9` at any moment?

    python -m experiments.faults.transcoder  # about five minutes on two idle cores

A transcoder of a small random model is trained twenty times by a process that is killed at a random
moment and started again, until it ends, with a checkpoint after every step. Expected: all twenty
end with the bytes of one training that was never killed. Writes results/transcoder_kills.json.
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
from hagd_jax import models, pipeline, transcoders
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.transcoders import LossConfig, TrainConfig

MODEL = models.DecoderConfig(
    vocab_size=64, n_layers=3, d_model=32, n_heads=2, d_mlp=64, max_positions=16
)


@dataclasses.dataclass(frozen=True)
class Config(Kills):
    """Config holds the settings for killing and continuing trainings.

    Attributes:
        steps: Steps of a training.
    """

    steps: int = 60

    @property
    def train(self) -> TrainConfig:
        """Run the training."""
        return TrainConfig(
            features="4x", k=4, window=1, tokens=self.steps * 16 * 16, batch_size=16, estimate=2,
            loss=LossConfig(jacobian=0.1, dead_after=1000),
        )  # fmt: skip


def main(config: Config) -> None:
    """Kill trainings and continue them, or run one of them."""
    if config.folder is not None:
        return work(config.folder, config)
    began = time.monotonic()
    rows = survivors(
        "experiments.faults.transcoder", config, ("--steps", config.steps),
        lambda folder: work(folder, config), digest,
        lambda process, folder, rng: kill(process, folder, rng.randrange(1, config.steps)),
    )  # fmt: skip
    same = sum(row["identical"] for row in rows)
    record(
        config.results / "transcoder_kills.json", rows, seconds=time.monotonic() - began,
        seed=SEED, identical=same, kills=len(rows),
    )  # fmt: skip
    if same != len(rows):
        sys.exit("NOT as expected")


def work(folder: Path, config: Config) -> None:
    """Train in a folder, continuing what is there."""
    model = models.init(MODEL, jax.random.key(SEED))
    rows = np.random.default_rng(SEED).integers(1, 64, (400, 16))
    corpus = corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.1))
    own = pipeline.open_run(folder, dataclasses.asdict(config.train))
    found = transcoders.train(model, corpus, config.train, run=own, save_every=0)
    transcoders.save(found, folder / "transcoder")


def newest(folder: Path) -> int:
    """Return the newest step that was saved."""
    found = (folder / "checkpoints").glob("[0-9]*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def kill(process: subprocess.Popen[bytes], folder: Path, at: int) -> dict[str, Any]:
    """Kill a training soon after a step was saved."""
    while newest(folder) < at and process.poll() is None:
        time.sleep(0.01)
    kill_after(process, random.Random(at).uniform(0, 0.1))
    return {"killed_near_step": at, "at_step": newest(folder)}


def digest(folder: Path) -> str:
    """Return the digest of the transcoder's files, names and bytes."""
    total = hashlib.sha256()
    for file in sorted((folder / "transcoder").iterdir()):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


if __name__ == "__main__":
    run(main, Config, __doc__)
