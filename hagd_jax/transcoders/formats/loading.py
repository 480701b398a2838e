"""Transcoders from disk or from the hub, in any of the public formats, straight onto the mesh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hagd_jax.errors import CheckpointError, ConfigError, require_is
from hagd_jax.models import LanguageModel, require_supported
from hagd_jax.models.config import float_dtype
from hagd_jax.models.placing import place
from hagd_jax.models.safetensors_source import CONVERT, PICKLES
from hagd_jax.models.support import PLAIN_NORMS
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats import circuit_tracer, cross_layer, per_layer, saelens, sparsify
from hagd_jax.transcoders.formats.hub import locate
from hagd_jax.transcoders.formats.stored import Stored
from hagd_jax.transcoders.params import Params, param_specs
from hagd_jax.transcoders.transcoder import Transcoder, require_transcoder, shardings

_FORMATS = (
    "circuit-tracer's config.yaml, or folders with cfg.json and sae.safetensors (sparsify) or "
    "sae_weights.safetensors (SAELens)"
)


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
    `sparsify`; SAELens's.

    Args:
        source: A folder, or a hub id `owner/name` or `owner/name/folder`, with a branch or commit
            as `owner/name@revision`.
        mesh: Devices to spread the weights over, each reading only its slice; those of `model` if
            None, or one device without a model.
        model: The model it is to be used with: checked to be of the same layers and width. Needed
            for folders that read a norm before its weights.
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
    wanted = np.dtype(np.float32) if dtype is None else float_dtype(dtype)
    located = locate(source)
    stored = open_stored(located.path)
    if model is not None:
        require_is("model", model, LanguageModel)
        _require_fit(stored.config, model, str(located.path))
        mesh = model.mesh if mesh is None else mesh
    weights = _norm_weights(stored, model, str(located.path))
    config = stored.config.replace(dtype=wanted.name)
    specs, layout = param_specs(config), shardings(config, mesh) or {}
    params: Params = {
        w.leaf: place(
            [w], specs[w.leaf].shape, stored.sizes, stored.views, wanted, layout.get(w.leaf),
            check_finite,
        )
        for w in stored.weights
    }  # fmt: skip
    return Transcoder(_fold(params, stored, weights), config, mesh, located.name)


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
    who = "a dictionary that reads before a norm's weights"
    require_supported(model.config, who, PLAIN_NORMS)
    weights = model.params["blocks"]["norm2"]["scale"]
    if not bool(jnp.all(weights)):
        raise ConfigError(
            f"{what}: input hook",
            got="ln2.hook_normalized, with a norm of the model that has zeros among its weights",
            expected="weights that are not zero, so that what it reads follows from mlp_in",
        )
    return weights


def _fold(params: Params, stored: Stored, weights: jax.Array | None) -> Params:
    """Parameters that compute from `config.reads` what the folder computes from its own input."""
    if stored.positive:
        params = _changed(params, ["threshold"], _positive)
    if stored.rescaled:
        params = _changed(params, ["W_enc", "b_enc", "W_dec"], _rescaled)
    if stored.centred:
        params = _changed(params, ["b_enc"], _centred)
    if weights is not None:
        params = _changed(params, ["W_enc", "W_skip"], _unweighted, weights)
    return params


def _changed(params: Params, leaves: list[str], change: Callable[..., Any], *more: Any) -> Params:
    """Some parameters computed anew, lying where they lay."""
    new: Params = {}
    for leaf in filter(params.__contains__, leaves):
        run = jax.jit(change, static_argnums=0, out_shardings=params[leaf].sharding)
        new[leaf] = run(leaf, params, *more)
    return params | new


def _positive(leaf: str, params: Params) -> jax.Array:
    """relu(x) above θ is x above max(θ, 0)."""
    return jnp.maximum(params[leaf], 0)


def _rescaled(leaf: str, params: Params) -> jax.Array:
    """act((W_enc x + b_enc) n) W_dec / n, with n the norms of the rows of W_dec, one edge a layer.

    A row of zeros writes nothing, whatever its feature is divided by.
    """
    rows = params["W_dec"].astype(jnp.promote_types(params["W_dec"].dtype, jnp.float32))
    norm = jnp.linalg.norm(rows, axis=-1)
    if leaf == "b_enc":
        changed = params[leaf] * norm
    elif leaf == "W_enc":
        changed = params[leaf] * norm[..., None]
    else:
        changed = rows / jnp.where(norm > 0, norm, 1)[..., None]
    return changed.astype(params[leaf].dtype)


def _centred(leaf: str, params: Params) -> jax.Array:
    """W_enc (x − b_dec) + b_enc = W_enc x + (b_enc − W_enc b_dec)."""
    wide = jnp.promote_types(params[leaf].dtype, jnp.float32)
    shift = jnp.einsum(
        "lfd,ld->lf", params["W_enc"], params["b_dec"],
        precision="highest", preferred_element_type=wide,
    )  # fmt: skip
    return (params[leaf] - shift).astype(params[leaf].dtype)


def _unweighted(leaf: str, params: Params, weights: jax.Array) -> jax.Array:
    """W x̂ = (W / w) (w x̂), and w x̂ is what `mlp_in` holds."""
    return (params[leaf] / weights[:, None]).astype(params[leaf].dtype)
