"""Means and scales of activations: estimated before training, folded into the weights after."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.params import Params

LONG = 10.0
# So often is the expectation taken again; the second time already, outliers hardly count.
_ROUNDS = 3


@struct.dataclass
class Normalisation:
    """A normalisation is x̂ = (x − mean) / scale, with one scale per layer: E‖x̂‖² = D.

    In that expectation no square counts more than `LONG` times as much as the expectation itself.
    The few tokens on which a model parks its attention can be hundreds of times as long as all
    others, which would otherwise be next to nothing in the units that such a token sets.

    Attributes:
        in_mean: (L, D) of what features read.
        in_scale: (L,).
        out_mean: (L, D) of MLP outputs.
        out_scale: (L,).
    """

    in_mean: jax.Array
    in_scale: jax.Array
    out_mean: jax.Array
    out_scale: jax.Array

    __repr__ = one_line

    @classmethod
    def identity(cls, config: TranscoderConfig) -> Normalisation:
        """Return means of zero and scales of one."""
        shape = (config.n_layers, config.d_model)
        # Arrays of their own each: a step donates them.
        means, scales = (
            (jnp.zeros(shape), jnp.zeros(shape)),
            (jnp.ones(shape[0]), jnp.ones(shape[0])),
        )
        return cls(means[0], scales[0], means[1], scales[1])

    def inputs(self, x: jax.Array) -> jax.Array:
        """Normalise what features read, (L, N, D)."""
        return (x - self.in_mean[:, None]) / self.in_scale[:, None, None]

    def outputs(self, y: jax.Array) -> jax.Array:
        """Normalise MLP outputs, (L, N, D)."""
        return (y - self.out_mean[:, None]) / self.out_scale[:, None, None]


@struct.dataclass
class Moments:
    """Moments are sums over tokens that determine a normalisation; sums of batches add up.

    Attributes:
        count: () tokens.
        in_sum, out_sum: (L, D).
        in_square, out_square: (L,) sums of squared lengths.
    """

    count: jax.Array
    in_sum: jax.Array
    in_square: jax.Array
    out_sum: jax.Array
    out_square: jax.Array

    __repr__ = one_line

    @classmethod
    def of(cls, x: jax.Array, y: jax.Array, weight: jax.Array) -> Moments:
        """Compute the moments of one batch: x and y (L, N, D), weight (N,)."""
        return cls(weight.sum(), *_sums(x, weight), *_sums(y, weight))

    def normalisation(self) -> Normalisation:
        """Compute the means and scales of the tokens summed so far."""
        parts = []
        for total, square in ((self.in_sum, self.in_square), (self.out_sum, self.out_square)):
            mean = total / self.count
            variance = square / self.count - jnp.sum(mean**2, -1)
            # A layer that writes one constant has no scale; leave it as it is.
            scale = jnp.sqrt(variance / total.shape[-1])
            parts += [mean, jnp.where(scale > 1e-8, scale, 1.0)]
        return Normalisation(*parts)


def _sums(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(L, D) sum and (L,) squares of (L, N, D), with too long vectors shortened."""
    x = x.astype(jnp.float32)
    size = jnp.sum(x**2, -1)
    tokens = jnp.maximum(weight.sum(), 1)
    capped = size
    for _ in range(_ROUNDS):
        capped = jnp.minimum(size, LONG * (capped @ weight / tokens)[:, None])
    shorter = jnp.sqrt(jnp.where(size > 0, capped / jnp.maximum(size, 1e-30), 1))
    return jnp.einsum("lnd,ln->ld", x, shorter * weight), capped @ weight


def fold(params: Params, stats: Normalisation, config: TranscoderConfig) -> Params:
    """Convert weights for normalised activations to weights for raw ones.

    Features stay as they are: W_enc x̂ + b_enc = (W_enc / s) x + (b_enc − W_enc m / s).

    Args:
        params: Trained on normalised activations.
        stats: Their normalisation.
        config: The transcoder.

    Returns:
        Parameters with the same names and shapes.
    """
    receivers = layer_graph(config).receivers
    scale = stats.in_scale[:, None]
    w_enc = params["W_enc"] / scale[..., None]
    folded = params | {
        "W_enc": w_enc,
        "b_enc": params["b_enc"] - jnp.einsum("lfd,ld->lf", w_enc, stats.in_mean),
        "W_dec": params["W_dec"] * stats.out_scale[receivers, None, None],
        "b_dec": params["b_dec"] * stats.out_scale[:, None] + stats.out_mean,
    }
    if config.skip:
        w_skip = params["W_skip"] * (stats.out_scale / stats.in_scale)[:, None, None]
        folded["W_skip"] = w_skip
        folded["b_dec"] -= jnp.einsum("led,ld->le", w_skip, stats.in_mean)
    return folded
