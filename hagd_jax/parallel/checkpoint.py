"""Save any state, restore it onto any mesh (Orbax underneath).

A state is flattened to one array per leaf, named by its path, so that dataclasses, optimizer
states and nested tuples all restore, and a leaf that does not fit can be named.
A checkpoint is a numbered folder that appears under its number in one rename when it is whole,
and older ones are removed after that: a process killed at any moment leaves a whole one behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hagd_jax.errors import (
    CheckpointError,
    DamagedError,
    InputError,
    require_index,
    require_number,
)
from hagd_jax.files import as_path, digest, system, unwritable
from hagd_jax.parallel.content import content_sums
from hagd_jax.parallel.distributed import is_main, sync
from hagd_jax.parallel.leaves import as_wanted, flatten, stored, target
from hagd_jax.parallel.loops import patient_loops

PathLike = str | os.PathLike[str]
# The leaf beside those of the state, whose names all begin with "state".
_SUMS = "sums"
_DRAFT = ".orbax-checkpoint-tmp"
_FAILED = (OSError, ValueError, RuntimeError)
_log = logging.getLogger(__name__)


def save(path: PathLike, state: Any) -> None:
    """Write a state; in a cluster, every process calls it with its global arrays.

    Whatever `save` wrote to the same folder before stays usable until the new state is whole.

    Args:
        path: Folder to write to; made if absent.
        state: Pytree of arrays (on any mesh, of any dtype), typed PRNG keys and Python numbers.

    Raises:
        InputError: If a leaf is none of these or has no elements, or there is none.
        CheckpointError: If `path` is a file, or cannot be written; the state that was there before
            is intact.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(folder, {"w": jnp.arange(3), "step": 7})
        ...     restore(folder, {"w": jnp.zeros(3, int), "step": 0})
        {'step': 7, 'w': Array([0, 1, 2], dtype=int32)}
    """
    path = as_path(path)
    steps = _steps(path)
    _save(path, steps[-1] + 1 if steps else 0, state, keep=1)


def restore(path: PathLike, like: Any) -> Any:
    """Read back what `save` wrote, laid out as asked rather than as it was.

    Args:
        path: The folder given to `save`.
        like: Pytree of the saved structure: concrete leaves, or `jax.ShapeDtypeStruct`s. Leaves
            with a sharding are read straight onto it, each device its own part; leaves without
            one arrive uncommitted, NumPy arrays and Python numbers as such.

    Returns:
        The saved values in the structure of `like`.

    Raises:
        CheckpointError: If there is no checkpoint, its leaves differ from `like` (the message
            names the leaf and both shapes).
        DamagedError: If its files are damaged, or hold other numbers than were saved.
    """
    path = as_path(path)
    steps = _steps(path)
    if not steps:
        raise CheckpointError(
            str(path),
            got="an empty folder" if path.is_dir() else "no such folder",
            expected="a folder that save() wrote",
        )
    return _restore(path, steps[-1], like)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Numbered checkpoints of a run; the last few are kept.

    Attributes:
        folder: Where they lie; made on the first save.
        keep: How many to keep.
        of: What decides the states. A step that was saved under another name or number than it
            has now, say in the folder of another run, is taken as damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Checkpoints(folder)
        ...     for step in (10, 20, 30):
        ...         run.save(step, {"x": float(step)})
        ...     run.steps(), run.latest({"x": 0.0})
        ([20, 30], (30, {'x': 30.0}))
    """

    folder: PathLike
    keep: int = 2
    of: str = ""

    def __post_init__(self):
        as_path(self.folder, "folder")
        require_number("keep", self.keep, least=1, whole=True)

    def steps(self) -> list[int]:
        """List the steps that can be restored, in order."""
        return _steps(as_path(self.folder))

    def save(self, step: int, state: Any) -> None:
        """Write a state under a step number.

        Raises:
            CheckpointError: If the step is not after the last one saved, or the place cannot be
                written; steps saved before are intact.
            InputError: If the step is no whole number, or the state holds something other than
                arrays and numbers.
        """
        step, steps = require_index("step", step), self.steps()
        if steps and step <= steps[-1]:
            raise CheckpointError(
                f"step in {self.folder}",
                got=step,
                expected=f"a step after {steps[-1]}",
                mend="Continue from latest(), or use another folder.",
            )
        _save(as_path(self.folder), step, state, self.keep, self.of)

    def latest(self, like: Any) -> tuple[int, Any] | None:
        """Restore the last step that is whole, and its state; None if there is none; see `restore`.

        Damaged steps are removed, since they cannot be gone on from, and the log says so.

        Raises:
            CheckpointError: If the last step holds other leaves than `like`.
        """
        for step in reversed(self.steps()):
            try:
                return step, _restore(as_path(self.folder), step, like, self.of)
            except DamagedError as error:
                _log.warning("a damaged checkpoint is removed: %s", error)
                self.discard(step)
        return None

    def discard(self, step: int) -> None:
        """Remove a step; in a cluster every process calls it."""
        if is_main():
            shutil.rmtree(as_path(self.folder) / str(step), ignore_errors=True)
        sync("checkpoint removed")


@contextlib.contextmanager
def _managed(path: Path, **options: Any) -> Iterator[ocp.CheckpointManager]:
    """Orbax's manager of a folder, which logs no fault, since what fails is raised as well."""
    logger = logging.getLogger("absl")
    logger.addFilter(_no_fault)
    try:
        with patient_loops(), _manager(path, **options) as manager:
            yield manager
    finally:
        logger.removeFilter(_no_fault)


def _no_fault(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING


def _manager(path: Path, **options: Any) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        path.absolute(),
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False, **options),
        item_handlers=ocp.StandardCheckpointHandler(),
    )


def _steps(path: Path) -> list[int]:
    if not path.exists():
        return []
    if not path.is_dir():
        raise CheckpointError(str(path), got="a file", expected="a folder")
    return sorted(ocp.path.step.checkpoint_steps(path))


def _save(path: Path, step: int, state: Any, keep: int, of: str = "") -> None:
    flat = {name: stored(name, leaf) for name, leaf in flatten(state).items()}
    if not flat:
        raise InputError("state", got="no arrays", expected="at least one")
    flat |= {_SUMS: _sums(flat, step, of)}
    try:
        system.make_folder(path)
        # A save that was killed leaves a temporary folder behind; the next one removes it.
        with _managed(path, max_to_keep=keep, cleanup_tmp_directories=True) as manager:
            manager.save(step, args=ocp.args.StandardSave(flat), force=True)
    # Orbax and TensorStore report a full disk as anything from ValueError to JaxRuntimeError;
    # what is saved was checked, so only the place is left to blame. (Not for lack of memory.)
    except _FAILED as error:
        if is_main():
            for draft in path.glob(f"*{_DRAFT}*"):
                shutil.rmtree(draft, ignore_errors=True)
        raise unwritable(path, error) from error


def _restore(path: Path, step: int, like: Any, of: str = "") -> Any:
    wanted = flatten(like)
    targets = {name: target(name, leaf) for name, leaf in wanted.items()}
    try:
        with _managed(path, create=False) as manager:
            saved = manager.item_metadata(step)
            if saved is None:
                raise FileNotFoundError("the description of its arrays is missing")
            saved = dict(saved)
            # States that were saved before there were sums have none.
            sums = saved.pop(_SUMS, None)
            _check_same(path, saved, targets)
            told = {} if sums is None else {_SUMS: np.zeros(sums.shape, sums.dtype)}
            flat = dict(manager.restore(step, args=ocp.args.StandardRestore(targets | told)))
            _check_sums(path, step, of, flat)
    except CheckpointError:
        raise
    # Orbax and TensorStore report damage as anything from ValueError to AttributeError; shapes
    # and names were checked, so only the files are left to blame. (Not for lack of memory.)
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise DamagedError(
            str(path / str(step)),
            got=f"damaged files ({first_line})",
            expected="a whole checkpoint",
            mend="Restore an earlier step, or save again.",
        ) from error
    leaves = [as_wanted(flat[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _sums(flat: dict[str, Any], step: int, of: str) -> np.ndarray:
    """(arrays + 1, 2) uint32: sums of the arrays, and one of what decides them and of the step."""
    own = np.frombuffer(bytes.fromhex(digest(f"{step} {of}".encode())[:16]), ">u4")
    return np.concatenate([content_sums(flat), own.astype(np.uint32)[None]])


def _check_sums(path: Path, step: int, of: str, flat: dict[str, Any]) -> None:
    """Refuse arrays that have other sums than were saved with them; all processes agree."""
    told = flat.pop(_SUMS, None)
    if told is None:
        return
    names, found = [*sorted(flat), "what decides them"], _sums(flat, step, of)
    if np.shape(told) != found.shape or (np.asarray(told) != found).any():
        others = [n for n, a, b in zip(names, told, found, strict=False) if (a != b).any()]
        raise DamagedError(
            str(path / str(step)),
            got=f"damaged files (other numbers in {', '.join(others[:3]) or 'the sums'})",
            expected="the numbers that were saved",
            mend="Restore an earlier step, or save again.",
        )


def _check_same(path: Path, saved: dict[str, Any], targets: dict[str, Any]) -> None:
    absent, surplus = sorted(targets.keys() - saved), sorted(saved.keys() - targets)
    if absent or surplus:
        raise CheckpointError(
            f"structure of {path}",
            got="; ".join(
                f"{what} {', '.join(names[:3])}{' …' * (len(names) > 3)} ({len(names)})"
                for what, names in (("lacks", absent), ("has besides", surplus))
                if names
            ),
            expected="the leaves asked for",
        )
    for name, wanted in targets.items():
        found = (tuple(saved[name].shape), np.dtype(saved[name].dtype))
        asked = (tuple(wanted.shape), np.dtype(wanted.dtype))
        if found != asked:
            raise CheckpointError(
                f"{name} in {path}",
                got=f"shape {found[0]}, {found[1]}",
                expected=f"shape {asked[0]}, {asked[1]}",
            )
