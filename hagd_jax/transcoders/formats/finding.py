"""Finding the files and tensors of a folder; what is missing, or too much, is refused by name."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hagd_jax.brief import spelled
from hagd_jax.errors import CheckpointError
from hagd_jax.files import is_file
from hagd_jax.models.safetensors_source import open_safetensors
from hagd_jax.transcoders.formats.npz_source import open_npz
from hagd_jax.transcoders.formats.stored import TensorFile, View

_AT_MOST = 20


def open_files(files: Iterable[Path]) -> list[TensorFile]:
    """Open one file for each layer.

    Args:
        files: In the order of layers.

    Returns:
        Their tensors.

    Raises:
        CheckpointError: If some are missing, naming each of those; or if one is damaged.
    """
    files = list(files)
    missing = [file for file in files if not is_file(file)]
    if missing:
        above = os.path.commonpath([file.parent for file in files])
        names = ", ".join(spelled(os.path.relpath(file, above)) for file in missing[:_AT_MOST])
        more = f" and {len(missing) - _AT_MOST} more" if len(missing) > _AT_MOST else ""
        raise CheckpointError(
            above,
            got=f"no {names}{more}",
            expected="the files of every layer",
            mend="A transcoder needs every layer of its model: fetch the missing ones.",
        )
    return [open_npz(file) if file.suffix == ".npz" else open_safetensors(file) for file in files]


def layers_of(numbers: Iterable[int], what: str) -> int:
    """Count the layers of a folder, refusing one that lacks some.

    Args:
        numbers: Of the layers found, at least one of them.
        what: The folder.

    Returns:
        Their number.

    Raises:
        CheckpointError: If the numbers do not run from 0 without a gap, naming those that lack.
    """
    found = set(numbers)
    # Some of them are enough: the largest number may be anything.
    missing = list(itertools.islice((n for n in range(max(found)) if n not in found), _AT_MOST))
    if missing:
        raise CheckpointError(
            what,
            got=f"{len(found)} layers, without {', '.join(map(str, missing))}",
            expected=f"every layer from 0 to {max(found)}",
            mend="A transcoder needs every layer of its model: fetch the missing ones.",
        )
    return len(found)


def gather(
    sources: Sequence[TensorFile],
    names: Mapping[str, str],
    threshold_count: int | None = None,
) -> dict[str, View]:
    """Locate every parameter in the file of each layer.

    Args:
        sources: A file a layer.
        names: Parameter → the name of its tensor, in which `{layer}` stands for the layer.
        threshold_count: Features that a single threshold may stand for.

    Returns:
        `<parameter>/<layer>` → view.

    Raises:
        CheckpointError: If a file lacks one of the tensors.
    """
    views: dict[str, View] = {}
    for layer, source in enumerate(sources):
        for leaf, pattern in names.items():
            name = pattern.replace("{layer}", str(layer))
            if name not in source.entries:
                held = ", ".join(map(spelled, sorted(source.entries)[:_AT_MOST]))
                raise CheckpointError(
                    f"layer {layer}: tensor {name}",
                    got=f"none in {file_of(source)}, which has {held or 'nothing'}",
                    expected=f"{leaf} of every layer",
                )
            single = leaf == "threshold" and source.shape(name) in ((), (1,))
            views[f"{leaf}/{layer}"] = View(source, name, count=threshold_count if single else None)
    return views


def refuse_others(sources: Iterable[TensorFile], views: Iterable[View]) -> None:
    """Refuse tensors that have no place in the transcoder.

    Raises:
        CheckpointError: Naming those that have none.
    """
    used = {(view.source.describe(view.name), view.name) for view in views}
    for source in sources:
        others = sorted(n for n in source.names() if (source.describe(n), n) not in used)
        if others:
            raise CheckpointError(
                f"{file_of(source)}: tensor {', '.join(map(spelled, others[:_AT_MOST]))}",
                got=f"{len(others)} that a transcoder of this kind has no place for",
                expected="only its own weights",
            )


def file_of(source: TensorFile) -> str:
    """Return the path of a source that is one file."""
    return next((str(entry.file) for entry in source.entries.values()), "an empty file")


def first_shape(source: TensorFile, name: str, dims: int) -> tuple[int, ...]:
    """Return the shape of the tensor that determines all other sizes.

    Raises:
        CheckpointError: If it is missing, or has another number of dimensions.
    """
    view = next(iter(gather([source], {name: name}).values()))
    if len(view.shape) != dims or 0 in view.shape:
        raise CheckpointError(
            f"{file_of(source)}: tensor {name}",
            got=f"shape {view.shape}",
            expected=f"{dims} dimensions, none of them empty",
        )
    return view.shape


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Sort files or folders by the number in their names.

    Args:
        folder: Where they are.
        pattern: A regular expression for the whole name, its one group the number.

    Returns:
        Number → path, in order.

    Raises:
        CheckpointError: If two have the same number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(pattern, path.name)
        if match is None:
            continue
        twin = found.setdefault(int(match[1]), path)
        if twin != path:
            raise CheckpointError(
                str(folder), got=f"{twin.name} and {path.name}", expected="one of each layer"
            )
    return dict(sorted(found.items()))
