"""Backward passes that differ from the derivative: values stay as they are, gradients do not.

Attribution methods that propagate relevance, or that correct gradients, are changes of the chain
rule at a few places. Each change here is an intervention that returns the value it was given and
passes another gradient on, so that methods are chains of them and share the one forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.errors import require_is, require_number
from hagd_jax.models import Context, Intervention, static
from hagd_jax.models.layers import ACTIVATIONS
from hagd_jax.models.sites import require_site, require_sites


@struct.dataclass
class StopGradient(Intervention):
    """Pass no gradient on at some sites; build it with `stop_gradient`.

    Attributes:
        names: The sites.
    """

    names: tuple[str, ...] = static(default=())

    @property
    def sites(self) -> frozenset[str]:
        """Return the sites."""
        return frozenset(self.names)

    def apply(self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, StopGradient]:
        """Return the value as a constant."""
        return jax.lax.stop_gradient(value), self


@struct.dataclass
class ScaleGradient(Intervention):
    """Multiply the gradients of some sites; build it with `scale_gradient`.

    Attributes:
        factors: Pairs of a site and its factor.
    """

    factors: tuple[tuple[str, float], ...] = static(default=())

    @property
    def sites(self) -> frozenset[str]:
        """Return the sites."""
        return frozenset(dict(self.factors))

    def apply(self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, ScaleGradient]:
        """Return the value, whose gradient is multiplied."""
        return _scaled(value, dict(self.factors)[site]), self


@struct.dataclass
class HoldActivations(Intervention):
    """Differentiate act(x) = x · c with c = act(x) / x held constant, so that its gradient is c.

    At x = 0 the factor c is act'(0), to which act(x) / x tends, as act(0) = 0 in all of `models`.
    """

    def on_neuron_pre(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, HoldActivations]:
        """Return the value: naming the site has it computed."""
        return value, self

    def on_neuron_act(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, HoldActivations]:
        """Return the value as a multiple of what the activation function read."""
        act, read = ACTIVATIONS[ctx.config.activation], ctx.seen["neuron_pre"]
        zero = read == 0
        slope = jax.grad(act)(jnp.zeros((), jnp.float32)).astype(read.dtype)
        factor = jnp.where(zero, slope, value / jnp.where(zero, 1, read))
        return _with_gradient_of(value, read * jax.lax.stop_gradient(factor)), self


@struct.dataclass
class HalveGates(Intervention):
    """Give each factor of a gated MLP's product, act(x · W_gate) · (x · W_in), half the gradient.

    MLPs without a gate keep theirs.
    """

    def on_neuron_act(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, HalveGates]:
        """Halve the gradient of the gate."""
        return _halved(value, ctx), self

    def on_neuron_up(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, HalveGates]:
        """Halve the gradient of what the gate multiplies."""
        return _halved(value, ctx), self


@struct.dataclass
class SoftenAttention(Intervention):
    """Back-propagate through the softmax of attention at another temperature.

    With p = softmax(s) and q = softmax(s / T) the gradient g of the patterns becomes
    q ⊙ (g − ⟨g, q⟩) of the scores, instead of p ⊙ (g − ⟨g, p⟩). Patterns alone tell q, which is
    p^(1/T) divided by its sum.

    Attributes:
        temperature: T; 1 is the derivative, more is softer.
    """

    temperature: float = static(default=2.0)

    def on_attn_pattern(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, SoftenAttention]:
        """Return the pattern, which passes the softened gradient on."""
        return _softened(value, self.temperature), self


def stop_gradient(sites: Iterable[str]) -> StopGradient:
    """Make an intervention that treats the values of some sites as constants in gradients.

    Args:
        sites: Their names, or one name.

    Returns:
        The intervention; values stay as they are.

    Raises:
        ConfigError: If a site does not exist.

    Example:
        >>> sorted(stop_gradient(["attn_pattern", "norm1_scale"]).sites)
        ['attn_pattern', 'norm1_scale']
    """
    return StopGradient(tuple(sorted(set(require_sites(sites, "stop_gradient")))))


def scale_gradient(factors: Mapping[str, float]) -> ScaleGradient:
    """Make an intervention that multiplies the gradients that pass through some sites.

    Args:
        factors: Site → factor, between 0 and 1.

    Returns:
        The intervention; values stay as they are, bit for bit where they are finite.

    Raises:
        ConfigError: If a site does not exist, or a factor is outside.
        InputError: If it is no mapping.

    Example:
        >>> scale_gradient({"v": 0.5}).factors
        (('v', 0.5),)
    """
    require_is("factors", factors, Mapping)
    for site, factor in factors.items():
        require_site(site, "scale_gradient")
        require_number(f"factor of {site!r}", factor, least=0, most=1)
    return ScaleGradient(tuple(sorted((site, float(f)) for site, f in factors.items())))


def _scaled(value: jax.Array, factor: float) -> jax.Array:
    return value + (factor - 1) * (value - jax.lax.stop_gradient(value))


def _halved(value: jax.Array, ctx: Context) -> jax.Array:
    return _scaled(value, 0.5) if ctx.config.gated_mlp else value


def _with_gradient_of(value: jax.Array, other: jax.Array) -> jax.Array:
    """The one value with the other's gradient."""
    return jax.lax.stop_gradient(value) + (other - jax.lax.stop_gradient(other))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softened(pattern: jax.Array, temperature: float) -> jax.Array:
    return pattern


def _softened_forward(pattern: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    return pattern, pattern


def _softened_backward(temperature: float, p: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    # The softmax before this turns h into p ⊙ (h − ⟨h, p⟩). With h = r / p and Σ r = 0 that is r.
    wide = jnp.promote_types(p.dtype, jnp.float32)
    p, wide_g = p.astype(wide), g.astype(wide)
    q = p ** (1 / temperature)
    q = q / q.sum(-1, keepdims=True)
    wanted = q * (wide_g - (wide_g * q).sum(-1, keepdims=True))
    there = p > 0
    return (jnp.where(there, wanted / jnp.where(there, p, 1), 0).astype(g.dtype),)


_softened.defvjp(_softened_forward, _softened_backward)
