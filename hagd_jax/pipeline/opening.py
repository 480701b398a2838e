"""Open a run's folder: a new one, or one to go on in."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hagd_jax.brief import quoted, spelled
from hagd_jax.errors import BusyError, CheckpointError
from hagd_jax.files import (
    LOCK,
    Lock,
    digest,
    hold_beside,
    hold_folder,
    read_json_object,
    unwritable,
    write_atomic,
    writing_to,
)
from hagd_jax.parallel import agree, is_main
from hagd_jax.pipeline.run_folder import LOG, RunFolder, remove

CONFIG = "config.json"
_ALWAYS = (CONFIG, LOG)
# What a process that was killed had begun to write.
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")
# What a run that trains a transcoder leaves.
TRAINING = (
    *("checkpoints", "positions", "transcoder", "evaluation.json", "contexts", "report.html"),
)


def open_run(
    path: str | Path,
    config: dict[str, Any],
    *,
    overwrite: bool = False,
    leaves: Collection[str] = TRAINING,
    forget: Iterable[str] = (),
    free: Collection[str] = (),
    wait: bool = False,
    later: Mapping[str, Collection[str]] | None = None,
) -> RunFolder:
    """Begin a run, or resume the one that was begun here with the same configuration.

    One process writes to a folder at a time (or one cluster, whose first process stands for it):
    until the run is no longer referred to, others are told who does.

    Args:
        path: The folder; made if absent.
        config: Everything that decides the results, as plain JSON values.
        overwrite: Whether a run with another configuration is discarded.
        leaves: Names of the files and folders that such a run writes; nothing else is discarded.
        forget: Those of them that are discarded in any case, to be made again.
        free: Fields of `config["config"]` that may differ from those of the run that is continued.
        wait: Whether to wait while another process writes there.
        later: File or folder → fields of `config["config"]` that do not decide it.

    Returns:
        The folder.

    Raises:
        BusyError: If another process writes there and `wait` is off.
        CheckpointError: If the folder holds something else, or a run with another configuration
            (the message lists the differences), or cannot be written.
    """
    path = Path(path)
    # The first process alone looks and writes, the others wait: two would see each other's files.
    lock = _lock(path, wait, file=False)
    problem = None
    if is_main():
        try:
            with writing_to(path):
                _claim(path, config, overwrite, leaves, forget, free)
        except CheckpointError as error:
            problem = error
    if not agree(problem is None):
        lock = None  # or the traceback would hold it
        raise problem or CheckpointError(str(path), got="refused by the first process")
    decide = {name: _fixed(config, (later or {}).get(name, ())) for name in leaves}
    return RunFolder(
        path, lock,
        {name: digest(json.dumps(own, sort_keys=True).encode()) for name, own in decide.items()},
    )  # fmt: skip


@contextlib.contextmanager
def only_writer(path: Path, *, wait: bool = False, file: bool = False) -> Iterator[None]:
    """Be the only process, or cluster, that writes to a folder or a file.

    A run that is opened there meanwhile keeps the folder for as long as the run is referred to.

    Args:
        path: The folder or file.
        wait: Whether to wait while another process writes there.
        file: Whether it is a file. One in the folder of a run is locked as that folder is.

    Yields:
        Nothing.

    Raises:
        BusyError: If another process writes there and `wait` is off.
        CheckpointError: If the place cannot be written.
    """
    lock = _lock(path, wait, file)
    try:
        yield
    finally:
        del lock  # or a traceback would hold it


def _lock(path: Path, wait: bool, file: bool) -> Lock | None:
    """The lock of a place; None in all processes but the first."""
    lock = problem = None
    if is_main():
        try:
            if file and (path.parent / CONFIG).exists():
                path, file = path.parent, False
            if not file and path.exists() and not path.is_dir():
                raise CheckpointError(str(path), got="a file", expected="a folder")
            lock = (hold_beside if file else hold_folder)(path, wait=wait)
        except (CheckpointError, OSError) as error:
            problem = error if isinstance(error, CheckpointError) else unwritable(path, error)
    if not agree(problem is None):
        raise problem or BusyError(str(path), got="refused by the first process")
    return lock


def _claim(
    path: Path,
    config: dict[str, Any],
    overwrite: bool,
    leaves: Collection[str],
    forget: Iterable[str],
    free: Collection[str],
) -> None:
    file = path / CONFIG
    remove(path, [each.name for each in path.iterdir() if _DRAFT.fullmatch(each.name)])
    if file.exists():
        # Through JSON, so that tuples compare equal to what was written.
        old, new = _read(file), json.loads(json.dumps(config))
        differences = _differences(_fixed(old, free), _fixed(new, free))
        # Nothing was done yet: the first command may simply have been mistyped.
        done = any((path / name).exists() for name in (LOG, *leaves))
        if differences and done and not overwrite:
            raise CheckpointError(
                str(path),
                got="a run with another configuration: " + "; ".join(differences[:10]),
                mend="Use another --out, or --overwrite to discard that run.",
            )
        remove(path, (*_ALWAYS, *leaves) if differences else forget)
    elif any(not each.name.startswith(LOCK) for each in path.iterdir()):
        raise CheckpointError(
            str(path),
            got="a folder with other files",
            expected="an empty one, a new one, or a run",
            mend="Use another --out.",
        )
    write_atomic(file, json.dumps(config, indent=1))


def _fixed(config: dict[str, Any], free: Collection[str]) -> dict[str, Any]:
    """The configuration without the fields that may differ."""
    own = config.get("config")
    if not free or not isinstance(own, dict):
        return config
    return config | {"config": {name: value for name, value in own.items() if name not in free}}


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except CheckpointError as error:
        mend = "Remove the folder, or use another --out."
        raise CheckpointError(str(error), mend=mend) from error


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{prefix}{spelled(key)}.")
        ]
    return [] if old == new else [f"{prefix[:-1]} was {quoted(old)}, now {quoted(new)}"]
