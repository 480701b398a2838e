"""Whether a transcoder computes as the MLPs do: their derivatives, compared.

A transcoder can reconstruct well on the text it was trained on and still get there by another
route; off that text it then goes elsewhere ("A Toy Model of Mechanistic (Un)Faithfulness", 2025).
Derivatives show the route: around a token, J v says what the outputs do when the input moves
along v.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_number
from hagd_jax.models import LanguageModel, mlp
from hagd_jax.models.arrays import require_key
from hagd_jax.transcoders.checks import require_pair
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import own_edges
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.params import Params
from hagd_jax.transcoders.transcoder import Transcoder, check_inputs

_ENCODER = ("W_enc", "b_enc", "threshold")


class JacobianMatch(struct.PyTreeNode):
    """A Jacobian match compares derivatives with the MLPs': 0 is equal, 1 no better than zero.

    Attributes:
        random: (L,) along Gaussian directions; NaN where the MLP does not respond at all.
        active: (L,) along differences between the inputs of two tokens.
    """

    random: Any
    active: Any

    __repr__ = one_line


def jacobian_match(
    transcoder: Transcoder, model: LanguageModel, x: Any, key: jax.Array, *, directions: int = 4
) -> JacobianMatch:
    """Measure the relative squared error of each layer's own derivative.

    E‖(J_tc − J_mlp) v‖² / E‖J_mlp v‖², over tokens and directions v. J_mlp is the derivative of
    the layer's MLP (with its norm, where features read the stream before it). J_tc is the path by
    which the layer's features act in the same layer, W_dec^{l→l} diag(active) W_enc^l + W_skip:
    what features of earlier layers write does not move with x_l, so that a layer which leaves its
    work to them shows. Directions are Gaussian, or active: the way from a token's input to
    another's, the moves that do occur.

    Args:
        transcoder: For this model.
        model: The model.
        x: (L, ..., D) at held-out tokens, values of the site that the transcoder reads: a trace's,
            without the tokens that shall not count.
        key: Of the directions.
        directions: Of each kind, a token.

    Returns:
        The `JacobianMatch`.

    Raises:
        ConfigError: If `directions` is not a whole number, 1 or more.
        InputError: If transcoder, model and `x` do not belong together, there are not two tokens
            to take differences of, or `key` is no PRNG key.

    Example:
        >>> from hagd_jax import models, transcoders
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> config = transcoders.TranscoderConfig(n_layers=1, d_model=12, n_features=24, k=4)
        >>> x = models.forward(model, [[1, 2, 3]], capture=["mlp_in"]).trace["mlp_in"]
        >>> untrained = transcoders.init(config, jax.random.key(1))  # it writes nothing yet
        >>> jacobian_match(untrained, model, x, jax.random.key(2)).active.tolist()
        [1.0]
    """
    require_pair(transcoder, model)
    require_key(key)
    require_number("directions", directions, least=1, whole=True)
    x = check_inputs(transcoder.config, x).astype(jnp.float32)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    if x.shape[1] < 2:
        raise InputError("x", got=f"{x.shape[1]} tokens", expected="2 or more")
    keys = jax.random.split(key, directions)
    return _match(transcoder.bare(), model.bare(), x, keys)


@jax.jit
def _match(
    transcoder: Transcoder, model: LanguageModel, x: jax.Array, keys: jax.Array
) -> JacobianMatch:
    config = transcoder.config
    truth = functools.partial(mlp, model, site=config.reads)

    def compare(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, expected = jax.jvp(truth, (x,), (v,))
        missed = own_tangent(transcoder.params, x, v, config) - expected
        return jnp.sum(missed**2, (1, 2)), jnp.sum(expected**2, (1, 2))

    def add(sums: Any, key: jax.Array) -> tuple[Any, None]:
        for_random, for_pairs = jax.random.split(key)
        found = compare(jax.random.normal(for_random, x.shape)), compare(_apart(x, for_pairs))
        return jax.tree.map(jnp.add, sums, found), None

    zero = jnp.zeros(config.n_layers)
    sums, _ = jax.lax.scan(add, ((zero, zero), (zero, zero)), keys)
    return JacobianMatch(*(missed / total for missed, total in sums))


def own_tangent(params: Params, x: jax.Array, v: jax.Array, config: TranscoderConfig) -> jax.Array:
    """Compute J_tc v, how a layer's own features change its output as its input moves along v.

    The features that are active at x stay so: J_tc = W_dec^{l→l} diag(active) W_enc^l + W_skip.

    Args:
        params: The transcoder's.
        x: (L, N, D) where the derivative is taken.
        v: (L, N, D) directions.
        config: The transcoder.

    Returns:
        (L, N, D), linear in v and differentiable in the parameters.
    """
    encoder = {name: params[name] for name in _ENCODER if name in params}

    def layer(inputs: tuple) -> jax.Array:
        encoder, w_dec, x, v = inputs
        # One layer is a stack of one.
        active = feat.encode(jax.tree.map(lambda p: p[None], encoder), x[None], config)[0] != 0
        return ((v @ encoder["W_enc"].T) * active) @ w_dec

    own = params["W_dec"][own_edges(config)]
    return jax.lax.map(layer, (encoder, own, x, v)) + feat.skip(params, v)


def _apart(x: jax.Array, key: jax.Array) -> jax.Array:
    """From each token's inputs to those of another, drawn evenly among the others."""
    count = x.shape[1]
    other = jnp.arange(count) + jax.random.randint(key, (count,), 1, count)
    return x[:, other % count] - x
