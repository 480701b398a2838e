"""Models from disk, from the hub or by name, straight onto the mesh."""

from __future__ import annotations

import collections
import dataclasses
import logging
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
from jax.sharding import Mesh

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import read_json_object
from hagd_jax.models import derived, families
from hagd_jax.models.config import DecoderConfig, float_dtype
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families.table import Source, Weight, axis_sizes, select
from hagd_jax.models.gguf.source import open_gguf
from hagd_jax.models.hub import locate
from hagd_jax.models.matching import match
from hagd_jax.models.model import LanguageModel
from hagd_jax.models.placing import leaf_dtype, place
from hagd_jax.models.safetensors_source import open_safetensors
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.parallel import sharding
from hagd_jax.parallel.rules import require_mesh

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint is a model on disk whose tensors were checked but not read.

    Attributes:
        config: Its configuration.
        weights: Where each parameter lies.
        source: The tensors.
        tokenizer: Its tokenizer, if it has one.
    """

    config: DecoderConfig
    weights: tuple[Weight, ...]
    source: Source
    tokenizer: Tokenizer | None = None

    __repr__ = one_line


def load(
    source: str | Path,
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    tokenizer: Tokenizer | None = None,
    check_finite: bool = True,
    strict: bool = True,
) -> LanguageModel:
    """Load a language model; the host holds only its own shards and one slice.

    Where a configuration ties the unembedding to the embedding and the file stores another one,
    the stored one is used, as in transformers 5, and the log says so.

    Args:
        source: A folder as Hugging Face or `save` writes it, a `.gguf` file, a name of
            `presets()`, or a hub id `owner/name`.
        dtype: Of the parameters and of the computation. If None, the parameters keep the dtypes
            they are stored in, and the most frequent one computes.
        mesh: Devices to spread the weights over, each reading only its slice; None for one device.
        tokenizer: Used instead of the one beside the weights.
        check_finite: Refuse NaN and infinite weights.
        strict: Refuse configuration options and tensors that nobody here has heard of, and stored
            rotary frequencies and masks that disagree with the configuration.

    Returns:
        The model.

    Raises:
        CheckpointError: If a file is missing or damaged, or does not hold just the tensors that
            the configuration needs, finite, in the right shapes; or if the tokenizer has more
            tokens than the model.
        ConfigError: If the configuration is not supported, or `dtype` is not.
        MeshError: If the mesh does not divide the model.
    """
    wanted = None if dtype is None else float_dtype(dtype)
    if tokenizer is not None:
        require_is("tokenizer", tokenizer, Tokenizer, mend="Tokenizer.from_file reads one.")
    require_mesh(mesh)
    located = locate(source)
    checkpoint = open_checkpoint(located.path, strict)
    tokenizer = tokenizer or checkpoint.tokenizer
    _require_fitting(tokenizer, checkpoint.config, located.path)
    stored, layers = checkpoint.source, checkpoint.config.n_layers
    parts: dict[str, list[Weight]] = collections.defaultdict(list)
    for weight in checkpoint.weights:
        parts[weight.leaf].append(weight)
    dtypes = {leaf: wanted or leaf_dtype(parts[leaf], stored, layers) for leaf in parts}
    config = checkpoint.config.replace(dtype=(wanted or _most_frequent(dtypes, checkpoint)).name)
    specs, sizes = param_specs(config), axis_sizes(config)
    layout = {
        leaf: None if mesh is None else sharding(mesh, spec.axes, spec.shape, leaf)
        for leaf, spec in specs.items()
    }
    flat = {
        leaf: place(
            parts[leaf], specs[leaf].shape, sizes, stored, dtypes[leaf], layout[leaf], check_finite
        )
        for leaf in parts
    }
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return LanguageModel(params, config, tokenizer, mesh, located.name)


def _require_fitting(tokenizer: Tokenizer | None, config: DecoderConfig, path: Path) -> None:
    """Every id that the tokenizer gives must be a row of the embedding."""
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"tokenizer for {path}",
            got=f"{tokenizer.vocab_size} tokens",
            expected=f"at most the model's vocab_size = {config.vocab_size}",
            mend="Pass a fitting tokenizer, or add rows to the embedding.",
        )


def open_checkpoint(path: Path, strict: bool = True) -> Checkpoint:
    """Find and check a model on disk, reading only weights that the configuration derives.

    Args:
        path: A folder or a file.
        strict: As for `load`.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: As `load`.
        ConfigError: As `load`.
    """
    gguf = _find_gguf(path)
    if gguf is not None:
        return _gguf(gguf, strict)
    folder = path if path.is_dir() else path.parent
    _refuse_adapter(folder)
    if not (folder / "config.json").exists():
        # Without weights or with pickles that is the more telling error.
        open_safetensors(path)
        raise CheckpointError(str(folder), got="no config.json", expected="one beside the weights")
    config = families.from_hf(read_json_object(folder / "config.json"), strict)
    source, family = open_safetensors(path), families.family_of(config)
    config = derived.with_stored_head(config, source, family)
    if not strict:
        derived.refuse_switched_off(config, source, family)
    weights = match(
        source,
        family.table(config, source.names()),
        axis_sizes(config),
        prefix=family.prefix,
        ignores=lambda name: family.ignores(name, config),
        strict=strict,
    )
    derived.check_buffers(config, source, family, strict)
    has_tokenizer = (folder / "tokenizer.json").exists()
    tokenizer = Tokenizer.from_file(folder) if has_tokenizer else None
    return Checkpoint(config, weights, source, tokenizer)


def _refuse_adapter(folder: Path) -> None:
    """Refuse weights beside an adapter, which transformers would put on top of them."""
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            str(folder / "adapter_config.json"),
            got="an adapter (PEFT)",
            expected="weights that have it merged into them",
            mend="Merge it (peft: merge_and_unload, then save_pretrained), or move it away to "
            "load the weights without it.",
        )


def _find_gguf(path: Path) -> Path | None:
    """The GGUF file meant: the path itself, or the only weights in the folder."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf"))
    if files and any(path.glob("*.safetensors")):
        names = ", ".join(file.name for file in files)
        _log.warning("%s: the safetensors files are read, not %s", path, names)
        return None
    if not files:
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(
            str(path), got=names, expected="one .gguf file", mend="Pass the file instead."
        )
    return files[0]


def _gguf(path: Path, strict: bool) -> Checkpoint:
    file = open_gguf(path)
    weights = match(
        file.source,
        select(file.table, param_specs(file.config)),
        axis_sizes(file.config),
        ignores=lambda name: name in file.architecture.ignored,
        strict=strict,
    )
    return Checkpoint(file.config, weights, file.source, file.tokenizer())


def _most_frequent(dtypes: dict[str, np.dtype[Any]], checkpoint: Checkpoint) -> np.dtype[Any]:
    """The dtype that most weights are stored in."""
    count: collections.Counter[np.dtype[Any]] = collections.Counter()
    for leaf, spec in param_specs(checkpoint.config).items():
        count[dtypes[leaf]] += int(np.prod(spec.shape))
    return count.most_common(1)[0][0]
