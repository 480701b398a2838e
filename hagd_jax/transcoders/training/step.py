"""One training step of a transcoder: model forward, activations of all layers, update."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hagd_jax.models import LanguageModel, forward, mlp
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.params import Params
from hagd_jax.transcoders.replace import replace_mlps
from hagd_jax.transcoders.training import optimizer
from hagd_jax.transcoders.training.activations import activations
from hagd_jax.transcoders.training.losses import Observed, Terms, by_rows, some, terms
from hagd_jax.transcoders.training.normalise import Normalisation, fold
from hagd_jax.transcoders.training.state import Metrics, TrainState
from hagd_jax.transcoders.training.train_config import TrainConfig
from hagd_jax.transcoders.transcoder import Transcoder

# How slowly the fixed threshold follows the batches' own, for `batch_topk`.
THRESHOLD_MEMORY = 0.99


@functools.partial(
    jax.jit, static_argnames=("config", "train", "steps", "through"), donate_argnames=("state",)
)
def step(
    state: TrainState,
    model: LanguageModel,
    tokens: jax.Array,
    weight: jax.Array,
    *,
    config: TranscoderConfig,
    train: TrainConfig,
    steps: int,
    through: bool = False,
) -> tuple[TrainState, Metrics]:
    """Update a transcoder on one batch; compiled once.

    Args:
        state: Before; its memory is reused.
        model: Whose MLPs are imitated, without tokenizer and name (`model.bare()`), on its mesh.
        tokens: (B, T) ids.
        weight: (B, T) float32, 1 for tokens that count, 0 for BOS and padding.
        config: The transcoder.
        train: How it is trained.
        steps: Of the whole training, for the schedule.
        through: Add the KL divergence of the model's predictions with all MLPs replaced.

    Returns:
        The state after, and what the batch said. A step that met NaN or infinity changes nothing.
    """
    key = jax.random.fold_in(state.key, state.step)
    dead = state.unfired > train.loss.dead_after
    gradient = functools.partial(
        _gradient, state, model, dead, config=config, train=train, through=through
    )
    batch = _Batch(tokens, weight, key)
    if train.accumulate == 1:
        grads, found = gradient(batch)
    else:
        grads, found = _accumulated(gradient, batch, train.accumulate)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(found.loss)
    params, opt_state = optimizer.update(
        state.params, state.opt_state, grads, finite, train=train, steps=steps
    )
    moved = {
        "step": state.step + 1,
        "unfired": _since(state.unfired, found.fired, weight),
        "threshold": _follow(state.threshold, found.smallest),
    }
    # The optimizer holds parameters and moments back by itself, without copies of them.
    held = {name: jnp.where(finite, new, getattr(state, name)) for name, new in moved.items()}
    state = state.replace(params=params, opt_state=opt_state, **held)
    return state, Metrics(found, norm, finite, dead.mean(-1))


class _Batch(NamedTuple):
    """Tokens (B, T), their weight (B, T), and the key of random directions."""

    tokens: jax.Array
    weight: jax.Array
    key: jax.Array


def _gradient(
    state: TrainState,
    model: LanguageModel,
    dead: jax.Array,
    batch: _Batch,
    *,
    config: TranscoderConfig,
    train: TrainConfig,
    through: bool,
) -> tuple[Params, Terms]:
    observed = _observe(state.stats, model, batch, config, train)

    def gradient(dead: jax.Array | None) -> tuple[Params, Terms]:
        def loss(params: Params) -> tuple[jax.Array, Terms]:
            found = terms(params, observed, dead, config=config, loss=train.loss, mesh=model.mesh)
            return found.loss, found

        return jax.grad(loss, has_aux=True)(state.params)

    if by_rows(config, model.mesh):
        # While nothing is dead, its term would cost as much as the reconstruction's. Elsewhere
        # memory counts more, and a conditional takes the size of the gradients twice.
        grads, found = jax.lax.cond(dead.any(), lambda: gradient(dead), lambda: gradient(None))
    else:
        grads, found = gradient(dead)
    if through:
        kl, more = jax.value_and_grad(_divergence)(state.params, state.stats, model, batch, config)
        grads = jax.tree.map(jnp.add, grads, more)
        found = found.replace(loss=found.loss + kl, parts=found.parts | {"kl": kl})
    return grads, found


def _observe(
    stats: Normalisation,
    model: LanguageModel,
    batch: _Batch,
    config: TranscoderConfig,
    train: TrainConfig,
) -> Observed:
    x, y = activations(model, batch.tokens, config)
    x, y = jax.lax.stop_gradient((stats.inputs(x), stats.outputs(y)))
    directions = None
    if train.loss.jacobian:
        here = some(x, length=batch.tokens.shape[1], every=train.loss.jacobian_every)
        directions = _directions(stats, model, here, batch.key, config)
    return Observed(x, y, batch.weight, directions)


def _divergence(
    params: Params,
    stats: Normalisation,
    model: LanguageModel,
    batch: _Batch,
    config: TranscoderConfig,
) -> jax.Array:
    """Mean KL(model ‖ model with its MLPs replaced) of the next token, in nats."""
    transcoder = Transcoder(fold(params, stats, config), config, model.mesh)
    target = jax.nn.log_softmax(forward(model, batch.tokens).logits)
    replaced = forward(model, batch.tokens, replace_mlps(transcoder), remat=True)
    found = jax.nn.log_softmax(replaced.logits)
    kl = jnp.sum(jnp.exp(target) * (target - found), -1)
    return jnp.sum(kl * batch.weight) / jnp.maximum(batch.weight.sum(), 1)


def _accumulated(gradient: Any, batch: _Batch, parts: int) -> tuple[Params, Terms]:
    """The mean over parts of a batch, each weighed by its tokens."""
    # Rows i, i + parts, ...: each part has its share of every device's rows.
    tokens, weight = (
        value.reshape(-1, parts, *value.shape[1:]).swapaxes(0, 1) for value in batch[:2]
    )
    split = _Batch(tokens, weight, jax.random.split(batch.key, parts))

    def add(total: Any, part: _Batch) -> tuple[Any, None]:
        grads, found = gradient(part)
        share = part.weight.sum()
        # A part in which no feature of a layer fires has no smallest activation there.
        heard = jnp.where(jnp.isfinite(found.smallest), share, 0)
        smallest = heard * jnp.where(heard > 0, found.smallest, 0)
        rest = grads, found.replace(smallest=None)
        rest = jax.tree.map(lambda t, f: t + share * f, total[0], rest)
        return (rest, total[1] + smallest, total[2] + heard), None

    shapes = jax.eval_shape(gradient, jax.tree.map(lambda value: value[0], split))
    smallest = jnp.zeros(shapes[1].smallest.shape)
    rest = shapes[0], shapes[1].replace(smallest=None)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), rest), smallest, smallest
    total, _ = jax.lax.scan(add, zeros, split)
    grads, found = jax.tree.map(lambda t: t / jnp.maximum(batch.weight.sum(), 1), total[0])
    smallest = jnp.where(total[2] > 0, total[1] / total[2], jnp.inf)
    return grads, found.replace(smallest=smallest)


def _since(unfired: jax.Array, fired: jax.Array, weight: jax.Array) -> jax.Array:
    """Tokens since each feature last fired; the count stops at the largest number there is."""
    seen = weight.sum().astype(jnp.int32)
    return jnp.where(fired > 0, 0, jnp.minimum(unfired, jnp.iinfo(jnp.int32).max - seen) + seen)


def _follow(threshold: jax.Array, smallest: jax.Array) -> jax.Array:
    """The running mean of the smallest activation kept, a layer.

    It begins with the first batch in which a feature of the layer fires, and a batch in which none
    does (there is no smallest activation: infinity) leaves it alone.
    """
    memory = jnp.where(threshold == 0, 0.0, THRESHOLD_MEMORY)
    followed = memory * threshold + (1 - memory) * smallest
    return jnp.where(jnp.isfinite(smallest), followed, threshold)


def _directions(
    stats: Normalisation,
    model: LanguageModel,
    x: jax.Array,
    key: jax.Array,
    config: TranscoderConfig,
) -> tuple[jax.Array, jax.Array]:
    """Random v, and J_MLP v, both in normalised units."""
    v = jax.random.normal(key, x.shape)
    scale_in, scale_out = stats.in_scale[:, None, None], stats.out_scale[:, None, None]
    raw = x * scale_in + stats.in_mean[:, None]
    _, moved = jax.jvp(
        lambda x: mlp(model, x, site=config.reads, writes=config.writes), (raw,), (v * scale_in,)
    )
    return v, moved / scale_out
