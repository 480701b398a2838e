"""Does the composed step survive `kill -9` at any moment?

    python -m experiments.faults.pipeline  # about ten minutes on two idle cores

All phases, a transcoder's training among them, in a small random model: twenty runs that are killed
at a random moment and started again, with a checkpoint after every step. Expected: all twenty end
with the bytes of one that was never killed. Writes results/pipeline_kills.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from experiments.common.record import record
from hagd_jax import models, pipeline
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.search import MaskConfig
from hagd_jax.tasks import Task, Text, make_prompts
from hagd_jax.transcoders import TrainConfig

MODEL = models.DecoderConfig(
    vocab_size=64, n_layers=3, d_model=32, n_heads=2, d_mlp=64, max_positions=16
)
CONFIG = pipeline.StepConfig(
    nodes=12, train=TrainConfig(features="4x", k=4, tokens=10**6, batch_size=16, estimate=2),
    train_steps=20, graph_steps=4, candidates=64, masks=MaskConfig(steps=30, batch_size=8),
)  # fmt: skip
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="run here and end; used by this script")
    args = parser.parse_args()
    if args.folder is not None:
        return work(args.folder)
    began, rng = time.monotonic(), random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        start_worker(whole).wait()
        want, rows = digest(whole), []
        for number in range(args.kills):
            folder = Path(scratch) / f"run{number}"
            at = rng.randrange(1, CONFIG.steps)
            killed(folder, at)
            reached = newest(folder)
            start_worker(folder).wait()
            rows.append({"run": number, "killed_near_step": at, "went_on_from": reached,
                         "identical": digest(folder) == want})  # fmt: skip
            print(rows[-1], flush=True)
    same = sum(row["identical"] for row in rows)
    record("pipeline_kills", rows, seconds=time.monotonic() - began, seed=SEED,
           identical=same, kills=len(rows), steps=CONFIG.steps)  # fmt: skip
    sys.exit(same != len(rows))


def work(folder: Path) -> None:
    """Run in a folder, from wherever it was."""
    model = models.init(MODEL, jax.random.key(SEED))
    rng = np.random.default_rng(SEED)
    rows = rng.integers(1, 64, (400, 16))
    corpus = corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.1))
    sides = rng.integers(1, 64, (2, 32, 8)).tolist()
    prompts = make_prompts(*sides, [1] * 32, [2] * 32, vocab_size=64)
    task = Task("random", "Nothing.", {"discover": prompts}, {"discover": (Text(*"abcde"),) * 32})
    run = pipeline.open_run(folder, dataclasses.asdict(CONFIG))
    state = pipeline.run_steps(model, task, CONFIG, corpus=corpus, run=run, save_every=0)
    leaves = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(state)
    ]
    total = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves))
    (folder / "digest").write_text(total.hexdigest())


def start_worker(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.faults.pipeline", "--folder", str(folder)]
    )


def newest(folder: Path) -> int:
    """The newest step that was saved."""
    found = [int(path.name) for path in (folder / "steps").glob("[0-9]*") if path.name.isdigit()]
    return max(found, default=0)


def killed(folder: Path, step: int) -> None:
    """Start a run and kill it soon after a step was saved, at a moment of its own."""
    process = start_worker(folder)
    while newest(folder) < step and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(step).uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()


def digest(folder: Path) -> str:
    """Of every bit of the last state."""
    return (folder / "digest").read_text()


if __name__ == "__main__":
    main()
