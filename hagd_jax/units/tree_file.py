"""Files of trees of units: the clusters of all leaves, and what decided them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from hagd_jax.errors import CheckpointError, InputError, require_is
from hagd_jax.files import as_path, checked, named, parse_json, read_arrays, save_arrays
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.nodes import Space
from hagd_jax.units.tree import tree_of
from hagd_jax.units.unit_tree import UnitTree

FORMAT = "hagd_jax.units.tree 1"
_ABOUT = "tree"
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Sizes = tuple[Count, Count, Count]
# Leaves of a tree, which takes a few dozen bytes for each.
_MOST = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """What a file says beside its arrays, see `UnitTree`."""

    format: str
    space: Sizes
    dictionary: Annotated[str, Meta(max_length=1000)]
    band: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    levels: Annotated[int, Meta(ge=0, le=64)]
    seen: dict[str, Any]


def save_tree(tree: UnitTree, path: str | Path) -> None:
    """Write a tree to a safetensors file, completely or not at all.

    Args:
        tree: The tree.
        path: The file; replaced if it exists.

    Raises:
        CheckpointError: If it cannot be written.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> found = hagd.units.tree(init(config, jax.random.key(0)))
        >>> save_tree(found, "tree.safetensors")
        >>> load_tree("tree.safetensors").digest == found.digest
        True
    """
    require_is("tree", tree, UnitTree, mend="Make one with `hagd.units.tree(model)`.")
    layers, heads, features = tree.space
    record = _Record(format=FORMAT, space=(layers, heads, features), dictionary=tree.dictionary,
                     band=tree.band, levels=len(tree.levels), seen=tree.seen.to_json())  # fmt: skip
    arrays = {f"level{i}": level for i, level in enumerate(tree.levels)}
    save_arrays(as_path(path), arrays, {_ABOUT: json.dumps(dataclasses.asdict(record))})


def load_tree(path: str | Path) -> UnitTree:
    """Read a tree that `save_tree` wrote.

    Args:
        path: The file.

    Returns:
        The tree. The history of one whose file names no data is unknown, if it has clusters.

    Raises:
        CheckpointError: If the file is absent, broken, of another format, or holds no tree.
    """
    path = as_path(path)
    arrays, texts = read_arrays(path)
    where = f"{named(path)}, read as a tree of units"
    if _ABOUT not in texts:
        raise CheckpointError(where, got="no record of a tree", expected=f"one of {FORMAT!r}")
    record = checked(_Record, parse_json(texts[_ABOUT], where), where)
    space, names = Space(*record.space), [f"level{i}" for i in range(record.levels)]
    if record.format != FORMAT or set(arrays) != set(names) or space.nodes > _MOST:
        raise CheckpointError(
            where, got=f"the format {record.format!r} with {len(arrays)} arrays of {space.nodes:,} "
            "leaves", expected=f"{FORMAT!r} with {record.levels} of at most {_MOST:,} leaves",
        )  # fmt: skip
    try:
        levels = [arrays[name] for name in names]
        seen = Seen.from_json(record.seen)
        # Clusters rest on something: a record that has lost it all is no record.
        if levels and not (seen.ablations or seen.splits or seen.prompts):
            seen |= Seen.unknown()
        found = tree_of(space, record.dictionary, levels, record.band, seen)
    except InputError as error:
        raise CheckpointError(f"{where}, {error}") from error
    return found
