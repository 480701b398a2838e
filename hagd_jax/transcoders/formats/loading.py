"""Transcoders from disk or from the hub, in any of the public formats, straight onto the mesh."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError, InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.models.config import float_dtype
from hagd_jax.models.placing import place
from hagd_jax.models.safetensors_source import CONVERT, PICKLES
from hagd_jax.models.support import norm_weight
from hagd_jax.transcoders.checks import require_fit
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats import (
    circuit_tracer,
    cross_layer,
    gemma_scope,
    gemma_scope_2,
    per_layer,
    saelens,
    sparsify,
)
from hagd_jax.transcoders.formats.finding import numbered
from hagd_jax.transcoders.formats.folding import fold, needed_for
from hagd_jax.transcoders.formats.hub import locate
from hagd_jax.transcoders.formats.stored import Stored
from hagd_jax.transcoders.params import Params, param_specs
from hagd_jax.transcoders.transcoder import Transcoder, require_transcoder, shardings

_FORMATS = (
    "circuit-tracer's config.yaml, folders with cfg.json and sae.safetensors (sparsify) or "
    "sae_weights.safetensors (SAELens), or Gemma Scope's params.npz, params.safetensors or "
    "params_layer_0.safetensors"
)
_LOG = logging.getLogger("hagd_jax")


def load(
    source: str | Path,
    *,
    mesh: Mesh | None = None,
    model: LanguageModel | None = None,
    dtype: Any = None,
    check_finite: bool = True,
) -> Transcoder:
    """Load a transcoder; the host holds only its own shards and one slice.

    Formats, told by the files: circuit-tracer's, per layer and across layers; EleutherAI's
    `sparsify`; SAELens's; Gemma Scope's and Gemma Scope 2's.

    Args:
        source: A folder, or a hub id `owner/name` or `owner/name/folder`, with a branch or commit
            as `owner/name@revision`.
        mesh: Devices to spread the weights over, each reading only its slice; those of `model` if
            None, or one device without a model.
        model: The model it is to be used with: checked to be of the same layers and width; another
            name than the folder's is warned of. Needed for folders that read a norm before its
            weights.
        dtype: Of the parameters and of the computation; float32 if None.
        check_finite: Refuse NaN and infinite weights.

    Returns:
        The transcoder.

    Raises:
        CheckpointError: If a layer, file or tensor is missing, damaged, unknown, not finite, or of
            another shape; or if it was made for another model.
        ConfigError: If an option of the folder is not supported, or `dtype` is not.
        MeshError: If the mesh does not divide the transcoder.
    """
    opened = open_source(source, model, dtype)
    if model is not None and mesh is None:
        mesh = model.mesh
    params = place_params(opened, mesh=mesh, check_finite=check_finite)
    return Transcoder(params, opened.config, mesh, opened.name)


class Opened(NamedTuple):
    """An opened transcoder was checked, by itself and against its model, but not read.

    Attributes:
        stored: The transcoder on disk.
        config: What the mathematics is, with the dtype that was asked for.
        weights: (L, D) of the norms that its features read before, or None.
        name: Where it came from.
    """

    stored: Stored
    config: TranscoderConfig
    weights: jax.Array | None
    name: str

    def layer(self, layer: int) -> Opened:
        """Return one layer as a transcoder of its own, with its own edge only."""
        stored = self.stored.layer(layer)
        config = stored.config.replace(dtype=self.config.dtype)
        weights = None if self.weights is None else self.weights[layer : layer + 1]
        return Opened(stored, config, weights, self.name)


def open_source(source: str | Path, model: LanguageModel | None, dtype: Any) -> Opened:
    """Find a transcoder, and check all but its weights.

    Args:
        source: As `load`'s.
        model: As `load`'s.
        dtype: As `load`'s.

    Returns:
        What was found.

    Raises:
        CheckpointError: As `load`.
        ConfigError: As `load`.
    """
    wanted = np.dtype(np.float32) if dtype is None else float_dtype(dtype)
    located = locate(source)
    stored = open_stored(located.path)
    if model is not None:
        require_is("model", model, LanguageModel)
        _require_fit(stored.config, model, str(located.path))
        _compare_names(stored.model_name, model.name, located.name)
    weights = _norm_weights(stored, model, str(located.path))
    return Opened(stored, stored.config.replace(dtype=wanted.name), weights, located.name)


def place_params(
    opened: Opened,
    leaves: Collection[str] | None = None,
    *,
    mesh: Mesh | None = None,
    check_finite: bool = True,
) -> Params:
    """Read parameters onto their devices, computing from `config.reads` what the folder does.

    Args:
        opened: The transcoder on disk.
        leaves: Which parameters; all of them if None.
        mesh: Devices to spread them over, or None for one.
        check_finite: Refuse NaN and infinite weights.

    Returns:
        Name → array.

    Raises:
        CheckpointError: If a weight is not finite, or a file has changed.
    """
    stored, config = opened.stored, opened.config
    specs, layout = param_specs(config), shardings(config, mesh) or {}
    needed = set(specs) if leaves is None else needed_for(leaves, stored) & set(specs)
    params: Params = {
        w.leaf: place(
            [w], specs[w.leaf].shape, stored.sizes, stored.views, np.dtype(config.dtype),
            layout.get(w.leaf), check_finite,
        )
        for w in stored.weights
        if w.leaf in needed
    }  # fmt: skip
    params = fold(params, stored, opened.weights)
    return params if leaves is None else {leaf: params[leaf] for leaf in leaves if leaf in params}


def open_stored(folder: Path) -> Stored:
    """Detect the format of a folder, and check its tensors without reading them.

    Args:
        folder: The folder.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: As `load`.
        ConfigError: As `load`.
    """
    if not folder.is_dir():
        raise CheckpointError(
            str(folder), got="a file", expected="a folder", mend=f"It holds {_FORMATS}."
        )
    if (folder / circuit_tracer.CONFIG).is_file():
        given = circuit_tracer.read_config(folder)
        kind = per_layer if given.kind == circuit_tracer.PER_LAYER else cross_layer
        return kind.open_folder(given)
    configs = [folder / "cfg.json", *folder.glob("*/cfg.json")]
    beside = {file.parent for file in configs if file.is_file()}
    if any((path / sparsify.WEIGHTS).exists() for path in beside):
        return sparsify.open_folder(folder)
    if any((path / saelens.WEIGHTS).exists() for path in beside):
        return saelens.open_folder(folder)
    if numbered(folder, gemma_scope_2.ACROSS):
        return gemma_scope_2.open_across_layers(folder)
    if any(folder.glob(f"*/{gemma_scope_2.WEIGHTS}")):
        return gemma_scope_2.open_folder(folder)
    if any(folder.glob(f"layer_*/**/{gemma_scope.FIRST}")):
        return gemma_scope.open_folder(folder)
    raise _unrecognised(folder)


def _unrecognised(folder: Path) -> CheckpointError:
    """What is the matter with a folder that is in none of the formats."""
    pickles = sorted(file for pattern in PICKLES for file in folder.rglob(pattern))
    if pickles:
        return CheckpointError(
            str(pickles[0]), got="a pickle", expected="a .safetensors file", mend=CONVERT
        )
    held = sorted(path.name for path in folder.iterdir())
    return CheckpointError(
        str(folder),
        got=f"{', '.join(held[:5])}{' ...' if len(held) > 5 else ''}" if held else "nothing",
        expected=_FORMATS,
    )


def check_model(transcoder: Transcoder, model: LanguageModel) -> None:
    """Refuse a transcoder for a model of another number of layers or width.

    Args:
        transcoder: The transcoder.
        model: The model it is to be used with.

    Raises:
        CheckpointError: Naming those of both.
    """
    require_transcoder(transcoder)
    require_is("model", model, LanguageModel)
    _require_fit(transcoder.config, model, f"transcoder {transcoder.name}")


def _require_fit(config: TranscoderConfig, model: LanguageModel, what: str) -> None:
    ours, theirs = config, model.config
    if (ours.n_layers, ours.d_model) != (theirs.n_layers, theirs.d_model):
        raise CheckpointError(
            what,
            got=f"{ours.n_layers} layers and d_model {ours.d_model}",
            expected=f"{theirs.n_layers} layers and d_model {theirs.d_model}, as {model.name} has",
            mend="It was made for another model.",
        )
    try:
        require_fit(config, theirs)
    except InputError as error:
        raise CheckpointError(f"{what}: {error}") from error


def _compare_names(theirs: str, ours: str, what: str) -> None:
    """Warn of a folder that names another model; a name proves nothing, so it is not refused."""
    said, called = (
        re.sub(r"[^a-z0-9]", "", name.lower().split("/")[-1]) for name in (theirs, ours)
    )
    if said and called and said not in called and called not in said:
        _LOG.warning(
            "The transcoder %s says that it is for the model %s, and the model here is called %s. "
            "If they are two models, its features mean nothing here.",
            quoted(what), quoted(theirs), quoted(ours),
        )  # fmt: skip


def _plain(name: str) -> str:
    """A model's name without its owner and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower().split("/")[-1])


def _norm_weights(stored: Stored, model: LanguageModel | None, what: str) -> jax.Array | None:
    """(L, D) weights of the norms that features read before, or None where they read after."""
    if not stored.unweighted:
        return None
    if model is None:
        raise ConfigError(
            f"{what}: input hook",
            got="ln2.hook_normalized",
            expected="to know the model",
            mend="Pass model=...: in a LayerNorm this hook is after the norm's weights, in an "
            "RMSNorm before them.",
        )
    if model.config.norm != "rms":
        return None
    if "norm2" not in model.params["blocks"]:
        raise ConfigError(
            f"{what}: input hook", got="ln2.hook_normalized",
            expected="another hook: this model has no norm before its MLPs",
        )  # fmt: skip
    weights = norm_weight(model.params["blocks"]["norm2"]["scale"], model.config)
    if not bool(jnp.all(weights)):
        raise ConfigError(
            f"{what}: input hook",
            got="ln2.hook_normalized, with a norm of the model that has zeros among its weights",
            expected="weights that are not zero, so that what it reads follows from mlp_in",
        )
    return weights
