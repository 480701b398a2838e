"""One training step of a transcoder: model forward, activations of all layers, update."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hagd_jax.errors import ConfigError
from hagd_jax.models import DecoderConfig, LanguageModel, forward, mlp
from hagd_jax.parallel import constrain
from hagd_jax.transcoders.config import Activation, Reads, TranscoderConfig
from hagd_jax.transcoders.losses import LossConfig, Terms, terms
from hagd_jax.transcoders.normalise import Moments, Normalisation, fold
from hagd_jax.transcoders.replace import replace_mlps
from hagd_jax.transcoders.transcoder import Params, Transcoder, init

# How slowly the fixed threshold follows the batches' own, for `batch_topk`.
THRESHOLD_MEMORY = 0.99


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a transcoder looks like and how it is trained.

    Attributes:
        features: Features a layer: a number ("4608") or a multiple of d_model ("8x").
        k: Active features a token, for `topk` and `batch_topk`.
        activation: See `TranscoderConfig`.
        window: How many later layers a feature writes to; −1 for all of them.
        reads: Site of the features' input.
        skip: Whether a linear map of the input is added.
        tokens: How many to train on.
        batch_size: Sequences a step.
        accumulate: Parts a step is computed in, one after the other, to save memory.
        learning_rate: Adam's, at its height.
        warmup: Share of the steps over which it rises.
        decay: Share of the steps, at the end, over which it falls to nothing.
        clip: Largest norm of the gradient.
        estimate: Batches from which means and scales are estimated before training.
        through: Share of the steps, at the end, that train through the model: the KL divergence
            of its predictions with all MLPs replaced is added to the loss.
        dtype: Of the products; parameters and their moments are float32.
        seed: Of the initial weights, the order of the data and random directions.
        loss: Weights of the terms beside the reconstruction error.

    Raises:
        ConfigError: If a number is impossible.
    """

    features: str = "8x"
    k: int = 32
    activation: Activation = "topk"
    window: int = 0
    reads: Reads = "mlp_in"
    skip: bool = False
    tokens: int = 1_000_000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: float = 0.05
    decay: float = 0.2
    clip: float = 1.0
    estimate: int = 8
    through: float = 0.0
    dtype: str = "float32"
    seed: int = 0
    loss: LossConfig = LossConfig()

    def __post_init__(self):
        for field in ("tokens", "batch_size", "accumulate", "estimate"):
            if not getattr(self, field) >= 1:
                raise ConfigError(field, got=getattr(self, field), expected="1 or more")
        for field in ("learning_rate", "clip"):
            if not getattr(self, field) > 0:
                raise ConfigError(field, got=getattr(self, field), expected="more than 0")
        for field in ("warmup", "decay", "through"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(field, got=getattr(self, field), expected="a share, 0 to 1")
        if self.warmup + self.decay > 1:
            raise ConfigError("warmup + decay", got=self.warmup + self.decay, expected="at most 1")
        if self.seed < 0:
            raise ConfigError("seed", got=self.seed, expected="0 or more")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                "accumulate", got=self.accumulate, expected=f"a divisor of {self.batch_size}"
            )

    def transcoder(self, model: DecoderConfig) -> TranscoderConfig:
        """The transcoder asked for, of a model.

        Raises:
            ConfigError: If it does not fit the model, or `features` is not of its form.
        """
        text = str(self.features).strip().lower()
        try:
            times = text.endswith("x")
            count = round(float(text[:-1]) * model.d_model) if times else int(text)
        except (ValueError, OverflowError):
            count = 0
        if count < 1:
            raise ConfigError(
                "features", got=repr(self.features), expected='a number, or a multiple like "8x"'
            )
        return TranscoderConfig(
            n_layers=model.n_layers,
            d_model=model.d_model,
            n_features=count,
            activation=self.activation,
            k=self.k if self.activation in ("topk", "batch_topk") else 0,
            window=None if self.window == -1 else self.window,
            reads=self.reads,
            skip=self.skip,
            predict=self.loss.predict > 0,
            dtype=self.dtype,
        )

    def steps(self, length: int) -> int:
        """Steps of sequences of `length` tokens."""
        return max(1, self.tokens // (self.batch_size * length))


class TrainState(struct.PyTreeNode):
    """Everything that a step changes; a checkpoint of it continues bit for bit.

    Attributes:
        params: The transcoder's, on normalised activations.
        opt_state: Adam's moments.
        stats: How activations are normalised.
        step: () int32 steps done.
        key: Of what is random in a step.
        unfired: (L, F) int32 tokens since each feature last fired.
        threshold: (L,) what stands in for `batch_topk` after training.
    """

    params: Params
    opt_state: Any
    stats: Normalisation
    step: jax.Array
    key: jax.Array
    unfired: jax.Array
    threshold: jax.Array


@struct.dataclass
class Metrics:
    """What a step reports.

    Attributes:
        terms: Of the loss, before the update.
        norm: () of the gradient, before clipping.
        finite: () whether all was finite; if not, the update was left out.
        dead: (L,) share of features that are dead.
    """

    terms: Terms
    norm: jax.Array
    finite: jax.Array
    dead: jax.Array


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, then Adam with a rate that rises, stays, and falls to nothing.

    Args:
        config: Rates.
        steps: Of the whole training.

    Returns:
        The transformation.
    """
    warmup, decay = (max(1, round(share * steps)) for share in (config.warmup, config.decay))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(
                config.learning_rate / warmup, config.learning_rate, max(1, warmup - 1)
            ),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, decay),
        ],
        [warmup, max(warmup, steps - decay)],
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))


def init_state(
    config: TranscoderConfig,
    train: TrainConfig,
    stats: Normalisation,
    *,
    steps: int,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        config: The transcoder.
        train: Seed and rates.
        stats: From `moments` of some batches.
        steps: Of the whole training.
        mesh: Devices to spread it over, or None.

    Returns:
        The state; optimizer moments lie as their parameters do.
    """
    init_key, key = jax.random.split(jax.random.key(train.seed))
    params = init(config, init_key, mesh=mesh).params
    shape = (config.n_layers, config.n_features)
    unfired = constrain(jnp.zeros(shape, jnp.int32), ("layers", "features"), mesh)
    opt_state = jax.jit(optimizer(train, steps).init)(params)
    threshold = jnp.zeros(config.n_layers)
    return TrainState(params, opt_state, stats, jnp.int32(0), key, unfired, threshold)


@functools.partial(jax.jit, static_argnames=("config",))
def moments(
    model: LanguageModel, tokens: jax.Array, weight: jax.Array, *, config: TranscoderConfig
) -> Moments:
    """Sums from one batch, to normalise by.

    Args:
        model: Whose activations.
        tokens: (B, T).
        weight: (B, T) 1 for tokens that count.
        config: Which sites.

    Returns:
        The sums.
    """
    return Moments.of(*activations(model, tokens, config), weight.reshape(-1))


def activations(
    model: LanguageModel, tokens: jax.Array, config: TranscoderConfig
) -> tuple[jax.Array, jax.Array]:
    """What features read and what MLPs write, of all layers in one pass.

    Args:
        model: The model.
        tokens: (B, T).
        config: Which site is read.

    Returns:
        x and y, (L, B · T, D) float32.
    """
    # Nobody reads the logits, so the compiler leaves the unembedding out.
    trace = forward(model, tokens, capture=(config.reads, "mlp_out")).trace
    flat = (config.n_layers, -1, config.d_model)
    x, y = trace[config.reads], trace["mlp_out"]
    return x.reshape(flat).astype(jnp.float32), y.reshape(flat).astype(jnp.float32)


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
    if train.accumulate == 1:
        grads, found = gradient(tokens, weight, key)
    else:
        grads, found = _accumulated(gradient, tokens, weight, key, train.accumulate)
    updates, opt_state = optimizer(train, steps).update(grads, state.opt_state, state.params)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(found.loss)
    updated = optax.apply_updates(state.params, updates), opt_state
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), updated, (state.params, state.opt_state)
    )
    seen = weight.sum().astype(jnp.int32)
    state = state.replace(
        params=params,
        opt_state=opt_state,
        step=state.step + 1,
        unfired=jnp.where(found.fired > 0, 0, state.unfired + seen),
        threshold=_follow(state, found),
    )
    return state, Metrics(found, norm, finite, dead.mean(-1))


def _gradient(
    state: TrainState,
    model: LanguageModel,
    dead: jax.Array,
    tokens: jax.Array,
    weight: jax.Array,
    key: jax.Array,
    *,
    config: TranscoderConfig,
    train: TrainConfig,
    through: bool,
) -> tuple[Params, Terms]:
    x, y = activations(model, tokens, config)
    x, y = jax.lax.stop_gradient((state.stats.inputs(x), state.stats.outputs(y)))
    directions = None
    if train.loss.jacobian:
        directions = _directions(state.stats, model, x, key, config)

    def loss(params: Params) -> tuple[jax.Array, Terms]:
        found = terms(
            params, x, y, weight.reshape(-1), dead, directions,
            config=config, loss=train.loss, mesh=model.mesh,
        )  # fmt: skip
        if through:
            kl = _divergence(params, state.stats, model, tokens, weight, config)
            found = found.replace(loss=found.loss + kl, parts=found.parts | {"kl": kl})
        return found.loss, found

    grads, found = jax.grad(loss, has_aux=True)(state.params)
    return grads, found


def _divergence(
    params: Params,
    stats: Normalisation,
    model: LanguageModel,
    tokens: jax.Array,
    weight: jax.Array,
    config: TranscoderConfig,
) -> jax.Array:
    """Mean KL(model ‖ model with its MLPs replaced) of the next token, in nats."""
    transcoder = Transcoder(fold(params, stats, config), config, model.mesh)
    target = jax.nn.log_softmax(forward(model, tokens).logits)
    found = jax.nn.log_softmax(forward(model, tokens, replace_mlps(transcoder), remat=True).logits)
    kl = jnp.sum(jnp.exp(target) * (target - found), -1)
    return jnp.sum(kl * weight) / jnp.maximum(weight.sum(), 1)


def _accumulated(
    gradient: Any, tokens: jax.Array, weight: jax.Array, key: jax.Array, parts: int
) -> tuple[Params, Terms]:
    """The mean over parts of a batch, each weighed by its tokens."""
    # Rows i, i + parts, ...: each part has its share of every device's rows.
    split = tuple(
        value.reshape(-1, parts, *value.shape[1:]).swapaxes(0, 1) for value in (tokens, weight)
    )

    def add(total: Any, part: tuple) -> tuple[Any, None]:
        tokens, weight, key = part
        found = gradient(tokens, weight, key)
        share = weight.sum()
        return jax.tree.map(lambda t, f: t + share * f, total, found), None

    shapes = jax.eval_shape(gradient, split[0][0], split[1][0], key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (*split, jax.random.split(key, parts)))
    grads, found = jax.tree.map(lambda t: t / jnp.maximum(weight.sum(), 1), total)
    return grads, found


def _follow(state: TrainState, found: Terms) -> jax.Array:
    """The running mean of the smallest activation kept, a layer."""
    memory = jnp.where(state.step == 0, 0.0, THRESHOLD_MEMORY)
    return memory * state.threshold + (1 - memory) * found.smallest


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
    _, moved = jax.jvp(lambda x: mlp(model, x, site=config.reads), (raw,), (v * scale_in,))
    return v, moved / scale_out


def finish(
    state: TrainState,
    config: TranscoderConfig,
    *,
    mesh: jax.sharding.Mesh | None = None,
    name: str = "trained",
) -> Transcoder:
    """The transcoder of a state, reading and writing activations as they are.

    Args:
        state: Any state of its training.
        config: The transcoder.
        mesh: Where its parameters lie.
        name: Kept with it.

    Returns:
        The transcoder; `batch_topk` becomes `jump_relu` with one threshold a layer.
    """
    params = jax.jit(fold, static_argnames="config")(state.params, state.stats, config)
    if config.activation == "batch_topk":
        shape = (config.n_layers, config.n_features)
        params |= {"threshold": jnp.broadcast_to(state.threshold[:, None], shape)}
        config = config.replace(activation="jump_relu", k=0)
    return Transcoder(params, config, mesh, name)
