"""How well a transcoder stands in for the MLPs, on held-out text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.interventions import replace
from hagd_jax.models import (
    Context,
    DecoderConfig,
    Intervention,
    LanguageModel,
    forward,
    mlp,
    parts,
    scanned,
    shared,
)
from hagd_jax.parallel import constrain, replicate
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.measures.evaluation import Evaluation, summarise
from hagd_jax.transcoders.measures.faithfulness import own_tangent
from hagd_jax.transcoders.measures.held_out import TextBatch, encode_layer, placed
from hagd_jax.transcoders.replace import replace_mlps
from hagd_jax.transcoders.training.losses import some
from hagd_jax.transcoders.transcoder import Transcoder

_EVERY = 8  # derivatives are taken at one token in so many
_STREAMS = ("layers", "batch", "length", "trace_embed")


class Sums(struct.PyTreeNode):
    """Sums over one batch or several determine an evaluation, and add up.

    Attributes:
        weight: () Σw over tokens that count.
        mean: (L, D) mean MLP output, and
        spread: (L,) Σ w ‖y − mean‖² around it.
        missed: (L,) Σ w ‖y − ŷ‖².
        fired: (L, F) Σ w [f > 0].
        predicted: () Σw over predicted tokens.
        loss: (3,) summed cross-entropy of the model, of the model with all MLPs replaced, and of
            the model with all MLP outputs set to zero.
        layer_loss: (L, 2) the last two, one layer at a time; or None.
        tangent: (L, 2) Σ w ‖(J_transcoder − J_MLP) v‖² and Σ w ‖J_MLP v‖².
    """

    weight: Any
    mean: Any
    spread: Any
    missed: Any
    fired: Any
    predicted: Any
    loss: Any
    layer_loss: Any
    tangent: Any

    __repr__ = one_line

    def __add__(self, other: Sums) -> Sums:
        """Sums over both; the spreads meet at their common mean (Chan et al., 1979)."""
        both = jax.tree.map(np.add, self, other)
        share = other.weight / max(both.weight, 1e-30)
        apart = other.mean - self.mean
        between = self.weight * share * np.sum(apart**2, -1)
        return both.replace(mean=self.mean + share * apart, spread=both.spread + between)


def measure(
    transcoder: Transcoder,
    model: LanguageModel,
    batches: Iterable[TextBatch],
    *,
    each_layer: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure a transcoder on text that it was not trained on.

    - FVU of layer l: Σ w‖y − ŷ‖² / Σ w‖y − ȳ‖², with ȳ the mean over the evaluated tokens;
      1 − FVU is the explained variance. The model runs undisturbed.
    - Loss recovered: (CE₀ − CE_t) / (CE₀ − CE), with CE the model's cross-entropy of the next
      token, CE_t with every MLP replaced by the reconstruction that this disturbed pass itself
      computes, CE₀ with every MLP output zero. Where tokens weigh nothing (BOS, padding), all
      three passes keep the MLPs' own outputs.
    - Jacobian mismatch: as `jacobian_match` along a random direction a layer, at one token in 8.

    Args:
        transcoder: For this model.
        model: The model, on any mesh.
        batches: Held-out text, of any number of batches and rows. With `batch_topk` features of a
            token depend on its batch; other results do not depend on how text is batched.
        each_layer: Also measure the loss with one layer at a time replaced, and set to zero: 2L
            further passes.
        progress: Called with the number of batches done.

    Returns:
        The `Evaluation`.

    Raises:
        InputError: If the transcoder, the text and the model do not belong together, or there is
            no text.

    Example:
        >>> from hagd_jax import corpus, transcoders
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> config = transcoders.TranscoderConfig(n_layers=1, d_model=12, n_features=24, k=4)
        >>> transcoder = transcoders.init(config, jax.random.key(0))  # it writes nothing yet
        >>> text = corpus.corpus_of_tokens("pairs", np.array([[0, 1], [0, 2]]), model)
        >>> measure(transcoder, model, text.held_out_batches(1)).loss_recovered
        0.0
    """
    bare, plain = model.bare(), transcoder.bare()
    total = None
    for done, batch in enumerate(placed(transcoder, model, batches), start=1):
        part = _batch(plain, bare, batch.tokens, batch.weight, each_layer)
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
        total = part if total is None else total + part
        if progress is not None:
            progress(done)
    assert total is not None
    return summarise(total)


@functools.partial(jax.jit, static_argnames="each_layer")
def _batch(
    transcoder: Transcoder,
    model: LanguageModel,
    tokens: jax.Array,
    weight: jax.Array,
    each_layer: bool,
) -> Sums:
    sites = transcoder.config.reads, transcoder.config.target(model.config)
    out = forward(model, tokens, capture=sites)
    x, y = (out.trace[site].astype(jnp.float32) for site in sites)
    found, fired = reconstruct(transcoder, x, weight)
    total = weight.sum()
    mean = jnp.einsum("lbtd,bt->ld", y, weight) / jnp.maximum(total, 1e-30)
    loss, layer_loss = _losses(transcoder, model, tokens, weight, each_layer)
    here = functools.partial(some, length=tokens.shape[1], every=_EVERY)
    sums = Sums(
        weight=total,
        mean=mean,
        spread=jnp.einsum("lbt,bt->l", jnp.sum((y - mean[:, None, None]) ** 2, -1), weight),
        missed=jnp.einsum("lbt,bt->l", jnp.sum((y - found) ** 2, -1), weight),
        fired=fired,
        predicted=weight[:, 1:].sum(),
        loss=jnp.concatenate([next_token_loss(out.logits, tokens, weight)[None], loss]),
        layer_loss=layer_loss,
        tangent=_tangent(
            transcoder,
            model,
            here(x.reshape(len(x), -1, x.shape[-1])),
            here(weight.reshape(1, -1))[0],
        ),
    )
    return replicate(sums, model.mesh)


def _tangent(
    transcoder: Transcoder, model: LanguageModel, x: jax.Array, weight: jax.Array
) -> jax.Array:
    """(L, 2) squared errors and sizes of J v, v being the same for all tokens of a layer."""
    config = transcoder.config
    v = jax.random.normal(jax.random.key(0), (x.shape[0], 1, x.shape[-1]))
    v = jnp.broadcast_to(v, x.shape)
    own = functools.partial(mlp, model, site=config.reads, writes=config.writes)
    _, truth = jax.jvp(own, (x,), (v,))
    missed = own_tangent(transcoder.params, x, v, config) - truth
    return jnp.stack([jnp.sum(d**2, -1) @ weight for d in (missed, truth)], -1)


def reconstruct(
    transcoder: Transcoder, x: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reconstruct MLP outputs and count firing, holding one layer's features at a time.

    Args:
        transcoder: The transcoder.
        x: (L, B, T, D) what features read.
        weight: (B, T) of each token.

    Returns:
        (L, B, T, D) reconstructions, and (L, F) Σ w [f > 0].
    """
    config, params = transcoder.config, transcoder.params
    graph = layer_graph(config)

    def edge(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        features, fired, total = carry
        w_dec, sender, receiver = inputs

        def enter() -> tuple[jax.Array, jax.Array]:
            found = encode_layer(transcoder, x[sender], sender)
            active = jnp.einsum("btf,bt->f", (found > 0).astype(jnp.float32), weight)
            return found, fired.at[sender].set(active)

        # A layer's edges lie together, its own first: there its features are computed.
        features, fired = jax.lax.cond(sender == receiver, enter, lambda: (features, fired))
        part = features.astype(config.dtype) @ w_dec.astype(config.dtype)
        total = total.at[receiver].add(part.astype(jnp.float32))
        return (features, fired, constrain(total, _STREAMS, transcoder.mesh)), None

    features = jnp.zeros((*weight.shape, config.n_features), jnp.float32)
    features = constrain(features, ("batch", "length", "features"), transcoder.mesh)
    fired = jnp.zeros((config.n_layers, config.n_features), jnp.float32)
    total = jnp.broadcast_to(params["b_dec"][:, None, None], x.shape).astype(jnp.float32)
    total = constrain(total + feat.skip(params, x), _STREAMS, transcoder.mesh)
    edges = params["W_dec"], graph.senders, graph.receivers
    (_, fired, total), _ = jax.lax.scan(edge, (features, fired, total), edges)
    return total, fired


def next_token_loss(logits: jax.Array, tokens: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum the cross-entropy of tokens that count, each predicted from those before it.

    Args:
        logits: (B, T, V).
        tokens: (B, T).
        weight: (B, T) of each token as the one predicted; the first of a row is not.

    Returns:
        () in nats.
    """
    logits, target = logits[:, :-1], tokens[:, 1:, None]
    right = jnp.take_along_axis(logits, target, -1)[..., 0]
    return jnp.sum((jax.nn.logsumexp(logits, -1) - right) * weight[:, 1:])


@struct.dataclass
class Within(Intervention):
    """Restrict another intervention to some layers and positions.

    Attributes:
        inner: Rewrites values of shape (B, T, ...).
        layers: (L,) bool, for the block sites.
        positions: (B, T) bool.
    """

    inner: Any = parts()
    layers: Any = scanned()
    positions: Any = shared()

    @property
    def sites(self) -> frozenset[str]:
        """Return the sites of the inner intervention."""
        return self.inner.sites

    def apply(self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, Within]:
        """Apply the inner intervention where it may act; its state advances everywhere."""
        new, inner = self.inner.apply(site, value, ctx)
        here = self.positions[..., *[None] * (value.ndim - 2)]
        # Outside the blocks `layers` is still the whole array.
        here = here & self.layers if jnp.ndim(self.layers) == 0 else here
        return jnp.where(here, new, value), self.replace(inner=inner)  # type: ignore[attr-defined]

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Validate the inner intervention."""
        self.inner.validate(config, tokens_shape)


def _losses(
    transcoder: Transcoder,
    model: LanguageModel,
    tokens: jax.Array,
    weight: jax.Array,
    each_layer: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """(2,) loss with all MLPs replaced and with none; (L, 2) with one at a time, if asked for."""

    def losses(layers: jax.Array) -> jax.Array:
        found = [
            forward(model, tokens, Within(inner, layers, weight > 0)).logits
            for inner in (replace_mlps(transcoder), replace("mlp_out", 0.0))
        ]
        return jnp.stack([next_token_loss(logits, tokens, weight) for logits in found])

    count = transcoder.config.n_layers
    layers = jnp.ones((1, count), bool)
    if each_layer:
        layers = jnp.concatenate([layers, jnp.eye(count, dtype=bool)])
    # One after the other inside one program.
    found = jax.lax.map(losses, layers)
    return found[0], found[1:] if each_layer else None
