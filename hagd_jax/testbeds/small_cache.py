"""Small trained models, kept on disk so that they are trained once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path

import jax

import hagd_jax.models as models
from hagd_jax.errors import CheckpointError
from hagd_jax.files import writing_to
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import agree, is_main, sync
from hagd_jax.tasks.algorithm import Algorithm
from hagd_jax.testbeds.small_training import OnStep, SmallTrainConfig, train_small

CACHE = "HAGD_CACHE"
_log = logging.getLogger(__name__)
# Raise it when the same configuration trains another model.
_VERSION = 1


def small_model(
    algorithm: Algorithm,
    *,
    seed: int = 0,
    config: SmallTrainConfig | None = None,
    on_step: OnStep | None = None,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    folder: str | Path | None = None,
) -> LanguageModel:
    """Load the model that `train_small` returns from the cache, or train it.

    Args:
        algorithm: What to learn, such as `parity(10)`.
        seed: Of the initial weights and the batches.
        config: Model and training.
        on_step: Called as training goes on; never if the model is in the cache.
        mesh: Devices.
        dtype: Of weights and computation; what it was trained in, float32, by default.
        folder: The cache; by default the environment variable HAGD_CACHE names it, or it is
            hagd_jax in the user's cache folder (XDG_CACHE_HOME or ~/.cache).

    Returns:
        The model.

    Raises:
        CheckpointError: If the cache cannot be written. A model in it that cannot be read is
            trained again.

    Example:
        >>> from hagd_jax.tasks.algorithms import parity
        >>> tiny = SmallTrainConfig(n_layers=1, d_model=8, n_heads=1, d_mlp=8, steps=1)
        >>> small_model(parity(4), config=tiny, folder="cache").name
        'parity-4'
    """
    config = config or SmallTrainConfig()
    place = _cache(folder) / f"{algorithm.model_name}-{_digest(algorithm, config, seed)}"
    if agree(place.is_dir()):
        try:
            return _loaded(place, algorithm, mesh, dtype)
        except CheckpointError as error:
            _log.warning("a cached model cannot be used, so it is trained again: %s", error)
    model = train_small(algorithm, seed=seed, config=config, on_step=on_step, mesh=mesh)
    if is_main():
        with writing_to(place):
            models.save(model, place, overwrite=True)
    sync("small model saved")
    return model if dtype is None else _loaded(place, algorithm, mesh, dtype)


def _loaded(
    place: Path, algorithm: Algorithm, mesh: jax.sharding.Mesh | None, dtype: str | None
) -> LanguageModel:
    found = models.load(str(place), mesh=mesh, dtype=dtype)
    algorithm.require(found)
    return found.replace(name=algorithm.model_name)


def _cache(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    if named := os.environ.get(CACHE):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hagd_jax"


def _digest(algorithm: Algorithm, config: SmallTrainConfig, seed: int) -> str:
    """Twelve digits that say what decided the weights."""
    decides = {
        "version": _VERSION,
        "words": algorithm.words,
        "width": algorithm.width,
        "name": algorithm.name,
        "layers": algorithm.n_layers,
        "norm": algorithm.norm,
        "config": dataclasses.asdict(config),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
