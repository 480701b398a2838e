"""Attention heads and whole MLPs as nodes: the coarsest dictionary, and an exact one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.errors import require_is
from hagd_jax.interventions import at_positions, chain, mask_heads
from hagd_jax.interventions.shapes import require_broadcast, require_mask
from hagd_jax.models import Context, Intervention, LanguageModel, scanned, shared
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.sites import site_shape
from hagd_jax.units.dictionary import MLPS, Dictionary
from hagd_jax.units.nodes import Nodes, Space


@struct.dataclass
class MaskMLPs(Intervention):
    """Interpolate the outputs of MLPs: v ← m · v + (1 − m) · alt.

    Attributes:
        mask: (L, 1) or (L, B, 1) in [0, 1]; by span (L, S, 1) or (L, B, S, 1).
        alternative: (L, B, T, D), or anything that broadcasts to it.
        span: As in `interventions.MaskHeads`.
    """

    mask: Any = scanned()
    alternative: Any = scanned()
    span: Any = shared(default=None)

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskMLPs]:
        """Interpolate the output of a layer's MLP."""
        mask = at_positions(self.mask, self.span)
        return mask * value + (1 - mask) * self.alternative, self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that masks have one entry per MLP, and that alternatives broadcast to the site."""
        shape = (config.n_layers, tokens_shape[0], 1)
        require_mask("MLPs", jnp.shape(self.mask), shape, self.span, tokens_shape[1])
        target = site_shape("mlp_out", config, *tokens_shape)
        got = jnp.shape(self.alternative)[1:]
        require_broadcast("the alternative of MLPs, in each layer", got, target)


class Blocks(Dictionary):
    """This dictionary has attention heads and whole MLPs as nodes; make it with `blocks`."""

    @property
    def space(self) -> Space:
        """Return the numbers of heads and MLPs."""
        return Space(self.decoder.n_layers, self.decoder.n_heads, 1)

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of head and MLP outputs."""
        return ("head_out", "mlp_out")

    @property
    def label(self) -> str:
        """Return the label, the same for every model."""
        return MLPS

    @property
    def about(self) -> str:
        """Describe the nodes in a few words."""
        return "one a layer"

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Read the outputs of heads and MLPs from a trace."""
        return {site: trace[site] for site in self.capture}

    def mask(
        self, mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
    ) -> Intervention:
        """Interpolate the outputs of heads and MLPs."""
        mlps = MaskMLPs(jnp.asarray(mask.features, jnp.float32), alternative["mlp_out"], span)
        return chain(mask_heads(mask.heads, alternative["head_out"], span), mlps)


def blocks(model: LanguageModel) -> Blocks:
    """Make the dictionary of a model's attention heads and whole MLPs.

    Args:
        model: The model.

    Returns:
        The dictionary.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> blocks(model).space
        Space(layers=2, heads=2, features=1)
    """
    require_is("model", model, LanguageModel)
    return Blocks(model.config, MLPS)
