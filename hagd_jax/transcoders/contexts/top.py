"""Where in held-out text each feature fires most strongly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError, InputError, require_number, shown
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import constrain, replicate
from hagd_jax.transcoders.checks import require_pair
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.contexts.context import Contexts, LayerContexts
from hagd_jax.transcoders.digest import digest
from hagd_jax.transcoders.measures.effects import logit_effects
from hagd_jax.transcoders.measures.held_out import (
    Placed,
    Selection,
    TextBatch,
    encode_layer,
    followed_features,
    placed,
)
from hagd_jax.transcoders.transcoder import Transcoder


class Ranking(struct.PyTreeNode):
    """A ranking holds the strongest contexts so far, and counts of firing; layers lead.

    Attributes:
        value: (L, M, n) activations at their peaks, falling; 0 fills up.
        row: (L, M, n) int32 sequence of each.
        position: (L, M, n) int32 place of the peak in it.
        nearby: (L, M, n, W) float16 activations around the peak, as shares of it.
        fired: (L, F) Σ w [f > 0].
        largest: (L, F) largest activation.
    """

    value: Any
    row: Any
    position: Any
    nearby: Any
    fired: Any
    largest: Any

    __repr__ = one_line


def top_contexts(
    transcoder: Transcoder,
    model: LanguageModel,
    batches: Iterable[TextBatch],
    *,
    per_feature: int = 10,
    window: tuple[int, int] = (24, 7),
    features: Selection | None = None,
    effects: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Contexts:
    """Find the sequences in which each feature is most active.

    All features of all layers are followed together, on the devices: a sequence's largest
    activation of each feature joins the feature's n best so far. A sequence gives one context, so
    that they differ. Equal activations: the earlier sequence, the earlier position.

    Args:
        transcoder: For this model.
        model: The model, on any mesh.
        batches: Held-out text in sequences of one length; how it is batched changes nothing.
        per_feature: Contexts to keep of each feature, n.
        window: Tokens to keep activations of, before and after the peak.
        features: Layer → features to follow; all of them if None. Densities and largest
            activations are kept of every feature in any case.
        effects: Output tokens to list that each feature writes for and against, see
            `logit_effects`; 0 for none. It takes as long as the unembedding of L · F tokens.
        progress: Called with the number of batches done.

    Returns:
        The contexts, on the host.

    Raises:
        ConfigError: If a number is impossible, or `logit_effects` does not know the model's final
            norm or soft cap.
        InputError: If a feature does not exist, the sequences differ in length, or transcoder,
            text and model do not belong together.

    Example:
        >>> from hagd_jax import corpus, transcoders
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> config = transcoders.TranscoderConfig(n_layers=1, d_model=12, n_features=24, k=4)
        >>> transcoder = transcoders.init(config, jax.random.key(0))
        >>> text = corpus.corpus_of_tokens("pairs", np.array([[0, 1], [0, 2]]), model)
        >>> found = top_contexts(transcoder, model, text.held_out_batches(1))
        >>> found.feature(0, 4).contexts[0]
        TopContext(tokens=int32[2], activations=float32[2], firing=0, row=0, position=0)
    """
    require_pair(transcoder, model)
    _check(per_feature, window, effects, model.config.vocab_size)
    window = window[0], window[1]
    followed = followed_features(features, transcoder.config)
    columns = _columns(followed, transcoder.config)
    best, gain, texts, first = None, 0.0, [], 0
    for done, batch in enumerate(placed(transcoder, model, batches), start=1):
        _check_length(texts, batch)
        if best is None:
            best = _nothing(transcoder, columns, per_feature, sum(window) + 1)
        best, more = _join(transcoder.bare(), model.bare(), best, batch[:2], first, columns, window)
        texts.append(batch.host)
        gain, first = gain + more, first + len(batch.host[0])
        if progress is not None:
            progress(done)
    assert best is not None
    found = _gathered(transcoder, model, best, texts, followed, window)
    if effects:
        gain = float(gain) / float(found.weight.sum())
        listed = logit_effects(transcoder, model, features=features, count=effects, gain=gain)
        found = found.with_effects(listed)
    return found


@functools.partial(jax.jit, static_argnames="window", donate_argnames="best")
def _join(
    transcoder: Transcoder,
    model: LanguageModel,
    best: Ranking,
    text: tuple[jax.Array, jax.Array],
    first: Any,
    columns: jax.Array | None,
    window: tuple[int, int],
) -> tuple[Ranking, jax.Array]:
    """The best of what was found before and of one batch, whose rows are numbered from `first`.

    Also Σ w of one over what the final norm divides by.
    """
    tokens, weight = text
    reads = transcoder.config.reads
    trace = forward(model, tokens, capture=(reads, "normf_scale")).trace

    def layer(_: None, inputs: tuple) -> tuple[None, Ranking]:
        best, x, columns, index = inputs
        found = jnp.where(weight[..., None] > 0, encode_layer(transcoder, x, index), 0)
        fired = jnp.einsum("btf,bt->f", (found > 0).astype(jnp.float32), weight)
        largest = jnp.maximum(best.largest, found.max((0, 1)))
        followed = found if columns is None else found[..., columns]
        merged = _merge(best, followed, first, window)
        return None, merged.replace(fired=best.fired + fired, largest=largest)

    layers = jnp.arange(len(trace[reads]))
    _, best = jax.lax.scan(layer, None, (best, trace[reads], columns, layers))
    gain = jnp.sum(weight / trace["normf_scale"][..., 0].astype(jnp.float32))
    return best, replicate(gain, model.mesh)


def _merge(best: Ranking, found: jax.Array, first: Any, window: tuple[int, int]) -> Ranking:
    """One layer: found is (B, T, M)."""
    rows, length, count = found.shape
    peak = found.max(1)
    # As `argmax`, which is several times slower on CPU: it does not vectorise.
    places = jnp.arange(length, dtype=jnp.int32)[:, None]
    position = jnp.where(found == peak[:, None], places, length).min(1)
    around = position[:, None] + jnp.arange(-window[0], window[1] + 1)[:, None]
    nearby = jnp.take_along_axis(found, jnp.clip(around, 0, length - 1), 1)
    inside = (around >= 0) & (around < length) & (peak > 0)[:, None]
    nearby = jnp.where(inside, nearby / jnp.where(peak > 0, peak, 1)[:, None], 0)
    row = first + jnp.arange(rows, dtype=jnp.int32)[:, None]
    new = (peak.T, jnp.broadcast_to(row, (rows, count)).T, position.T)
    old = (best.value, best.row, best.position)
    value, row, position = (jnp.concatenate(pair, 1) for pair in zip(old, new, strict=True))
    # Equal values keep their order, and earlier sequences stand first.
    value, order = jax.lax.top_k(value, best.value.shape[1])
    row, position = (jnp.take_along_axis(x, order, 1) for x in (row, position))
    nearby = nearby.transpose(2, 0, 1).astype(jnp.float16)
    nearby = jnp.concatenate([best.nearby, nearby], 1)
    nearby = jnp.take_along_axis(nearby, order[..., None], 1)
    return best.replace(value=value, row=row, position=position, nearby=nearby)


def _nothing(
    transcoder: Transcoder, columns: jax.Array | None, per_feature: int, width: int
) -> Ranking:
    """Before any text: every feature's contexts are empty, laid out as the features are."""
    config, mesh = transcoder.config, transcoder.mesh
    count = config.n_features if columns is None else columns.shape[1]
    ranked = (config.n_layers, count, per_feature)
    every = (config.n_layers, config.n_features)

    def make() -> Ranking:
        made = Ranking(
            value=jnp.zeros(ranked),
            row=jnp.zeros(ranked, jnp.int32),
            position=jnp.zeros(ranked, jnp.int32),
            nearby=jnp.zeros((*ranked, width), jnp.float16),
            fired=jnp.zeros(every),
            largest=jnp.zeros(every),
        )
        lay = lambda x: constrain(x, ("layers", "features", *[None] * (x.ndim - 2)), mesh)  # noqa: E731
        return jax.tree.map(lay, made)

    return jax.jit(make)()


def _gathered(
    transcoder: Transcoder,
    model: LanguageModel,
    best: Ranking,
    texts: list[tuple[np.ndarray, np.ndarray]],
    followed: dict[int, np.ndarray],
    window: tuple[int, int],
) -> Contexts:
    fetch = jax.jit(lambda x: replicate(x, transcoder.mesh))
    layers = {}
    for layer, features in followed.items():
        # One layer at a time: on the devices the whole may be spread over all of them.
        one = jax.tree.map(lambda x, at=layer: np.asarray(fetch(x[at])), best)
        kept = slice(0, len(features))
        empty = one.value[kept] <= 0
        layers[layer] = LayerContexts(
            features=features,
            value=one.value[kept],
            row=np.where(empty, -1, one.row[kept]),
            position=np.where(empty, -1, one.position[kept]),
            nearby=one.nearby[kept],
        )
    tokens, weight = (np.concatenate(parts) for parts in zip(*texts, strict=True))
    return Contexts(
        model=model.name,
        transcoder=transcoder.name,
        digest=digest(transcoder),
        window=window,
        tokens=tokens,
        weight=weight,
        fired=np.asarray(fetch(best.fired)),
        largest=np.asarray(fetch(best.largest)),
        layers=layers,
    )


def _columns(followed: dict[int, np.ndarray], config: TranscoderConfig) -> jax.Array | None:
    """(L, M) columns to follow in each layer; filled up with feature 0, which is dropped later."""
    most = max(map(len, followed.values()))
    if most == config.n_features:
        return None
    columns = np.zeros((config.n_layers, most), np.int32)
    for layer, indices in followed.items():
        columns[layer, : len(indices)] = indices
    return jnp.asarray(columns)


def _check(per_feature: int, window: tuple[int, int], effects: int, vocab_size: int) -> None:
    require_number("per_feature", per_feature, least=1, whole=True)
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise ConfigError("window", got=shown(window), expected="tokens before and after a peak")
    for side in window:
        require_number("window", side, least=0, whole=True)
    require_number("effects", effects, least=0, most=vocab_size, whole=True)


def _check_length(texts: list[tuple[np.ndarray, np.ndarray]], batch: Placed) -> None:
    lengths = {tokens.shape[1] for tokens, _ in (*texts[:1], batch.host)}
    if len(lengths) > 1:
        raise InputError(
            "held-out text", got=f"sequences of {sorted(lengths)} tokens", expected="one length"
        )
