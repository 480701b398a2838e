"""One Flax decoder, scanned over layers, that expresses every supported model.

A block is a straight list of sites (`sites.py`). Each value passes through a `Tap`, which lets
the intervention rewrite it and keeps it when it was asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from hagd_jax.errors import InputError, require_is
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.feed_forward import MLP
from hagd_jax.models.intervention import Identity, Intervention, Skeleton, split
from hagd_jax.models.layers import (
    Attention,
    Linear,
    Norm,
    embed_scale,
    matmul,
    param,
    softcap,
    wide_dtype,
)
from hagd_jax.models.sites import BLOCK_SITES
from hagd_jax.models.tap import Options, Tap


class Block(nn.Module):
    """A block is one layer, the body of the scan."""

    config: DecoderConfig
    options: Options
    skeleton: Skeleton

    @nn.compact
    def __call__(self, carry: tuple, index: jax.Array, scanned: list, shared: list) -> tuple:
        c = self.config
        x, carried = carry
        tap = Tap(self.skeleton.join(scanned, shared, carried), c, self.options, index)
        x = tap("resid_pre", x)
        absent = c.norm_placement == "after"
        attn = Attention(c, name="attn")(x, Norm(c, absent, name="norm1"), tap)
        attn = tap("attn_out", self.after(attn, "attn_out", tap))
        x = tap("resid_mid", x if c.parallel_residual else x + attn)
        mlp_read = tap("resid_mlp", x) if tap.wants("resid_mlp") else x
        mlp_in = tap("mlp_in", Norm(c, absent, name="norm2")(mlp_read, tap, "norm2_scale"))
        raw = tap("mlp_out_raw", MLP(c, name="mlp")(mlp_in, tap))
        out = tap("mlp_out", self.after(raw, "mlp_out", tap))
        x = tap("resid_post", (x + attn if c.parallel_residual else x) + out)
        return (x, _carried(tap.intervention, carried)), tap.captured

    def after(self, x: jax.Array, site: str, tap: Tap) -> jax.Array:
        """Apply the norm after attention or after the MLP, if there is one."""
        absent, scale = self.config.norm_placement == "before", f"{site}_scale"
        norm = Norm(self.config, absent, name=f"norm_{site}")
        out = x if absent and not tap.wants(scale) else norm(x, tap, scale)
        if site != "attn_out" or not tap.wants("head_added"):
            return out
        heads = tap.ctx.seen["head_write"]
        if scale in tap.ctx.seen:
            held = tap.ctx.seen[scale][:, :, None]
            heads = norm(heads, lambda *_: held, scale)
        added = tap("head_added", heads)
        return out + (added - heads).sum(2) if "head_added" in tap.intervention.sites else out


class Embedding(nn.Module):
    """An embedding has a learned row for each token or position."""

    rows: int
    width: int
    axis: str

    @nn.compact
    def __call__(self) -> jax.Array:
        init = nn.initializers.normal(0.02)
        return param(self, "embedding", (self.rows, self.width), (self.axis, "embed"), init)


class Decoder(nn.Module):
    """The decoder runs embedding, blocks and unembedding.

    Attributes:
        config: What the mathematics is.
        options: Static choices of this pass.
    """

    config: DecoderConfig
    options: Options = Options()

    @nn.compact
    def __call__(
        self, tokens: jax.Array, intervention: Intervention, read: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Run the model.

        Args:
            tokens: (B, T) integer ids.
            intervention: What rewrites the values on their way.
            read: (B, S) positions to unembed, or None for all.

        Returns:
            Logits (B, T, V) or (B, S, V), float32 at least, and the captured sites.
        """
        c = self.config
        before = Tap(intervention, c, self.options, jnp.int32(-1))
        table = Embedding(c.vocab_size, c.d_model, "vocab", name="embed")().astype(c.dtype)
        x = table[tokens]
        if c.scale_embed:
            x = x * jnp.asarray(embed_scale(c), x.dtype)
        if c.positions == "learned":
            places = Embedding(c.max_positions, c.d_model, "positions", name="positions")()
            x = x + places.astype(c.dtype)[: tokens.shape[1]]
        x, state, trace = self.blocks(before("embed", x), before)
        after = Tap(state, c, self.options, jnp.int32(c.n_layers))
        x = after("resid_final", x)
        x = after("normed_final", Norm(c, name="norm_f")(x, after, "normf_scale"))
        if read is not None:
            x = jnp.take_along_axis(x, read[..., None], axis=1)
        if c.tied:
            logits = matmul(x, table.T)
        else:
            axes = ("embed", "vocab")
            logits = Linear((c.d_model,), (c.vocab_size,), axes, c.unembed_bias, name="unembed")(x)
        logits = logits.astype(wide_dtype(logits))
        logits = after("logits", softcap(logits, c.logit_softcap) if c.logit_softcap else logits)
        return logits, before.captured | trace | after.captured

    def blocks(
        self, x: jax.Array, before: Tap
    ) -> tuple[jax.Array, Intervention, dict[str, jax.Array]]:
        """Scan the blocks over the layers."""
        c = self.config
        parts = split(before.intervention)
        # Sites outside the blocks must not enter the body's compilation key.
        inner = self.options._replace(
            capture=tuple(s for s in self.options.capture if s in BLOCK_SITES)
        )
        scan = nn.scan(
            nn.remat(Block, prevent_cse=False) if self.options.remat else Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast),  # type: ignore[arg-type]
            length=c.n_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        layers = jnp.arange(c.n_layers, dtype=jnp.int32)
        body = scan(c, inner, parts.skeleton, name="blocks")
        (x, carried), trace = body((x, parts.carried), layers, parts.scanned, parts.shared)
        return x, parts.skeleton.join(parts.scanned, parts.shared, carried), trace


class ParamSpec(NamedTuple):
    """A specification gives a parameter's shape and the logical axis of each dimension."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]


def param_specs(config: DecoderConfig) -> Mapping[str, ParamSpec]:
    """List every parameter of a decoder from the module itself, allocating nothing.

    Args:
        config: The decoder.

    Returns:
        Path, e.g. `blocks/attn/q/kernel`, → `ParamSpec`.

    Raises:
        InputError: If it is no configuration.
    """
    require_is("config", config, DecoderConfig)
    return _param_specs(config)


@functools.cache
def _param_specs(config: DecoderConfig) -> Mapping[str, ParamSpec]:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    boxed = jax.eval_shape(Decoder(config).init, jax.random.key(0), tokens, Identity())["params"]
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(
        boxed, is_leaf=lambda _, leaf: isinstance(leaf, nn.LogicallyPartitioned), sep="/"
    )
    specs = {path: ParamSpec(box.value.shape, box.names) for path, box in flat.items()}
    return MappingProxyType(specs)


def _carried(intervention: Intervention, before: list[jax.Array]) -> list[jax.Array]:
    """The carried arrays after a block; a scan needs them to keep shape and dtype."""
    after = split(intervention).carried
    for old, new in zip(before, after, strict=True):
        if (jnp.shape(new), jnp.result_type(new)) != (old.shape, old.dtype):
            raise InputError(
                f"a carried field of {type(intervention).__name__}",
                got=f"{jnp.shape(new)} {jnp.result_type(new)} after a block",
                expected=f"{old.shape} {old.dtype}, as before it",
            )
    return after
