"""Features moved toward alternatives inside a forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.interventions.mask import at_positions
from hagd_jax.interventions.shapes import require_broadcast, require_mask
from hagd_jax.models import Context, DecoderConfig, scanned, shared, static
from hagd_jax.models.arrays import read_array
from hagd_jax.transcoders.replace import ReplaceMLPs, writer_fields
from hagd_jax.transcoders.transcoder import Transcoder


@struct.dataclass
class MaskFeatures(ReplaceMLPs):
    """Move features toward alternatives: f ← m · f + (1 − m) · alt.

    With `keep_error` only the difference is written, mlp_out += Σ (1 − m)(alt − f) W_dec over
    incoming edges: what the transcoder does not explain stays in, whatever it is, and masks of
    ones leave the pass as it was, bit for bit, as long as the alternatives are finite.

    Attributes:
        mask: (L, F) or (L, B, F) in [0, 1]; by span (L, S, F) or (L, B, S, F).
        alternative: (L, B, T, F), or anything that broadcasts to it.
        span: As in `interventions.MaskHeads`.
        keep_error: Whether the MLP's own output stays, or the reconstruction takes its place.
    """

    mask: Any = scanned(default=None)
    alternative: Any = scanned(default=None)
    span: Any = shared(default=None)
    keep_error: bool = static(default=True)

    __repr__ = one_line

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskFeatures]:
        """Compute the output from masked features."""
        found, mask = self.features(ctx), at_positions(self.mask, self.span)
        if self.keep_error:
            written, after = self.write((1 - mask) * (self.alternative - found))
            return value + written, after
        written, after = self.write(mask * found + (1 - mask) * self.alternative)
        return self.complete(written, ctx), after

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that masks have one entry per feature and alternatives broadcast."""
        super().validate(config, tokens_shape)
        width = self.config.n_features
        shape = (config.n_layers, tokens_shape[0], width)
        require_mask("features", np.shape(self.mask), shape, self.span, tokens_shape[1])
        target = (*tokens_shape, width)
        got = np.shape(self.alternative)[1:]
        require_broadcast("the alternative of features, in each layer", got, target)


def mask_features(
    transcoder: Transcoder,
    mask: Any,
    alternative: Any,
    *,
    keep_error: bool = True,
    span: Any = None,
) -> MaskFeatures:
    """Keep features where the mask is 1, replace them by the alternative where it is 0.

    Args:
        transcoder: For the model it shall run in.
        mask: (L, F) of bool or float; a prompt axis after the layers is allowed.
        alternative: (L, B, T, F) activations, or anything that broadcasts to them. Finite: a NaN
            or an infinity reaches the model even where the mask is 1.
        keep_error: Whether the part of the MLP outputs that the transcoder does not explain
            stays. Without it a mask of ones is `replace_mlps`, not the model.
        span: (B, T) number of the span of each token, if the mask is (L, S, F) with an axis of
            spans before the features.

    Returns:
        The intervention.
    """
    fields, params = writer_fields(transcoder), transcoder.params
    return MaskFeatures(
        **fields,
        b_dec=params["b_dec"],
        W_skip=params.get("W_skip"),
        mask=jnp.asarray(read_array("mask", mask), jnp.float32),
        alternative=jnp.asarray(read_array("alternative", alternative)),
        span=span,
        keep_error=keep_error,
    )
