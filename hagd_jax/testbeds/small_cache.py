"""Small trained models, kept on disk so that they are trained once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

import hagd_jax.models as models
from hagd_jax.errors import CheckpointError
from hagd_jax.files import Lock, hold_beside, replacing, require_sealed, seal, writing_to
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import Checkpoints, agree, is_main, sync
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
        CheckpointError: If the cache cannot be written. A model in it that is damaged is trained
            again, and so is one that is a link. If another process trains it, this one waits. A
            training that was interrupted goes on.

    Example:
        >>> from hagd_jax.tasks.algorithms import parity
        >>> tiny = SmallTrainConfig(n_layers=1, d_model=8, n_heads=1, d_mlp=8, steps=1)
        >>> small_model(parity(4), config=tiny, folder="cache").name
        'parity-4'
    """
    config = config or SmallTrainConfig()
    place = _cache(folder) / f"{algorithm.model_name}-{_digest(algorithm, config, seed)}"
    read = functools.partial(_loaded, place, algorithm, mesh, dtype)
    # One that is there is read without a lock, so that a cache may be read-only.
    if (found := _cached(place, read)) is not None:
        return found
    lock = _lock(place)
    try:
        # While this process waited for the lock, another one may have trained it.
        if (found := _cached(place, read, tell=True)) is not None:
            return found
        unfinished = place.with_name(f"{place.name}.training")
        model = train_small(
            algorithm, seed=seed, config=config, on_step=on_step, mesh=mesh,
            # Processes may have caches of their own, and then no checkpoint in common.
            checkpoints=Checkpoints(unfinished, of=place.name)
            if jax.process_count() == 1 else None,
        )  # fmt: skip
        if is_main():
            _put(model, place)
            shutil.rmtree(unfinished, ignore_errors=True)
        sync("small model saved")
    finally:
        del lock  # or a traceback would hold it
    return model if dtype is None else read()


def _lock(place: Path) -> Lock | None:
    """The lock of an entry, which the first process alone holds; it waits for other runs.

    Raises:
        CheckpointError: If there can be none, as the cache cannot be written.
    """
    lock = problem = None
    if is_main():
        try:
            lock = hold_beside(place, wait=True)
        except CheckpointError as error:
            problem = error
    if not agree(problem is None):
        raise problem or CheckpointError(str(place), got="refused by the first process")
    return lock


def _cached(
    place: Path, read: Callable[[], LanguageModel], tell: bool = False
) -> LanguageModel | None:
    """The model of an entry, or None if it is absent or damaged, or a link: none is followed."""
    there = place.is_dir()
    found = error = None
    if agree(there and not place.is_symlink()):
        try:
            found = read()
        except CheckpointError as problem:
            error = problem
    elif there:
        error = CheckpointError(str(place), got="a link", expected="a folder of the cache")
    if tell and error is not None:
        _log.warning("a cached model cannot be used, so it is trained again: %s", error)
    if agree(found is None):
        return None
    if found is None:
        raise error or CheckpointError(str(place), got="unreadable in this process alone")
    return found


def _put(model: LanguageModel, place: Path) -> None:
    """Replace an entry, whatever it was: a link goes, and what it led to stays."""
    if place.is_symlink() or place.is_file():
        with writing_to(place):
            place.unlink()
    with replacing(place) as draft:
        models.save(model, draft)
        seal(draft, place.name)


def _loaded(
    place: Path, algorithm: Algorithm, mesh: jax.sharding.Mesh | None, dtype: str | None
) -> LanguageModel:
    require_sealed(place, place.name)
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
