"""Trains in a folder, from wherever it was; started, and killed, by test_resume.py.

python -m tests.transcoders.training.resume_worker FOLDER
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from hagd_jax.pipeline import open_run
from hagd_jax.transcoders import LossConfig, train
from tests.transcoders.training.small import TRAIN, make_corpus, make_model


def main(folder):
    loss = LossConfig(jacobian=0.1, dead_after=64)
    config = dataclasses.replace(TRAIN, tokens=20 * 64, loss=loss)
    model = make_model()
    found = train(model, make_corpus(model), config, run=open_run(folder, {}), save_every=0)
    np.savez(Path(folder) / "params.npz", **found.params)


if __name__ == "__main__":
    main(*sys.argv[1:])
