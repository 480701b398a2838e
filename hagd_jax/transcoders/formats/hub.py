"""From what a user calls a transcoder to a folder on this machine."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import as_path
from hagd_jax.models.hub import Located

# Weights as safetensors only: pickles are not opened anyway.
_WANTED = ("config.yaml", "*cfg.json", "*config.json", "*.safetensors", "*params.npz")
# Hundreds of dictionaries in one repository, of which a folder is one.
_COLLECTIONS = re.compile(r"google/gemma-scope-[\w.-]+")
_HUB_ID = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(?P<folder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?"
)


def locate(source: str | Path) -> Located:
    """Find a transcoder by folder or hub id.

    Args:
        source: A folder, or a hub id `owner/name`, `owner/name/folder` for a part of a repository,
            with a branch or commit as `owner/name@revision`. A path that exists comes first.

    Returns:
        Where it is.

    Raises:
        CheckpointError: If there is no such folder, or the hub cannot be reached.
        ConfigError: If it is neither a path nor a hub id.
    """
    path = as_path(source, "transcoder")
    if path.exists():
        return Located(path, path.resolve().name)
    text = str(source)
    if isinstance(source, Path) or text.startswith(("/", ".", "~")):
        raise CheckpointError(text, got="no such folder", expected="a transcoder's folder")
    found = _HUB_ID.fullmatch(text)
    if found is None:
        raise ConfigError(
            "transcoder", got=repr(text), expected="a folder or a hub id such as owner/name"
        )
    if _COLLECTIONS.fullmatch(found["repository"]) and not found["folder"]:
        raise ConfigError(
            "transcoder",
            got=f"{text!r}, a repository of many dictionaries",
            expected="one of them, such as google/gemma-scope-2-1b-pt/clt/width_262k_l0_medium",
            mend="mwhanna/gemma-scope-transcoders and mwhanna/gemma-scope-2-1b-pt/transcoder_all/"
            "width_16k_l0_small list a file a layer.",
        )
    return Located(_download(found["repository"], found["folder"][1:], found["revision"]), text)


def _download(repository: str, folder: str, revision: str | None) -> Path:
    # Imported here, since most runs never need it.
    from huggingface_hub import snapshot_download

    patterns = [f"{folder}/{pattern}" if folder else pattern for pattern in _WANTED]
    root = _reach(
        repository,
        lambda: snapshot_download(repository, revision=revision, allow_patterns=patterns),
    )
    return root / folder


def fetch(address: str) -> Path:
    """Fetch a file of a hub repository.

    Args:
        address: `hf://owner/name/path`, with a branch or commit as `?revision=...`.

    Returns:
        The file, in the local cache.

    Raises:
        CheckpointError: If the address has another form, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    parts = urllib.parse.urlsplit(address)
    name, _, path = parts.path.lstrip("/").partition("/")
    if not (parts.scheme == "hf" and parts.netloc and name and path):
        raise CheckpointError(address, got="another form", expected="hf://owner/name/path")
    repository = f"{parts.netloc}/{name}"
    revision = urllib.parse.parse_qs(parts.query).get("revision", [None])[0]
    return _reach(repository, lambda: hf_hub_download(repository, path, revision=revision))


def _reach(repository: str, download: Callable[[], str]) -> Path:
    try:
        return Path(download())
    # Whatever goes wrong on the way there is an OSError, and a malformed id a ValueError.
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"hub repository {repository}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            expected="a reachable, readable repository",
            mend=f"Without a network: where there is one, run `hf download {repository}`, copy "
            "the folder here, and pass its path. For a gated one, accept its licence on the hub "
            "and run `hf auth login` first.",
        ) from error
