"""Transcoders inside a forward pass: their reconstructions in place of MLPs.

Interventions compute features in the pass they act in, from what this pass shows the MLPs, so that
a change in one layer reaches the features of the layers above.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.errors import InputError
from hagd_jax.interventions.shapes import require_broadcast
from hagd_jax.models import (
    Context,
    DecoderConfig,
    Intervention,
    carried,
    scanned,
    shared,
    static,
)
from hagd_jax.models.arrays import read_array
from hagd_jax.parallel import batch_parts, constrain
from hagd_jax.transcoders import transcoder as tc
from hagd_jax.transcoders.checks import require_fit, site_of
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import own_edges
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.transcoder import Transcoder, require_transcoder

_ENCODER = ("W_enc", "b_enc", "threshold")
_WRITE = ("batch", "length", "act_embed")
Self = TypeVar("Self", bound="FeatureWriter")


@struct.dataclass
class FeatureWriter(Intervention):
    """A feature writer computes a layer's features and writes them along its edges.

    Writes to later layers wait in a register that moves down by one with every layer; its shape
    is that of the tokens, so it is made where the pass begins.

    Attributes:
        encoder: `W_enc`, `b_enc` and, with `jump_relu`, `threshold`.
        decoder: (E, F, D); the edges of layer l begin at `own[l]`.
        own: (L,) int32 edge from each layer to itself.
        reach: (L,) int32 how many edges a layer has: the last ones have fewer than the others.
        waiting: (window, B, T, D) what earlier layers wrote to this one and the next ones.
        config: What the mathematics is.
        mesh: The devices, or None.
    """

    encoder: Any = scanned(default_factory=dict)
    decoder: Any = shared(default=None)
    own: Any = scanned(default=None)
    reach: Any = scanned(default=None)
    waiting: Any = carried(default=None)
    config: TranscoderConfig = static(default=None)
    mesh: Any = static(default=None)

    @property
    def sites(self) -> frozenset[str]:
        """List the sites, with that before a norm after the MLP if features write there."""
        raw = self.config is not None and self.config.writes == "mlp_out_raw"
        return super().sites | ({"mlp_out_raw"} if raw else set())

    def apply(self: Self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, Self]:
        """Call `on_mlp_out` where this model's features write, before the norm or behind it."""
        if site in ("mlp_out", "mlp_out_raw"):
            if site != self.config.target(ctx.config):
                return value, self
            site = "mlp_out"
        return super().apply(site, value, ctx)

    def on_embed(self: Self, value: jax.Array, ctx: Context) -> tuple[jax.Array, Self]:
        """Leave the stream unchanged, and begin with nothing written."""
        if self.config.width == 1:
            return value, self
        nothing = jnp.zeros((self.config.width - 1, *value.shape), jnp.float32)
        return value, self.replace(waiting=constrain(nothing, (None, *_WRITE), self.mesh))  # type: ignore[attr-defined]

    def features(self, ctx: Context) -> jax.Array:
        """Compute the (B, T, F) features of this layer from the pass so far."""
        x = ctx.seen[self.config.reads]
        pre = feat.pre_activations(self.encoder, x.reshape(-1, x.shape[-1]), self.config)
        mesh = dividing(self.mesh, len(pre))
        found = feat.activate(pre, self.config, self.encoder.get("threshold"), mesh)
        found = found.reshape(*x.shape[:-1], -1)
        return constrain(found, ("batch", "length", "features"), self.mesh)

    def write(self: Self, amounts: jax.Array) -> tuple[jax.Array, Self]:
        """Decode amounts of this layer's features along its edges.

        Args:
            amounts: (B, T, F).

        Returns:
            (B, T, D) everything written to this layer, by it and by those below; and the
            intervention with the rest in its register.
        """
        flat = amounts.reshape(-1, amounts.shape[-1]).astype(self.config.dtype)
        wide = jnp.float32
        nothing = jnp.zeros((len(flat), self.config.d_model), wide)

        # A gradient shall keep neither copies of the decoder nor products: both are made again.
        @jax.checkpoint
        def edge(step: jax.Array) -> jax.Array:
            index = jnp.minimum(self.own + step, len(self.decoder) - 1)
            weight = jax.lax.dynamic_index_in_dim(self.decoder, index, keepdims=False)

            def product() -> jax.Array:
                return jnp.matmul(flat, weight.astype(flat.dtype), preferred_element_type=wide)

            # Beyond the last layer there is nothing to write to, and the next edge is another's.
            return jax.lax.cond(step < self.reach, product, lambda: nothing)

        written = jax.lax.map(edge, jnp.arange(self.config.width))
        written = written.reshape(-1, *amounts.shape[:-1], self.config.d_model)
        written = constrain(written, (None, *_WRITE), self.mesh)
        if self.waiting is None:
            return written[0], self
        arrived = jnp.concatenate([self.waiting, jnp.zeros_like(written[:1])]) + written
        return arrived[0], self.replace(waiting=arrived[1:])  # type: ignore[attr-defined]

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that the transcoder is one for this model."""
        require_fit(self.config, config)


@struct.dataclass
class ReplaceMLPs(FeatureWriter):
    """Put reconstructions in place of MLP outputs; build it with `replace_mlps`.

    Attributes:
        b_dec: (L, D).
        W_skip: (L, D, D), or None.
        error: (L, B, T, D), or anything that broadcasts to it, added to the reconstructions.
    """

    b_dec: Any = scanned(default=None)
    W_skip: Any = scanned(default=None)
    error: Any = scanned(default=None)

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, ReplaceMLPs]:
        """Return the reconstruction plus the error, if any, in place of the MLP's output."""
        written, after = self.write(self.features(ctx))
        return self.complete(written, ctx), after

    def complete(self, written: jax.Array, ctx: Context) -> jax.Array:
        """Add bias, skip connection and error to what the features wrote."""
        out = written + self.b_dec
        if self.W_skip is not None:
            stack = {"W_skip": self.W_skip[None]}
            out = out + feat.skip(stack, ctx.seen[self.config.reads][None])[0]
        return out if self.error is None else out + self.error

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that the transcoder fits the model, and that the error has the tokens' shape."""
        super().validate(config, tokens_shape)
        if self.error is not None:
            target = (*tokens_shape, config.d_model)
            require_broadcast("the error, in each layer", np.shape(self.error)[1:], target)


def replace_mlps(transcoder: Transcoder, *, error: Any = None) -> ReplaceMLPs:
    """Replace every MLP by a transcoder.

    mlp_out_l' ← Σ_{l→l'} f_l W_dec + b_dec (+ W_skip x_l') (+ error_l'); or mlp_out_raw_l', which a
    norm after the MLP reads, if that is what it writes (`TranscoderConfig.writes`).

    Args:
        transcoder: For the model it shall run in.
        error: (L, B, T, D) from `errors`, of the same tokens; without it the reconstruction
            stands alone. With it and nothing else changed, the model's outputs come back up to
            rounding.

    Returns:
        The intervention.

    Example:
        >>> config = TranscoderConfig(n_layers=2, d_model=8, n_features=32, k=4)
        >>> stand_in = replace_mlps(tc.init(config, jax.random.key(0)))
        >>> sorted(stand_in.sites)
        ['embed', 'mlp_out']
    """
    fields, params = writer_fields(transcoder), transcoder.params
    return ReplaceMLPs(
        **fields,
        b_dec=params["b_dec"],
        W_skip=params.get("W_skip"),
        error=None if error is None else jnp.asarray(read_array("error", error)),
    )


def errors(transcoder: Transcoder, trace: Mapping[str, jax.Array]) -> jax.Array:
    """Compute a transcoder's errors: true MLP outputs minus their reconstructions.

    Args:
        transcoder: For the traced model.
        trace: Of a pass that captured the sites that the transcoder reads and writes
            (`TranscoderConfig.writes`).

    Returns:
        (L, B, T, D) float32.

    Raises:
        InputError: If the trace lacks a site, or is another model's.
    """
    require_transcoder(transcoder)
    writes = transcoder.config.writes
    x, out = site_of(trace, transcoder.config.reads), site_of(trace, writes)
    if jnp.shape(x) != jnp.shape(out):
        raise InputError(
            "trace",
            got=f"shapes {jnp.shape(x)} and, at {writes}, {jnp.shape(out)}",
            expected="sites of one pass",
        )
    return out.astype(jnp.float32) - tc.decode(transcoder, tc.encode(transcoder, x), x)


def dividing(mesh: jax.sharding.Mesh | None, tokens: int) -> jax.sharding.Mesh | None:
    """Return the mesh if it splits this many tokens evenly, else None."""
    return mesh if tokens % batch_parts(mesh) == 0 else None


def writer_fields(transcoder: Transcoder) -> dict[str, Any]:
    """Return the fields of `FeatureWriter` that a transcoder determines."""
    require_transcoder(transcoder)
    config, params = transcoder.config, transcoder.params
    layers = np.arange(config.n_layers)
    return {
        "encoder": {name: params[name] for name in _ENCODER if name in params},
        "decoder": params["W_dec"],
        "own": jnp.asarray(own_edges(config), jnp.int32),
        "reach": jnp.asarray(np.minimum(config.width, config.n_layers - layers), jnp.int32),
        "config": config,
        "mesh": transcoder.mesh,
    }
