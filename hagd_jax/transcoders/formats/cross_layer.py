"""circuit-tracer's folders of a cross-layer transcoder.

`W_enc_{i}.safetensors` holds W_enc_i (F, D), b_enc_i (F), b_dec_i (D) and optionally threshold_i
(F); `W_dec_{i}.safetensors` holds W_dec_i (F, L − i, D), whose entry j writes to layer i + j.
`mntss/clt-llama-3.2-1b-524k` and `mntss/clt-gemma-2-2b-426k` are such (`hook_resid_mid` to
`hook_mlp_out`). Files that are listed under `transcoders` are those of Gemma Scope 2.

A windowed transcoder is written with zeros for the edges that it does not have, so that
circuit-tracer computes the same, and `window` in the configuration brings it back as it was. The
zeros are holes in the files: they take no space on disk. With a skip connection, W_skip_i (D, D) as
in the folders of a transcoder a layer lies beside W_enc_i, under a `model_kind` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import CheckpointError
from hagd_jax.files import PaddedRows, Tensor
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats import gemma_scope, per_layer
from hagd_jax.transcoders.formats.circuit_tracer import (
    CONFIG,
    CROSS_LAYER_SKIP,
    Given,
    layer_tensor,
    prediction_views,
)
from hagd_jax.transcoders.formats.finding import (
    file_of,
    first_shape,
    gather,
    numbered,
    open_files,
    refuse_others,
)
from hagd_jax.transcoders.formats.stored import Stored, TensorFile, View, Views
from hagd_jax.transcoders.graph import layer_graph, own_edges

_NEEDED = {name: f"{name}_{{layer}}" for name in ("W_enc", "b_enc", "b_dec")}
_OPTIONAL = {"threshold": "threshold_{layer}"}
_SKIP = {"W_skip": "W_skip_{layer}"}
# Of a decoder in host memory at once, when it is written.
_BLOCK_BYTES = 2**26


def open_folder(given: Given) -> Stored:
    """Find and check the tensors of a folder.

    Args:
        given: Its `config.yaml`.

    Returns:
        The transcoder on disk.

    Raises:
        CheckpointError: If a layer or tensor is missing, has another shape, or is not known.
        ConfigError: If the configuration is not supported.
    """
    if given.values.get("transcoders") is not None:
        return gemma_scope.listed_across_layers(given, per_layer.listed(given))
    encoders, decoders = _open(given)
    features, width = first_shape(encoders[0], "W_enc_0", 2)
    extra = _OPTIONAL if "threshold_0" in encoders[0].entries else {}
    extra = extra | (_SKIP if given.kind == CROSS_LAYER_SKIP else {})
    fields = given.fields("threshold" in extra)
    config = TranscoderConfig(
        n_layers=len(encoders),
        d_model=width,
        n_features=features,
        window=given.values.get("window"),
        skip="W_skip" in extra,
        **fields,
    )
    if (config.activation == "jump_relu") != ("threshold" in extra):
        raise CheckpointError(
            f"{given.folder / CONFIG}: activation",
            got=config.activation,
            expected="jump_relu if there are thresholds, and only then",
        )
    views = gather(encoders, _NEEDED | extra, features)
    refuse_others(encoders, views.values())
    views |= _edges(decoders, config)
    if config.predict:
        views |= prediction_views(given.folder, config.n_layers)
    unweighted = given.reading.unweighted
    return Stored(config, Views(views), unweighted=unweighted, model_name=given.model_name)


def _open(given: Given) -> tuple[list[TensorFile], list[TensorFile]]:
    """Encoders and decoders of all layers; the first decoder tells how many there are."""
    folder = given.folder
    (first,) = open_files([folder / "W_dec_0.safetensors"])
    layers = first_shape(first, "W_dec_0", 3)[1]
    names = [
        f"{name}_{layer}.safetensors" for name in ("W_enc", "W_dec") for layer in range(layers)
    ]
    sources = open_files([folder / name for name in names])
    found = {*numbered(folder, r"W_enc_(\d+)\.safetensors")}
    found |= {*numbered(folder, r"W_dec_(\d+)\.safetensors")}
    if max(found) >= layers:
        raise CheckpointError(
            str(folder),
            got=f"files of layer {max(found)}",
            expected=f"{layers} layers, as W_dec_0 writes to",
            mend="The files are of different transcoders.",
        )
    return sources[:layers], sources[layers:]


def _edges(decoders: list[TensorFile], config: TranscoderConfig) -> dict[str, View]:
    """Each edge's view into the decoder of the layer that it comes from."""
    whole_views = gather(decoders, {"W_dec": "W_dec_{layer}"})
    refuse_others(decoders, whole_views.values())
    for layer, source in enumerate(decoders):
        want = (config.n_features, config.n_layers - layer, config.d_model)
        have = source.shape(f"W_dec_{layer}")
        if have != want:
            raise CheckpointError(
                f"{file_of(source)}: tensor W_dec_{layer}", got=f"shape {have}", expected=str(want)
            )
    graph = layer_graph(config)
    edges = zip(np.asarray(graph.senders), np.asarray(graph.edges), strict=True)
    return {
        f"W_dec/{edge}": View(decoders[sender], f"W_dec_{sender}", entry=int(distance))
        for edge, (sender, distance) in enumerate(edges)
    }


def files(params: dict[str, Any], config: TranscoderConfig) -> Iterator[tuple[str, list[Tensor]]]:
    """List the files to write, with their tensors.

    Args:
        params: Of the transcoder.
        config: Of the transcoder.

    Yields:
        A file's name and its tensors.
    """
    names = {k: v for k, v in (_NEEDED | _OPTIONAL | _SKIP).items() if k in params}
    for layer in range(config.n_layers):
        yield (
            f"W_enc_{layer}.safetensors",
            [
                layer_tensor(name.replace("{layer}", str(layer)), params[leaf], layer)
                for leaf, name in names.items()
            ],
        )
        yield f"W_dec_{layer}.safetensors", [_decoder(params["W_dec"], config, layer)]


def _decoder(weights: jax.Array, config: TranscoderConfig, layer: int) -> Tensor:
    """W_dec of one layer, a block of features at a time."""
    count, width = config.n_features, config.d_model
    first, later = int(own_edges(config)[layer]), config.n_layers - layer
    edges = min(config.width, later)
    dtype = np.dtype(weights.dtype)
    row = edges * width * dtype.itemsize
    step = max(1, min(count, _BLOCK_BYTES // row))

    def blocks() -> Iterator[PaddedRows]:
        for start in range(0, count, step):
            stop = min(start + step, count)
            # The last block begins where it still has full height, so that one program cuts all.
            low = max(0, stop - step)
            block = np.empty((stop - start, edges, width), dtype)
            for edge in range(edges):
                part = np.asarray(_cut(weights, first + edge, low, step))
                block[:, edge] = part[start - low :]
            yield PaddedRows(block, (later - edges) * width * dtype.itemsize)

    return Tensor(f"W_dec_{layer}", (count, later, width), dtype, blocks)


@jax.jit(static_argnames="rows")
def _cut(weights: jax.Array, edge: int, start: int, rows: int) -> jax.Array:
    """Rows of one edge's decoder: (E, F, D) → (rows, D)."""
    shape = (1, rows, weights.shape[-1])
    return jax.lax.dynamic_slice(weights, (edge, start, jnp.int32(0)), shape)[0]
