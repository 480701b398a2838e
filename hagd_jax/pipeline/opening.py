"""Open a run's folder: a new one, or one to go on in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from hagd_jax.brief import quoted, spelled
from hagd_jax.errors import CheckpointError
from hagd_jax.files import read_json_object, write_atomic, writing_to
from hagd_jax.parallel import agree, is_main
from hagd_jax.pipeline.run_folder import RunFolder

_ALWAYS = ("config.json", "metrics.jsonl")
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
) -> RunFolder:
    """Begin a run, or resume the one that was begun here with the same configuration.

    Args:
        path: The folder; made if absent.
        config: Everything that decides the results, as plain JSON values.
        overwrite: Whether a run with another configuration is discarded.
        leaves: Names of the files and folders that such a run writes; nothing else is discarded.
        forget: Those of them that are discarded in any case, to be made again.
        free: Fields of `config["config"]` that may differ from those of the run that is continued.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder holds something else, or a run with another configuration
            (the message lists the differences), or cannot be written.
    """
    path = Path(path)
    # The first process alone looks and writes, the others wait: two would see each other's files.
    problem = None
    if is_main():
        try:
            with writing_to(path):
                _claim(path, config, overwrite, leaves, forget, free)
        except CheckpointError as error:
            problem = error
    if not agree(problem is None):
        raise problem or CheckpointError(str(path), got="refused by the first process")
    return RunFolder(path)


def _claim(
    path: Path,
    config: dict[str, Any],
    overwrite: bool,
    leaves: Collection[str],
    forget: Iterable[str],
    free: Collection[str],
) -> None:
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise CheckpointError(str(path), got="a file", expected="a folder")
    if file.exists():
        # Through JSON, so that tuples compare equal to what was written.
        old, new = _read(file), json.loads(json.dumps(config))
        differences = _differences(_fixed(old, free), _fixed(new, free))
        # Nothing was done yet: the first command may simply have been mistyped.
        done = any((path / name).exists() for name in ("metrics.jsonl", *leaves))
        if differences and done and not overwrite:
            raise CheckpointError(
                str(path),
                got="a run with another configuration: " + "; ".join(differences[:10]),
                mend="Use another --out, or --overwrite to discard that run.",
            )
        _remove(path, (*_ALWAYS, *leaves) if differences else forget)
    elif path.exists() and any(path.iterdir()):
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


def _remove(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)
