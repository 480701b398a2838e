"""Does a transcoder of modular addition explain the MLP, and does the model still add with it?

    python -m experiments.transcoders.modular  # about a minute and a half on two idle cores

There are three trained models (p = 53, one layer). Each transcoder has 256 features, 48 of them
active, is trained on the model's training pairs, and is measured on all other pairs. Expected: FVU
≤ 0.005 and accuracy ≥ 99.5% with the MLP replaced, in ≤ 30 s of training. Writes
results/modular_transcoder.json.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, tasks, testbeds, transcoders
from hagd_jax.corpus import Batch, corpus_of_tokens
from hagd_jax.pipeline.features import SMALL_FEATURES
from hagd_jax.tasks import modular


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for training transcoders of modular addition.

    Attributes:
        seeds: Seeds of the models and of their transcoders.
        modulus: Modulus of the addition.
        model: Training of the models.
        train: Training of the transcoders.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    modulus: int = 53
    model: testbeds.SmallTrainConfig = testbeds.SmallTrainConfig()
    train: transcoders.TrainConfig = SMALL_FEATURES


def main(config: Config) -> None:
    """Train and measure a transcoder for each seed."""
    began = time.monotonic()
    rows = [measure(seed, config) for seed in config.seeds]
    record(
        config.results / "modular_transcoder.json", rows, seconds=time.monotonic() - began,
        seed=config.seeds, config=dataclasses.asdict(config.train),
    )  # fmt: skip


def measure(seed: int, config: Config) -> dict[str, float]:
    """Train a model and its transcoder; return FVU, accuracy with the MLP replaced, and time."""
    p = config.modulus
    model = testbeds.train_modular(p, seed=seed, config=config.model)
    shares = modular.shares(p)
    corpus = corpus_of_tokens("pairs", modular.tokens(shares["train"], p), model)
    began = time.monotonic()
    transcoder = transcoders.train(model, corpus, dataclasses.replace(config.train, seed=seed))
    jax.block_until_ready(transcoder.params)
    seconds = time.monotonic() - began
    pairs = np.concatenate([shares[split] for split in tasks.SPLITS])
    tokens, answer = modular.tokens(pairs, p), pairs.sum(1) % p
    batch = Batch(tokens, np.ones(tokens.shape, np.float32))
    last = batch._replace(weight=np.eye(3, dtype=np.float32)[[2] * len(tokens)])
    full = models.forward(model, tokens).logits
    replaced = models.forward(model, tokens, transcoders.replace_mlps(transcoder)).logits
    whole, at_answer = (transcoders.measure(transcoder, model, [rows]) for rows in (batch, last))
    return {
        "seed": seed,
        "held_out_pairs": len(pairs),
        "fvu": whole.mean_fvu,
        "fvu_at_answer": at_answer.mean_fvu,
        "l0": whole.l0[0],
        "dead": whole.dead[0],
        "accuracy_model": accuracy(full[:, -1, :p], answer),
        "accuracy_replaced": accuracy(replaced[:, -1, :p], answer),
        "train_seconds": round(seconds, 1),
    }


def accuracy(logits: jax.Array, answer: np.ndarray) -> float:
    """Return the share of rows whose largest logit is the answer."""
    return float((jnp.argmax(logits, -1) == answer).mean())


if __name__ == "__main__":
    run(main, Config, __doc__)
