"""Hold sites at recorded values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from hagd_jax import struct
from hagd_jax.errors import InputError, require_is
from hagd_jax.interventions.shapes import require_values
from hagd_jax.models import BLOCK_SITES, Context, DecoderConfig, Intervention, scanned, shared
from hagd_jax.models.sites import require_sites, site_shape


@struct.dataclass
class Freeze(Intervention):
    """Replace sites by the values of a trace; build it with `freeze`.

    Attributes:
        blocks: Block site → (L, ...) values.
        outer: Site outside the blocks → values.
    """

    blocks: dict[str, Any] = scanned(default_factory=dict)
    outer: dict[str, Any] = shared(default_factory=dict)

    @property
    def sites(self) -> frozenset[str]:
        """Return the frozen sites."""
        return frozenset(self.blocks) | frozenset(self.outer)

    def apply(self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, Freeze]:
        """Return the recorded value instead of the computed one."""
        return self.blocks[site] if site in self.blocks else self.outer[site], self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that every recorded value has exactly the shape of its site."""
        layers = (config.n_layers,)
        recorded = [(site, (), value) for site, value in self.outer.items()]
        recorded += [(site, layers, value) for site, value in self.blocks.items()]
        for site, leading, value in recorded:
            expected = (*leading, *site_shape(site, config, *tokens_shape))
            if np.shape(value) != expected:
                raise InputError(
                    f"the frozen {site!r}",
                    got=f"shape {np.shape(value)}",
                    expected=f"{expected}",
                    mend="Record it from tokens of the same shape, with the same model.",
                )


def freeze(trace: Mapping[str, Any], sites: Iterable[str] | None = None) -> Freeze:
    """Freeze sites at the values of a trace.

    Freezing attention patterns and norm scales makes a model's gradients those of a linear map.

    Args:
        trace: From `forward(..., capture=...)`, of the same tokens shape.
        sites: Which of them, or which one; all of the trace by default.

    Returns:
        The intervention.

    Raises:
        InputError: If a site was not captured, or the trace is none.
        ConfigError: If a site does not exist.
    """
    require_is("freeze", trace, Mapping, mend="Pass the trace of a forward pass.")
    for site in (chosen := require_sites(trace if sites is None else sites, "freeze")):
        if site not in trace:
            raise InputError(
                "freeze",
                got=f"site {site!r}",
                expected=f"one of the captured {sorted(trace)}",
                mend="Add it to `capture`.",
            )
    require_values("freeze", {site: trace[site] for site in chosen})
    return Freeze(
        blocks={s: trace[s] for s in chosen if s in BLOCK_SITES},
        outer={s: trace[s] for s in chosen if s not in BLOCK_SITES},
    )
