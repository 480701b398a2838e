"""What a training carries from step to step, and the transcoder that comes of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.parallel import constrain
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.params import Params
from hagd_jax.transcoders.training import optimizer
from hagd_jax.transcoders.training.losses import Terms
from hagd_jax.transcoders.training.normalise import Normalisation, fold
from hagd_jax.transcoders.training.train_config import TrainConfig
from hagd_jax.transcoders.transcoder import Transcoder, init


class TrainState(struct.PyTreeNode):
    """The state holds everything that a step changes; checkpoints of it resume bit for bit.

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

    __repr__ = one_line


@struct.dataclass
class Metrics:
    """Metrics are what a step reports.

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

    __repr__ = one_line


def init_state(
    config: TranscoderConfig,
    train: TrainConfig,
    stats: Normalisation,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
    """Make the state before the first step.

    Args:
        config: The transcoder.
        train: Seed.
        stats: From `moments` of some batches.
        mesh: Devices to spread it over, or None.

    Returns:
        The state; optimizer moments lie as their parameters do.
    """
    init_key, key = jax.random.split(jax.random.key(train.seed))
    params = init(config, init_key, mesh=mesh).params
    shape = (config.n_layers, config.n_features)
    unfired = constrain(jnp.zeros(shape, jnp.int32), ("layers", "features"), mesh)
    opt_state = jax.jit(optimizer.init)(params)
    threshold = jnp.zeros(config.n_layers)
    return TrainState(params, opt_state, stats, jnp.int32(0), key, unfired, threshold)


def finish(
    state: TrainState,
    config: TranscoderConfig,
    *,
    mesh: jax.sharding.Mesh | None = None,
    name: str = "trained",
) -> Transcoder:
    """Make the transcoder of a state, for raw activations.

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
