"""Does the composed step survive `kill -9` at any moment?

    python -m experiments.faults.pipeline  # about ten minutes on two idle cores

All phases, a transcoder's training among them, in a small random model: twenty runs that are killed
at a random moment and started again, with a checkpoint after every step. Expected: all twenty end
with the bytes of one that was never killed. Writes results/pipeline_kills.json.
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
import jax.numpy as jnp
import numpy as np

from experiments.common.kills import SEED, Kills, kill_after, survivors
from experiments.common.record import record
from experiments.common.script import run
from hagd_jax import models, pipeline
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.search import MaskConfig
from hagd_jax.tasks import Task, Text, make_prompts
from hagd_jax.transcoders import TrainConfig

MODEL = models.DecoderConfig(
    vocab_size=64, n_layers=3, d_model=32, n_heads=2, d_mlp=64, max_positions=16
)


@dataclasses.dataclass(frozen=True)
class Config(Kills):
    """Runs of the composed step that are killed and started again.

    Attributes:
        steps: Steps of the transcoder's training, of the graph, and of the masks; without the first
            nodes are neurons.
    """

    steps: tuple[int, int, int] = (20, 4, 30)

    @property
    def run(self) -> pipeline.StepConfig:
        """The composed step."""
        train, graph, masks = self.steps
        learned = TrainConfig(features="4x", k=4, tokens=10**6, batch_size=16, estimate=2)
        return pipeline.StepConfig(
            nodes=12, train_steps=train, train=learned if train else None, graph_steps=graph,
            candidates=64, masks=MaskConfig(steps=masks, batch_size=8),
        )  # fmt: skip


def main(config: Config) -> None:
    """Kill runs and start them again, or be one of them."""
    if config.folder is not None:
        return work(config.folder, config)
    began = time.monotonic()
    rows = survivors(
        "experiments.faults.pipeline", config, ("--steps", *config.steps),
        lambda folder: work(folder, config), digest,
        lambda process, folder, rng: kill(process, folder, rng.randrange(1, config.run.steps)),
    )  # fmt: skip
    same = sum(row["identical"] for row in rows)
    record(
        config.results / "pipeline_kills.json", rows, seconds=time.monotonic() - began, seed=SEED,
        identical=same, kills=len(rows), steps=config.run.steps,
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
    task = Task("random", "Nothing.", {"discover": prompts}, {"discover": (Text(*"abcde"),) * 32})
    own = pipeline.open_run(folder, dataclasses.asdict(config.run))
    text = corpus if config.run.train else None
    state = pipeline.run_steps(model, task, config.run, corpus=text, run=own, save_every=0)
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(state)
    ]
    total = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves))
    (folder / "digest").write_text(total.hexdigest())


def newest(folder: Path) -> int:
    """The newest step that was saved."""
    found = [int(path.name) for path in (folder / "steps").glob("[0-9]*") if path.name.isdigit()]
    return max(found, default=0)


def kill(process: subprocess.Popen[bytes], folder: Path, at: int) -> dict[str, Any]:
    """Kill a run soon after a step was saved."""
    while newest(folder) < at and process.poll() is None:
        time.sleep(0.01)
    kill_after(process, random.Random(at).uniform(0, 0.3))
    return {"killed_near_step": at, "went_on_from": newest(folder)}


def digest(folder: Path) -> str:
    """Of every bit of the last state."""
    return (folder / "digest").read_text()


if __name__ == "__main__":
    run(main, Config, __doc__)
