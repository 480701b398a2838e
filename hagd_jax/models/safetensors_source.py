"""Named tensors out of safetensors files: one file, sharded with an index, or several files."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # Registers bfloat16 with NumPy; safetensors cannot return it otherwise.
import numpy as np
from safetensors import SafetensorError, safe_open

from hagd_jax.brief import one_line, quoted, said, spelled
from hagd_jax.errors import CheckpointError
from hagd_jax.files import is_file, named, opened, read_json_object, safetensors_header
from hagd_jax.files.reading import AGAIN
from hagd_jax.models.families.table import Index

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F64": np.dtype(np.float64),
}

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT = (
    "A pickle can run any code when it is opened, so it is not. Convert it once, where torch is "
    'installed: python -c "import torch; from safetensors.torch import save_file; '
    "t = torch.load('pytorch_model.bin', map_location='cpu', weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in t.items()}, 'model.safetensors')\""
)
_log = logging.getLogger(__name__)
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry records where one tensor lies.

    Attributes:
        file: The file.
        shape: Its shape.
        stored: Its dtype as safetensors writes it, e.g. `BF16`.
    """

    file: Path
    shape: tuple[int, ...]
    stored: str


@dataclasses.dataclass(frozen=True)
class SafetensorsSource:
    """This source reads the tensors of a safetensors checkpoint.

    Attributes:
        entries: Tensor name → where it lies.
    """

    entries: Mapping[str, Entry]

    __repr__ = one_line

    def names(self) -> frozenset[str]:
        """List the names of all tensors."""
        return frozenset(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.entries[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype of a tensor.

        Raises:
            CheckpointError: If it is not one of `DTYPES`.
        """
        entry = self.entries[name]
        if entry.stored not in DTYPES:
            raise CheckpointError(
                f"{entry.file}: tensor {name}",
                got=f"dtype {entry.stored}",
                expected=", ".join(DTYPES),
                mend="Quantised weights have to be written out as one of these first.",
            )
        return DTYPES[entry.stored]

    def read(self, name: str, index: Index) -> np.ndarray:
        """Read part of a tensor.

        The file is opened for each read: its mapped pages count as memory until it is closed.

        Args:
            name: The tensor.
            index: One slice with explicit bounds for each dimension.

        Returns:
            The part, in the dtype it is stored in.

        Raises:
            CheckpointError: If the file has become unreadable.
        """
        with _opened(self.entries[name].file) as file:
            return file.get_slice(name)[index]

    def rows(self, name: str, runs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Read runs of rows of a tensor, and nothing else of it.

        Args:
            name: The tensor.
            runs: First row, and the row after the last, of each run.

        Returns:
            The rows of all runs, one after the other, in the dtype they are stored in.

        Raises:
            CheckpointError: If the file has become unreadable.
        """
        shape = self.shape(name)
        count = sum(last - first for first, last in runs)
        out, done = np.empty((count, *shape[1:]), self.dtype(name)), 0
        with _opened(self.entries[name].file) as file:
            part = file.get_slice(name)
            for first, last in runs:
                out[done : done + last - first] = part[first:last]
                done += last - first
        return out

    def describe(self, name: str) -> str:
        """Name the file that holds a tensor."""
        return str(self.entries[name].file)


def open_safetensors(path: Path) -> SafetensorsSource:
    """Find the tensors of a checkpoint, and check that its files are whole.

    Args:
        path: A folder, or one `.safetensors` file. In a folder: the shards that
            `*.safetensors.index.json` lists; or `model.safetensors`; or all `.safetensors` files
            there are. An index and a `model.safetensors` that it does not list are refused:
            transformers would take the latter without a word.

    Returns:
        The source; nothing but headers has been read.

    Raises:
        CheckpointError: If a file is missing, truncated or damaged, a tensor is not where the
            index says or lies in two files, there are two checkpoints, or there are only pickles.
    """
    if not path.is_dir():
        _refuse_pickle(path)
        return SafetensorsSource(_entries([path]))
    indices = sorted(path.glob("*.safetensors.index.json"))
    if not indices:
        return SafetensorsSource(_entries(_files(path)))
    if len(indices) > 1:
        raise CheckpointError(
            str(path),
            got=f"several indices: {', '.join(file.name for file in indices)}",
            expected="one",
            mend="Keep each checkpoint in a folder of its own.",
        )
    return SafetensorsSource(_from_index(indices[0]))


def _files(folder: Path) -> list[Path]:
    """The files of a folder without an index."""
    files = sorted(folder.glob("*.safetensors"))
    alone = folder / "model.safetensors"
    if alone in files:
        others = [file.name for file in files if _SHARD.fullmatch(file.name)]
        if others:
            _log.warning("%s is read, the shards beside it are not: %s", alone, ", ".join(others))
        return [alone]
    if not files:
        pickles = sorted(file for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            _refuse_pickle(pickles[0])
        raise CheckpointError(
            str(folder),
            got="no weights",
            expected="model.safetensors or *.safetensors",
            mend="Of a hub model that has pickles only, nothing is fetched: convert those first.",
        )
    for match in filter(None, (_SHARD.fullmatch(file.name) for file in files)):
        stem, total = match[1], int(match[3])
        # One name at a time: the total is somebody's text and may be large.
        for number in range(1, total + 1):
            _require(folder / f"{stem}-{number:05}-of-{match[3]}.safetensors")
    return files


def _from_index(index: Path) -> dict[str, Entry]:
    """Entries of the shards that an index lists, each tensor where the index says."""
    listed = read_json_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(
            str(index), got="no weight_map", expected="tensor names and their shards"
        )
    for name, shard in listed.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(
                f"{index}: tensor {spelled(name)}",
                got=quoted(shard),
                expected="a file beside the index",
            )
    files = [index.parent / shard for shard in sorted(set(listed.values()))]
    alone = index.parent / "model.safetensors"
    if alone.exists() and alone not in files:
        raise CheckpointError(
            str(index.parent),
            got=f"both {alone.name} and an index of {len(files)} shards, {index.name}",
            expected="one checkpoint",
            mend=f"Move one of them away, or load {alone} itself, as transformers does.",
        )
    for file in files:
        _require(file)
    entries = _entries(files)
    for name, shard in listed.items():
        found = entries[name].file.name if name in entries else "no shard"
        if found != shard:
            raise CheckpointError(
                f"{index}: tensor {spelled(name)}",
                got=f"it in {found}",
                expected=f"it in {shard}",
                mend="Index and shards are of different checkpoints, or were renamed.",
            )
    return entries


def _entries(files: list[Path]) -> dict[str, Entry]:
    """Headers of all files; a tensor in two of them is an error."""
    entries: dict[str, Entry] = {}
    for path in files:
        try:
            held, _ = safetensors_header(path)
        except CheckpointError as error:
            raise CheckpointError(str(error), mend=_hint(path)) from error
        for name, stored in held.items():
            if name in entries:
                raise CheckpointError(
                    f"tensor {name}",
                    got=f"it in both {entries[name].file} and {path}",
                    expected="it in one file",
                    mend="Remove the file that does not belong to the checkpoint.",
                )
            entries[name] = Entry(path, stored.shape, stored.dtype)
    return entries


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file whose header has been read; it may have changed since."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(path), got=said(error), expected="a whole safetensors file"
        ) from error


def _hint(path: Path) -> str | None:
    """What a file may be that is no safetensors file."""
    if not is_file(path):
        return None
    with opened(path) as file:
        start = file.read(20)
    if start.startswith(b"version https://git"):
        return "This is a Git LFS pointer: run `git lfs pull`."
    return CONVERT if start.startswith((b"PK\x03\x04", b"\x80")) else AGAIN


def _refuse_pickle(path: Path) -> None:
    if any(path.match(pattern) for pattern in PICKLES):
        raise CheckpointError(
            str(path), got="a pickle", expected="a .safetensors file", mend=CONVERT
        )


def _require(file: Path) -> None:
    if not is_file(file):
        raise CheckpointError(
            named(file), got="no such file", expected="every shard", mend="Fetch the missing shard."
        )
