"""Held-out text on the devices, and one layer's features at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is, shown
from hagd_jax.models import LanguageModel, check_tokens
from hagd_jax.models.arrays import read_array
from hagd_jax.parallel import batch_parts, constrain, replicate, sharding
from hagd_jax.transcoders.checks import require_pair
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.transcoder import Transcoder

Selection = Mapping[int, Sequence[int]]
_ENCODER = ("W_enc", "b_enc", "threshold")


class TextBatch(Protocol):
    """A batch of text has tokens and their weights.

    Attributes:
        tokens: (B, T) int32.
        weight: (B, T) float32: 1 where a token counts, 0 on BOS and padding.
    """

    @property
    def tokens(self) -> Any: ...  # noqa: D102
    @property
    def weight(self) -> Any: ...  # noqa: D102


class Placed(NamedTuple):
    """A placed batch lies on the devices and on the host.

    Attributes:
        tokens: (B', T) on the mesh; rows that weigh nothing fill it up to what the mesh splits.
        weight: (B', T).
        host: (tokens, weight) as NumPy arrays, (B, T) each.
    """

    tokens: jax.Array
    weight: jax.Array
    host: tuple[np.ndarray, np.ndarray]

    __repr__ = one_line


def placed(
    transcoder: Transcoder, model: LanguageModel, batches: Iterable[TextBatch]
) -> Iterator[Placed]:
    """Check batches of text and put them where the model lies.

    Args:
        transcoder: Who will read the model's activations.
        model: Who will read the text.
        batches: Of any number of rows; every process brings all of them.

    Yields:
        One `Placed` a batch.

    Raises:
        InputError: If the transcoder is another model's; if a batch does not fit the model, or
            its weights do not fit its tokens; or if there is no token that counts.
    """
    require_pair(transcoder, model)
    if hasattr(batches, "tokens") or not isinstance(batches, Iterable):
        raise InputError(
            "held-out text",
            got=shown(batches),
            expected="batches with tokens and weight",
            mend="Wrap a single batch in a list.",
        )
    heavy = False
    for i, batch in enumerate(batches):
        if not (hasattr(batch, "tokens") and hasattr(batch, "weight")):
            raise InputError(
                f"batch {i}", got=shown(batch), expected="something with tokens and weight"
            )
        tokens, weight = (
            _host(read_array(f"{name} of batch {i}", getattr(batch, name)), model.mesh)
            for name in ("tokens", "weight")
        )
        check_tokens(model.config, tokens)
        if weight.shape != tokens.shape or not (np.isfinite(weight) & (weight >= 0)).all():
            raise InputError(
                f"weight of batch {i}",
                got=f"shape {weight.shape}, from {weight.min()} to {weight.max()}",
                expected=f"shape {tokens.shape}, 0 or more",
            )
        heavy |= bool(weight.any())
        host = tokens.astype(np.int32), weight.astype(np.float32)
        yield Placed(_place(host[0], model.mesh), _place(host[1], model.mesh), host)
    if not heavy:
        raise InputError(
            "held-out text",
            got="no token of positive weight",
            expected="some text",
            mend="Is the corpus shorter than one sequence?",
        )


def encode_layer(transcoder: Transcoder, x: jax.Array, layer: Any) -> jax.Array:
    """Encode the features of one layer.

    All layers at once would be L · F numbers a token: more than fits where a model does.

    Args:
        transcoder: The transcoder.
        x: (B, T, D) what this layer's features read.
        layer: Which one; may be traced.

    Returns:
        (B, T, F) activations.
    """
    params = {
        name: jax.lax.dynamic_index_in_dim(transcoder.params[name], layer)
        for name in _ENCODER
        if name in transcoder.params
    }
    config = transcoder.config.replace(n_layers=1, window=0, predict=False)
    found = feat.encode(params, x[None], config, transcoder.mesh)[0]
    return constrain(found, ("batch", "length", "features"), transcoder.mesh)


def followed_features(
    features: Selection | None, config: TranscoderConfig
) -> dict[int, np.ndarray]:
    """List the requested features of each layer.

    Args:
        features: Layer → features; all of them if None.
        config: Of the transcoder that has them.

    Returns:
        Layer → (M,) int32, rising, each once; layers in order, none empty.

    Raises:
        InputError: If one does not exist, or there is none.
    """
    if features is None:
        every = np.arange(config.n_features, dtype=np.int32)
        return dict.fromkeys(range(config.n_layers), every)
    require_is("features", features, Mapping)
    found = {}
    for layer, indices in features.items():
        require_index("features: layer", layer, config.n_layers)
        array = read_array(f"features of layer {layer}", indices, "numbers of features")
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise InputError(
                f"features of layer {layer}", got=f"dtype {array.dtype}", expected="whole numbers"
            )
        chosen = np.unique(np.asarray(array, np.int64))
        outside = (chosen < 0) | (chosen >= config.n_features)
        if outside.any():
            raise InputError(
                f"features of layer {layer}",
                got=str(chosen[outside][:5].tolist()),
                expected=f"0 to {config.n_features - 1}",
            )
        if len(chosen):
            found[int(layer)] = chosen.astype(np.int32)
    if not found:
        raise InputError("features", got="none", expected="at least one, or None for all")
    return dict(sorted(found.items()))


def _host(x: Any, mesh: jax.sharding.Mesh | None) -> np.ndarray:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = jax.jit(lambda x: replicate(x, mesh))(x)
    return np.asarray(x)


def _place(x: np.ndarray, mesh: jax.sharding.Mesh | None) -> jax.Array:
    if mesh is None:
        return jax.device_put(x)
    extra = -len(x) % batch_parts(mesh)
    full = np.concatenate([x, np.zeros((extra, x.shape[1]), x.dtype)])
    return jax.device_put(full, sharding(mesh, ("batch", None), full.shape))
