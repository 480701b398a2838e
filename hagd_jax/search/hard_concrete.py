"""Masks that are mostly 0 or 1 and still have gradients, at an expected size that is held exactly.

The hard concrete distribution (Louizos et al., 2018, arXiv:1712.01312): with u uniform,
z = clip(σ((log u − log(1 − u) + α) / T) · 1.2 − 0.1, 0, 1), T = 2/3. A penalty on the size
overshoots or stalls; here logits are shifted so that the expected number of open nodes is the one
asked for, at every step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
# P(z > 0) = σ(α + _ROOM): what the stretch below 0 adds to a logit.
_ROOM = -TEMPERATURE * math.log(-LOW / HIGH)
_BISECTIONS = 40
_FARTHEST = 60.0
# How far a shift lies beyond a logit that it closes or opens for sure.
_BEYOND = 20.0


def sample(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """Draw masks from the hard concrete distribution.

    Args:
        logits: α, any shape.
        uniform: Numbers from 0 to 1 that broadcast with it.

    Returns:
        z, from 0 to 1, both ends included.

    Example:
        >>> sample(jnp.array([-9.0, 0.0, 9.0]), jnp.array(0.5)).tolist()
        [0.0, 0.5, 1.0]
    """
    safe = jnp.clip(uniform, 1e-6, 1 - 1e-6)
    soft = jax.nn.sigmoid((jnp.log(safe) - jnp.log1p(-safe) + logits) / TEMPERATURE)
    return jnp.clip(soft * (HIGH - LOW) + LOW, 0, 1)


def open_probability(logits: jax.Array) -> jax.Array:
    """Compute P(z > 0).

    Args:
        logits: α, any shape.

    Returns:
        The same shape.
    """
    return jax.nn.sigmoid(logits + _ROOM)


def log_open_probability(logits: jax.Array) -> jax.Array:
    """Compute log P(z > 0), which tells logits apart where the probability rounds to 1.

    Args:
        logits: α, any shape.

    Returns:
        The same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from hagd_jax.search.hard_concrete import log_open_probability, open_probability
        >>> open_probability(jnp.array([30.0, 40.0])).tolist()
        [1.0, 1.0]
        >>> bool(jnp.diff(log_open_probability(jnp.array([30.0, 40.0])))[0] > 0)
        True
    """
    return jax.nn.log_sigmoid(logits + _ROOM)


def farthest(logits: Any) -> jax.Array:
    """Return a shift that closes all gates, and whose negative opens them.

    Args:
        logits: A pytree of arrays.
    """
    largest = [jnp.abs(row).max(initial=0) for row in jax.tree.leaves(logits)]
    return jnp.maximum(functools.reduce(jnp.maximum, largest) + _BEYOND, _FARTHEST)


def held(
    expected: Callable[[Any, jax.Array], jax.Array], logits: Any, size: jax.Array
) -> jax.Array:
    """Find the shift at which the expected size is the requested one, with its gradient.

    Args:
        expected: (logits, shift) → expected size, which falls as the shift rises.
        logits: A pytree of arrays.
        size: The size asked for.

    Returns:
        The shift τ with expected(logits, τ) = size. Its derivative is that of the implicit
        function, so a step that would only make the mask larger or smaller changes nothing.
    """
    still = jax.lax.stop_gradient(logits)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        large = expected(still, middle) > size
        return jnp.where(large, middle, low), jnp.where(large, high, middle)

    far = farthest(still)
    ends = -far, far
    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
    shift = (low + high) / 2
    slope = jnp.minimum(jax.grad(expected, argnums=1)(still, shift), -1e-6)
    # Newton's step from there: of no length, but with the derivative dτ/dα = −(∂f/∂α) / (∂f/∂τ).
    found = expected(logits, shift)
    return shift - (found - jax.lax.stop_gradient(found)) / slope
