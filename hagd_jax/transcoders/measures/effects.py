"""What features write straight to the logits."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import require_number
from hagd_jax.models import LanguageModel, norm_weight
from hagd_jax.parallel import replicate
from hagd_jax.transcoders.checks import require_pair
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.measures.held_out import Selection, followed_features
from hagd_jax.transcoders.transcoder import Transcoder

# Features whose logits are in memory at once: of each, one number a token of the vocabulary.
_CHUNK = 128


class LogitEffects(NamedTuple):
    """Logit effects list the output tokens that features raise and lower most.

    Attributes:
        tokens: (M, 2k) int32: the k most raised, most first, then the k most lowered, most first.
        values: (M, 2k) float32 change of each logit, relative to the mean logit, per unit of
            activation.
    """

    tokens: np.ndarray
    values: np.ndarray

    __repr__ = one_line


def logit_effects(
    transcoder: Transcoder,
    model: LanguageModel,
    *,
    features: Selection | None = None,
    count: int = 8,
    gain: float = 1.0,
) -> dict[int, LogitEffects]:
    """Find the output tokens that each feature raises and lowers most by its direct effect.

    A unit of feature f adds d = Σ W_dec^{l→l'} to the final stream, the sum over all layers it
    writes to; the logits move by W_U (γ ⊙ d) · gain, γ what the final norm multiplies by (a
    LayerNorm takes the mean out of d first). What later layers make of d is not counted. The mean
    over the vocabulary is taken out, since it changes no probability. A soft cap of logits is left
    out, since its slope depends on the prompt: these are effects on what it caps.

    Args:
        transcoder: For this model.
        model: The model.
        features: Layer → features; all of them if None.
        count: Tokens each way.
        gain: What the final norm multiplies by: 1 / its scale, on average over some text. It
            changes no order. `top_contexts` measures it.

    Returns:
        Layer → effects of its features, in rising order of the features.

    Raises:
        ConfigError: If `count` is not from 1 to the size of the vocabulary, or `gain` not finite.
        InputError: If a feature does not exist, or the transcoder is another model's.

    Example:
        >>> from hagd_jax import transcoders
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> config = transcoders.TranscoderConfig(n_layers=1, d_model=12, n_features=24, k=4)
        >>> transcoder = transcoders.init(config, jax.random.key(0))
        >>> logit_effects(transcoder, model, features={0: [3, 5]}, count=4)[0].tokens.shape
        (2, 8)
    """
    require_pair(transcoder, model)
    require_number("count", count, least=1, most=model.config.vocab_size, whole=True)
    require_number("gain", gain)
    found = {}
    w_dec, senders = transcoder.params["W_dec"], np.asarray(layer_graph(transcoder.config).senders)
    for layer, chosen in followed_features(features, transcoder.config).items():
        # One shape for all layers, though the last ones have fewer edges.
        edges = np.searchsorted(senders, layer) + np.arange(transcoder.config.width)
        theirs = (edges < np.searchsorted(senders, layer, "right")).astype(np.float32)
        edges = np.minimum(edges, len(senders) - 1)
        parts = _effects(w_dec, model.bare(), (edges, theirs), jnp.asarray(chosen), gain, count)
        found[layer] = LogitEffects(*map(np.asarray, parts))
    return found


@functools.partial(jax.jit, static_argnames="count")
def _effects(
    w_dec: jax.Array,
    model: LanguageModel,
    edges: tuple[jax.Array, jax.Array],
    features: jax.Array,
    gain: float,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    config, params = model.config, model.params
    if config.tied:
        unembed = params["embed"]["embedding"].astype(jnp.float32).T
    else:
        unembed = params["unembed"]["kernel"].astype(jnp.float32)
    scale = 1.0 if config.norm == "none" else norm_weight(params["norm_f"]["scale"], config)

    def one(feature: jax.Array) -> tuple[jax.Array, jax.Array]:
        write = edges[1] @ w_dec[edges[0], feature].astype(jnp.float32)
        if config.norm == "layer":
            write = write - write.mean()
        logits = (write * scale * gain) @ unembed
        logits = logits - logits.mean()
        best, high = jax.lax.top_k(logits, count)
        worst, low = jax.lax.top_k(-logits, count)
        return jnp.concatenate([high, low]), jnp.concatenate([best, -worst])

    tokens, values = jax.lax.map(one, features, batch_size=_CHUNK)
    return replicate((tokens.astype(jnp.int32), values), model.mesh)
