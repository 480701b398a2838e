"""Does a transcoder's training survive `kill -9` at any moment?

    python -m experiments.faults.transcoder  # about five minutes on two idle cores

A transcoder of a small random model is trained twenty times by a process that is killed at a random
moment and started again, until it ends, with a checkpoint after every step. Expected: all twenty
end with the bytes of one training that was never killed. Writes results/transcoder_kills.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from experiments.common.record import record
from hagd_jax import models, pipeline, transcoders
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.transcoders import LossConfig, TrainConfig

MODEL = models.DecoderConfig(
    vocab_size=64, n_layers=3, d_model=32, n_heads=2, d_mlp=64, max_positions=16
)
TRAIN = TrainConfig(
    features="4x", k=4, window=1, tokens=60 * 16 * 16, batch_size=16, estimate=2,
    loss=LossConfig(jacobian=0.1, dead_after=1000),
)  # fmt: skip
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="train here and end; used by this script")
    args = parser.parse_args()
    if args.folder is not None:
        return work(args.folder)
    began, rng = time.monotonic(), random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        start = time.monotonic()
        start_worker(whole).wait()
        length, want = time.monotonic() - start, digest(whole)
        rows = []
        for number in range(args.kills):
            folder = Path(scratch) / f"run{number}"
            after = killed(folder, rng.uniform(0.2, 0.95) * length)
            start_worker(folder).wait()
            same = digest(folder) == want
            rows.append({"killed_after_s": round(after, 2), "at_step": reached(folder)})
            rows[-1] |= {"run": number, "identical": same}
            print(rows[-1], flush=True)
            shutil.rmtree(folder)
    same = sum(row["identical"] for row in rows)
    record("transcoder_kills", rows, seconds=time.monotonic() - began, seed=SEED,
           identical=same, kills=len(rows), whole_s=round(length, 2))  # fmt: skip
    sys.exit(same != len(rows))


def work(folder: Path) -> None:
    """Train in a folder, from wherever it was."""
    model = models.init(MODEL, jax.random.key(SEED))
    rows = np.random.default_rng(SEED).integers(1, 64, (400, 16))
    corpus = corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.1))
    run = pipeline.open_run(folder, dataclasses.asdict(TRAIN))
    saved = run.checkpoints.steps()
    if saved:
        (folder.parent / f"{folder.name}.resumed").write_text(str(saved[-1]))
    found = transcoders.train(model, corpus, TRAIN, run=run, save_every=0)
    transcoders.save(found, folder / "transcoder")


def start_worker(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.faults.transcoder", "--folder", str(folder)]
    )


def killed(folder: Path, seconds: float) -> float:
    """Start a training and kill it after some seconds."""
    process = start_worker(folder)
    began = time.monotonic()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return time.monotonic() - began


def reached(folder: Path) -> int:
    """The step that the second process began at."""
    file = folder.parent / f"{folder.name}.resumed"
    return int(file.read_text()) if file.exists() else 0


def digest(folder: Path) -> str:
    """Of the bytes of the transcoder."""
    total = hashlib.sha256()
    for file in sorted((folder / "transcoder").iterdir()):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


if __name__ == "__main__":
    main()
