"""Attention heads and whole MLPs as nodes: the coarsest dictionary, and an exact one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hagd_jax.errors import require_is
from hagd_jax.interventions import chain, mask_heads
from hagd_jax.interventions.shapes import require_broadcast, require_mask
from hagd_jax.models import Context, Intervention, LanguageModel, scanned
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.sites import site_shape
from hagd_jax.units.dictionary import MLPS, Dictionary
from hagd_jax.units.nodes import Nodes, Space


@struct.dataclass
class MaskMLPs(Intervention):
    """Interpolates what MLPs write: v ← m · v + (1 − m) · alt.

    Attributes:
        mask: (L, 1) or (L, B, 1) in [0, 1].
        alternative: (L, B, T, D), or anything that broadcasts to it.
    """

    mask: Any = scanned()
    alternative: Any = scanned()

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskMLPs]:
        """Interpolate the whole output."""
        mask = self.mask[..., None, :]
        return mask * value + (1 - mask) * self.alternative, self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """The mask has one entry an MLP, and the alternative broadcasts to the site."""
        require_mask("MLPs", jnp.shape(self.mask), (config.n_layers, tokens_shape[0], 1))
        target = site_shape("mlp_out", config, *tokens_shape)
        got = jnp.shape(self.alternative)[1:]
        require_broadcast("the alternative of MLPs, in each layer", got, target)


class Blocks(Dictionary):
    """Heads and one node for every MLP; make it with `blocks`."""

    @property
    def space(self) -> Space:
        """Heads, and one MLP a layer."""
        return Space(self.decoder.n_layers, self.decoder.n_heads, 1)

    @property
    def capture(self) -> tuple[str, ...]:
        """What they put out."""
        return ("head_out", "mlp_out")

    @property
    def label(self) -> str:
        """Always the same."""
        return MLPS

    @property
    def about(self) -> str:
        """What they are."""
        return "one a layer"

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The two sites."""
        return {site: trace[site] for site in self.capture}

    def mask(self, mask: Nodes, alternative: Mapping[str, jax.Array]) -> Intervention:
        """Interpolate both."""
        mlps = MaskMLPs(jnp.asarray(mask.features, jnp.float32), alternative["mlp_out"])
        return chain(mask_heads(mask.heads, alternative["head_out"]), mlps)


def blocks(model: LanguageModel) -> Blocks:
    """Heads and whole MLPs of a model.

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
