"""Move nodes toward what they would be without the behaviour: zero, mean, another prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.errors import InputError
from hagd_jax.interventions.shapes import require_broadcast, require_mask, require_values
from hagd_jax.models import Context, DecoderConfig, Intervention, scanned, shared
from hagd_jax.models.arrays import read_array, read_indices
from hagd_jax.models.sites import site_shape

Values = Mapping[str, jax.Array]


def at_positions(mask: jax.Array, span: jax.Array | None) -> jax.Array:
    """Spread the mask of one layer over positions.

    Args:
        mask: (W,) or (B, W); by span (S, W) or (B, S, W).
        span: (B, T) number of the span of each token; None if the mask is the same at all
            positions.

    Returns:
        (1, W) or (B, 1, W), which broadcasts over positions; by span (B, T, W).

    Example:
        >>> at_positions(jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([[0, 1, 1]])).tolist()
        [[[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]]
    """
    if span is None:
        return mask[..., None, :]
    if mask.ndim == 2:
        return mask[span]
    return jnp.take_along_axis(mask, span[..., None], axis=1)


@struct.dataclass
class MaskHeads(Intervention):
    """Interpolate the outputs of heads: v ← m · v + (1 − m) · alt.

    A mask of ones is exact: the value comes back bit for bit, whatever the alternatives, as long
    as they are finite (0 · ∞ is NaN).

    Attributes:
        mask: (L, H) or (L, B, H) in [0, 1]: 1 keeps a head, 0 ablates it. By span (L, S, H) or
            (L, B, S, H).
        alternative: (L, B, T, H, Dh), or anything that broadcasts to it.
        span: (B, T) number of the span of each token, whose mask holds there; None for masks that
            hold at all positions.
    """

    mask: Any = scanned()
    alternative: Any = scanned()
    span: Any = shared(default=None)

    def on_head_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskHeads]:
        """Interpolate the head outputs before W_O."""
        mask = at_positions(self.mask, self.span)[..., None]
        return mask * value + (1 - mask) * self.alternative, self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that masks have one entry per head, and that alternatives broadcast to the site."""
        shape = (config.n_layers, tokens_shape[0], config.n_heads)
        require_mask("heads", np.shape(self.mask), shape, self.span, tokens_shape[1])
        target = site_shape("head_out", config, *tokens_shape)
        got = np.shape(self.alternative)[1:]
        require_broadcast("the alternative of heads, in each layer", got, target)


@struct.dataclass
class MaskNeurons(Intervention):
    """Interpolate the activations of neurons, as `MaskHeads` does heads.

    Attributes:
        mask: (L, M) or (L, B, M); by span (L, S, M) or (L, B, S, M).
        alternative: (L, B, T, M), or anything that broadcasts to it.
        span: As in `MaskHeads`.
    """

    mask: Any = scanned()
    alternative: Any = scanned()
    span: Any = shared(default=None)

    def on_neuron(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskNeurons]:
        """Interpolate the neurons after the activation function."""
        mask = at_positions(self.mask, self.span)
        return mask * value + (1 - mask) * self.alternative, self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that masks have one entry per neuron, and alternatives broadcast to the site."""
        shape = (config.n_layers, tokens_shape[0], config.d_mlp)
        require_mask("neurons", np.shape(self.mask), shape, self.span, tokens_shape[1])
        target = site_shape("neuron", config, *tokens_shape)
        got = np.shape(self.alternative)[1:]
        require_broadcast("the alternative of neurons, in each layer", got, target)


def mask_heads(mask: Any, alternative: Any, span: Any = None) -> MaskHeads:
    """Keep heads where the mask is 1, replace them by the alternative where it is 0.

    Args:
        mask: (L, H) of bool or float; a prompt axis after the layers is allowed.
        alternative: (L, B, T, H, Dh) `head_out` values, or anything that broadcasts to them.
            Finite: a NaN or an infinity in it reaches the model even where the mask is 1.
        span: (B, T) number of the span of each token, if the mask is (L, S, H) with an axis of
            spans before the heads.

    Returns:
        The intervention; `forward` refuses shapes that do not fit its model and tokens.

    Raises:
        InputError: If the mask or the alternative is no array of numbers.
    """
    mask = jnp.asarray(read_array("the mask of heads", mask), jnp.float32)
    return MaskHeads(mask, read_array("the alternative of heads", alternative), span)


def zero_alternative(values: Values) -> dict[str, jax.Array]:
    """Make zeros in place of every node.

    Args:
        values: Name → (L, B, T, ...) values of nodes; only their shapes are used.

    Returns:
        Name → zeros that broadcast over prompts and positions.

    Raises:
        InputError: If the values are no arrays of nodes.
    """
    require_values("values", values, axes=3)
    return {name: jnp.zeros_like(value[:, :1, :1]) for name, value in values.items()}


def mean_alternative(values: Values, weight: jax.Array) -> dict[str, jax.Array]:
    """Compute the mean of every node at each position over reference prompts.

    Args:
        values: Name → (L, B, T, ...) values of nodes on the reference prompts.
        weight: (B, T) 1 for real tokens, 0 for padding.

    Returns:
        Name → (L, 1, T, ...) means; at positions where no prompt has a token, the mean over all
        positions.

    Raises:
        InputError: If the values are no arrays of nodes, or weights do not fit them.
    """
    return mean_of_sums(*position_sums(values, weight))


def position_sums(values: Values, weight: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """Sum node values for `mean_alternative`; the sums of several batches add up.

    Args:
        values: Name → (L, B, T, ...) values of nodes.
        weight: (B, T) 1 for real tokens, 0 for padding.

    Returns:
        Name → (L, 1, T, ...) sums over prompts, and (T,) how many tokens went into each.

    Raises:
        InputError: If the values are no arrays of nodes, or weights do not fit them.
    """
    require_values("values", values, axes=3)
    weight = jnp.asarray(read_array("weight", weight))
    for name, value in values.items():
        if weight.shape != value.shape[1:3]:
            raise InputError(
                "weight",
                got=f"shape {weight.shape}",
                expected=f"{value.shape[1:3]}, prompts and positions of {name!r}",
            )

    def total(value: jax.Array) -> jax.Array:
        w = weight.reshape(1, *weight.shape, *[1] * (value.ndim - 3))
        return (value * w).sum(1, keepdims=True)

    return {name: total(value) for name, value in values.items()}, weight.sum(0)


def mean_of_sums(
    sums: Values, count: jax.Array, *, per_position: bool = True
) -> dict[str, jax.Array]:
    """Compute means from (added up) results of `position_sums`; see `mean_alternative`.

    Args:
        sums: Name → (L, G, T, ...); G is 1, or the number of groups.
        count: (T,), or (G, T).
        per_position: Whether each position has a mean of its own, or all have one.

    Returns:
        Name → (L, G, T, ...) means, or (L, G, 1, ...).
    """

    def mean(total: jax.Array) -> jax.Array:
        groups, positions = jnp.atleast_2d(count).shape
        n = count.reshape(1, groups, positions, *[1] * (total.ndim - 3))
        overall = total.sum(2, keepdims=True) / jnp.maximum(n.sum(2, keepdims=True), 1)
        if not per_position:
            return overall
        return jnp.where(n > 0, total / jnp.maximum(n, 1), overall)

    return {name: mean(total) for name, total in sums.items()}


def resample_alternative(values: Values, order: jax.Array) -> dict[str, jax.Array]:
    """Take every node's value from another prompt of the same batch.

    Args:
        values: Name → (L, B, T, ...) values of nodes.
        order: (B,) which prompt stands in for each.

    Returns:
        Name → reordered values.

    Raises:
        InputError: If the values are no arrays of nodes, or `order` does not name prompts of them.
    """
    require_values("values", values, axes=3)
    for value in values.values():
        order = read_indices("order", order, value.shape[1], (value.shape[1],))
    return {name: value[:, order] for name, value in values.items()}
