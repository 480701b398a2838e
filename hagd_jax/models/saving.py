"""Models to disk: a folder that Hugging Face `transformers` reads, and `load` as well."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import CheckpointError, require_is, require_number
from hagd_jax.files import (
    SEAL,
    Tensor,
    as_path,
    replacing,
    whole_tensor,
    write_file,
    write_safetensors,
)
from hagd_jax.models import families
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families.table import Sizes, Weight, axis_sizes, write
from hagd_jax.models.model import LanguageModel
from hagd_jax.models.safetensors_source import DTYPES

Params = Mapping[str, Any]

# What a model folder may hold and still be replaced.
_OURS = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", SEAL,
)  # fmt: skip


def save(
    model: LanguageModel,
    folder: str | Path,
    *,
    max_shard_bytes: float = 5e9,
    overwrite: bool = False,
) -> Path:
    """Write a model in Hugging Face's format; the host holds one tensor at a time.

    A new folder appears at once and whole, and a failure leaves what was there before. Replacing
    one takes two renames: a process killed between them leaves the old model, whole, under a
    hidden name beside it.

    Args:
        model: Of any family; `custom` models are written in a format of our own.
        folder: Where to. Its parent is created.
        max_shard_bytes: Weights beyond this are split into several files.
        overwrite: Replace a model that is there already.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder holds something and `overwrite` is off, or holds files that
            are no model's; if the place cannot be written; if a parameter is missing, has no place
            in the configuration, or lies on another machine.
        ConfigError: If the family cannot express the model's configuration, or `max_shard_bytes`
            is no positive number.
    """
    # A link is followed, rather than replaced; and the folder has a name, even if given as ".".
    require_is("model", model, LanguageModel)
    require_is("overwrite", overwrite, bool)
    require_number("max_shard_bytes", max_shard_bytes, above=0)
    folder = as_path(folder, "folder").resolve()
    given = families.to_hf(model.config)
    params = flax.traverse_util.flatten_dict(model.params, sep="/")
    tensors = _tensors(model.config, params)
    _require_free(folder, overwrite)
    with replacing(folder) as draft:
        dtype = collections.Counter(t.dtype.name for t in tensors).most_common(1)[0][0]
        # Transformers 4 reads `torch_dtype`, transformers 5 `dtype`.
        _write_json(draft / "config.json", given | {"dtype": dtype, "torch_dtype": dtype})
        if model.tokenizer is not None:
            model.tokenizer.save(draft)
        _write_weights(draft, tensors, max_shard_bytes)
    return folder


def _tensors(config: DecoderConfig, params: Params) -> list[Tensor]:
    """Every tensor of the file, layer by layer; parameters that share one are brought together."""
    specs, sizes = param_specs(config), axis_sizes(config)
    for leaf in (*specs, *(params.keys() - specs.keys())):
        _check(params.get(leaf), leaf, specs[leaf].shape if leaf in specs else None)
    sharing: dict[str, list[Weight]] = collections.defaultdict(list)
    for weight in families.family_of(config).table(config):
        sharing[weight.name].append(weight)
    whole = [parts for parts in sharing.values() if not parts[0].per_layer]
    stacked = [parts for parts in sharing.values() if parts[0].per_layer]
    order = [(parts, 0) for parts in whole]
    order += [
        (parts, layer)
        for layer in range(config.n_layers)
        for parts in stacked
        if parts[0].within(layer)
    ]
    return [_tensor(parts, layer, params, sizes) for parts, layer in order]


def _tensor(parts: list[Weight], layer: int, params: Params, sizes: Sizes) -> Tensor:
    """One tensor of the file: the parameters it is made of meet on the host when it is written."""
    of = parts[0].stored_shape(sizes)
    dtype = np.dtype(functools.reduce(jnp.promote_types, (params[p.leaf].dtype for p in parts)))

    def value() -> np.ndarray:
        out = np.empty(of, dtype)
        for part in parts:
            leaf = params[part.leaf]
            leaf = leaf[layer] if part.per_layer else leaf
            leaf = leaf[part.own(sizes)] if part.block else leaf
            write(part, sizes, np.asarray(leaf), out)
        return out

    return whole_tensor(parts[0].tensor(layer), of, dtype, value)


def _check(leaf: Any, name: str, want: tuple[int, ...] | None) -> None:
    """A parameter must be the model's, in its shape, of a dtype that files have, and here."""
    what = f"parameter {name}"
    if want is None:
        raise CheckpointError(what, got=f"shape {leaf.shape}", expected="none by the config")
    if leaf is None or leaf.shape != want:
        got = "nothing" if leaf is None else f"shape {leaf.shape}"
        raise CheckpointError(what, got=got, expected=f"shape {want} by the model's config")
    if np.dtype(leaf.dtype) not in DTYPES.values():
        raise CheckpointError(what, got=leaf.dtype, expected=f"one of {', '.join(DTYPES)}")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise CheckpointError(
            what,
            got="parts on other machines",
            expected="an array that this process can read",
            mend="Keep it with parallel.save, restore it in a single process, and save there.",
        )


def _write_weights(folder: Path, tensors: list[Tensor], most: float) -> None:
    """One file, or several and their index."""
    shards = _split(tensors, most)
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0])
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard)
        places |= {tensor.name: name for tensor in shard}
    total = sum(tensor.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _split(tensors: list[Tensor], most: float) -> list[list[Tensor]]:
    """Fill shards in order; a tensor beyond the limit has a file of its own."""
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def _write_json(path: Path, value: Any) -> None:
    write_file(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _require_free(folder: Path, overwrite: bool) -> None:
    """Only an empty place may be written to, or with `overwrite` one that holds a model alone."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(str(folder), got="a file", expected="a folder or nothing")
    there = sorted(folder.iterdir())
    if there and not overwrite:
        raise CheckpointError(
            str(folder),
            got=f"{there[0].name} in it",
            expected="an empty folder or none",
            mend="Choose another folder, or pass overwrite=True.",
        )
    for path in there:
        if path.is_dir() or not any(path.match(pattern) for pattern in _OURS):
            raise CheckpointError(
                str(folder),
                got=f"{path.name} in it, which is no part of a model",
                expected="a model folder",
                mend="overwrite=True would remove it: move it away, or choose another folder.",
            )
