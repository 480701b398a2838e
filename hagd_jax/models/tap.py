"""Where a forward pass meets its intervention: one call for each site."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.intervention import Context, Intervention, rewritten
from hagd_jax.models.sites import SITES
from hagd_jax.parallel import constrain


class Options(NamedTuple):
    """The options are the static choices of one forward pass.

    Attributes:
        capture: Sites to return, sorted.
        mesh: Devices to spread over, or None.
        remat: Recompute blocks in the backward pass instead of storing them.
    """

    capture: tuple[str, ...] = ()
    mesh: jax.sharding.Mesh | None = None
    remat: bool = False


class Tap:
    """A tap passes each site's value through the intervention and keeps captured sites.

    It lives within one trace of one block, so the trace stays a pure function.
    """

    def __init__(
        self, intervention: Intervention, config: DecoderConfig, options: Options, index: jax.Array
    ):
        self.intervention = intervention
        self.ctx = Context(config, index, {})
        self.options = options
        self.captured: dict[str, jax.Array] = {}

    def wants(self, site: str) -> bool:
        """Tell whether a site is read or rewritten."""
        return site in self.options.capture or site in self.intervention.sites

    def __call__(self, site: str, value: jax.Array) -> jax.Array:
        mesh = self.options.mesh
        value = constrain(value, SITES[site], mesh)
        if site in self.intervention.sites:
            new, self.intervention = rewritten(self.intervention, site, value, self.ctx)
            value = constrain(jnp.asarray(new).astype(value.dtype), SITES[site], mesh)
        self.ctx.seen[site] = value
        if site in self.options.capture:
            # A stored stream is spread over the model axis too: L of them would not fit otherwise.
            axes = tuple("trace_embed" if axis == "act_embed" else axis for axis in SITES[site])
            self.captured[site] = constrain(value, axes, mesh)
        return value
