"""Add to, or replace, the value of one site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from hagd_jax import struct
from hagd_jax.errors import InputError, require_index
from hagd_jax.interventions.shapes import require_broadcast
from hagd_jax.models import Context, DecoderConfig, Intervention, shared, static
from hagd_jax.models.arrays import read_array
from hagd_jax.models.sites import BLOCK_SITES, require_site, site_shape


@struct.dataclass
class Edit(Intervention):
    """Rewrite one site, in one layer or in all, at some positions or at all.

    Build it with `add` or `replace`.

    Attributes:
        value: Broadcasts against the site's value.
        layer: () int32; −1 stands for every layer.
        positions: (T,) bool, or () True for every position.
        site: Which site.
        keep: Add to what was there instead of replacing it.
    """

    value: Any = shared()
    layer: Any = shared()
    positions: Any = shared()
    site: str = static()
    keep: bool = static()

    @property
    def sites(self) -> frozenset[str]:
        """Return the one site."""
        return frozenset({self.site})

    def apply(self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, Edit]:
        """Return the edited value where layer and position match."""
        new = value + self.value if self.keep else jnp.broadcast_to(self.value, value.shape)
        here = (self.layer < 0) | (self.layer == ctx.index)
        if self.positions.ndim:
            # Positions are axis 1 of every site but the pattern, where they are the queries.
            axis = 2 if site == "attn_pattern" else 1
            here = here & self.positions.reshape(-1, *[1] * (value.ndim - axis - 1))
        return jnp.where(here, new.astype(value.dtype), value), self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that the layer and positions exist and that the value broadcasts to the site."""
        if not isinstance(self.layer, Tracer) and int(self.layer) >= config.n_layers:
            raise InputError(
                "layer", got=int(self.layer), expected=f"from 0 to {config.n_layers - 1}"
            )
        if np.shape(self.positions) not in ((), tokens_shape[1:]):
            raise InputError(
                "positions",
                got=f"shape {np.shape(self.positions)}",
                expected=f"{tokens_shape[1:]}, one boolean for each position, or None",
            )
        target = site_shape(self.site, config, *tokens_shape)
        require_broadcast(f"the value for {self.site!r}", np.shape(self.value), target)


def add(
    site: str, value: Any, *, layer: int | None = None, positions: Iterable[bool] | None = None
) -> Edit:
    """Add a vector to a site (steering).

    Args:
        site: A name of `models.SITES`.
        value: Broadcasts against the site's value, e.g. (D,) for `resid_post`.
        layer: One layer, or None for every layer; None for a site outside the blocks.
        positions: (T,) booleans, or None for every position.

    Returns:
        The intervention.

    Raises:
        ConfigError: If the site does not exist.
        InputError: If the value is not finite, the layer no index, or one given for a site outside
            the blocks, or positions are no booleans; `forward` refuses what does not fit its model
            and tokens.

    Example:
        >>> add("resid_post", jnp.zeros(8), layer=2).site
        'resid_post'
    """
    return _edit(site, value, layer, positions, keep=True)


def replace(
    site: str, value: Any, *, layer: int | None = None, positions: Iterable[bool] | None = None
) -> Edit:
    """Replace the value of a site (patching); arguments as in `add`."""
    return _edit(site, value, layer, positions, keep=False)


def _edit(
    site: str, value: Any, layer: int | None, positions: Iterable[bool] | None, keep: bool
) -> Edit:
    require_site(site)
    value = jnp.asarray(read_array(f"the value for {site!r}", value))
    if not isinstance(value, Tracer) and not np.isfinite(np.asarray(value)).all():
        raise InputError(
            f"the value for {site!r}", got="NaN or infinity", expected="finite numbers"
        )
    if layer is not None:
        layer = require_index("layer", layer, mend="None edits every layer.")
    if layer is not None and site not in BLOCK_SITES:
        raise InputError(
            "layer", got=layer, expected=f"None: the site {site!r} lies outside the blocks"
        )
    where = np.asarray(True) if positions is None else read_array("positions", positions)
    if where.dtype != bool or where.ndim != (positions is not None):
        raise InputError(
            "positions",
            got=f"{where.dtype} of shape {where.shape}",
            expected="(T,) booleans, one for each position, or None for all",
        )
    return Edit(value, jnp.int32(-1 if layer is None else layer), jnp.asarray(where), site, keep)
