"""The parts of a block: norms, linear maps, attention."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import rope
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.sites import QKV_INPUT_SITES
from hagd_jax.models.tap import Tap

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


def wide_dtype(x: jax.Array) -> Any:
    """Return the dtype of sums: float32, or float64 for float64 values."""
    return jnp.promote_types(x.dtype, jnp.float32)


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply into the wide dtype: on CPU, bfloat16 is several times as fast that way."""
    return jnp.matmul(x, kernel, preferred_element_type=wide_dtype(x))


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """Squash smoothly to (−cap, cap): cap · tanh(x / cap)."""
    return cap * jnp.tanh(x / cap)


def score_divisor(config: DecoderConfig) -> float:
    """Return what scores are divided by, apart from the layer's number."""
    return math.sqrt(config.query_scalar or config.d_head) if config.scale_attn else 1.0


def embed_scale(config: DecoderConfig) -> float:
    """Return what token embeddings are multiplied by, rounded as the computation rounds it."""
    root = math.sqrt(config.d_model) if config.scale_embed else 1.0
    return float(np.asarray(root, jnp.dtype(config.dtype)))


def param(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Any
) -> Any:
    """Create a float32 parameter whose dimensions have logical names."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


def divided(wide: jax.Array, axes: Any, eps: float, tap: Any, shape: Any = None) -> jax.Array:
    """Divide by the root of the mean square over `axes`, which passes through `tap`."""
    scale = jnp.sqrt(jnp.mean(jnp.square(wide), axes, keepdims=True) + eps)
    # Without the barrier XLA turns x / √y into x · rsqrt(y), unless √y is captured or
    # rewritten: reading the scale would then change the logits.
    scale = jax.lax.optimization_barrier(scale if shape is None else jnp.broadcast_to(scale, shape))
    return wide / (scale if tap is None else tap(scale))


def weighted(x: jax.Array, weight: jax.Array, dtype: Any, offset: bool) -> jax.Array:
    """Multiply a normed value by a norm's weight, or by 1 + it, as the families round it."""
    if offset:
        return (x * (1 + weight.astype(x.dtype))).astype(dtype)
    return x.astype(dtype) * weight.astype(dtype)


class Norm(nn.Module):
    """A norm is a LayerNorm, an RMSNorm or nothing, with statistics in float32.

    Attributes:
        config: Of the decoder.
        absent: There is no norm at this place: it divides by one.
    """

    config: DecoderConfig
    absent: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, tap: Callable[[str, jax.Array], jax.Array] | None, site: str
    ) -> jax.Array:
        c = self.config
        if c.norm == "none" or self.absent:
            one = jnp.ones((*x.shape[:-1], 1), wide_dtype(x))
            return x if tap is None else (x / tap(site, one)).astype(x.dtype)
        weight = param(self, "scale", (c.d_model,), ("embed",), nn.initializers.ones)
        wide = x.astype(wide_dtype(x))
        if c.norm == "layer":
            wide = wide - wide.mean(-1, keepdims=True)
        wide = divided(wide, -1, c.norm_eps, tap and functools.partial(tap, site))
        out = weighted(wide, weight, x.dtype, c.norm_offset)
        if c.norm == "layer":
            bias = param(self, "bias", (c.d_model,), ("embed",), nn.initializers.zeros)
            out = out + bias.astype(x.dtype)
        return out


class HeadNorm(nn.Module):
    """A head norm is the RMSNorm of queries or keys, over each head or over all of them.

    Attributes:
        config: Of the decoder.
        heads: Query heads or key/value heads.
        axis: Their logical axis.
    """

    config: DecoderConfig
    heads: int
    axis: str

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap, site: str) -> jax.Array:
        c, shape = self.config, (*x.shape[:-1], 1)
        if c.qk_norm == "none":
            one = jnp.ones(shape, wide_dtype(x))
            return (x / tap(site, one)).astype(x.dtype) if tap.wants(site) else x
        every = c.qk_norm == "all"
        own, axes = ((self.heads, c.d_head), (self.axis, "head_dim")) if every else (
            (c.d_head,), ("head_dim",)
        )  # fmt: skip
        weight = param(self, "scale", own, axes, nn.initializers.ones)
        over = (-2, -1) if every else -1
        found = functools.partial(tap, site)
        wide = divided(x.astype(wide_dtype(x)), over, c.norm_eps, found, shape)
        return weighted(wide, weight, x.dtype, c.norm_offset)


class Linear(nn.Module):
    """A linear map computes y = x · W + b over one or two axes at once, e.g. (D) → (H, Dh)."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    axes: tuple[str, ...]
    bias: bool

    def setup(self):
        fan_in = math.prod(self.ins)
        init = nn.initializers.normal(fan_in**-0.5)
        self.kernel = param(self, "kernel", self.ins + self.outs, self.axes, init)
        if self.bias:
            axes = self.axes[len(self.ins) :]
            self.offset = param(self, "bias", self.outs, axes, nn.initializers.zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Contract all of `ins`: (..., *ins) → (..., *outs)."""
        # One flat matrix product: the fastest form on every backend.
        flat = x.reshape(*x.shape[: x.ndim - len(self.ins)], -1)
        kernel = self.kernel.astype(x.dtype).reshape(math.prod(self.ins), -1)
        out = matmul(flat, kernel).astype(x.dtype)
        return self.add_bias(out.reshape(*flat.shape[:-1], *self.outs))

    def per_head(self, x: jax.Array) -> jax.Array:
        """Apply head h of W to head h of x: (..., h, D) → (..., h, Dh), or back; no bias."""
        heads_first = "dhk,...hd->...hk" if len(self.outs) == 2 else "hkd,...hk->...hd"
        return jnp.einsum(heads_first, self.kernel.astype(x.dtype), x)

    def add_bias(self, x: jax.Array) -> jax.Array:
        """Add the bias, if there is one."""
        return x + self.offset.astype(x.dtype) if self.bias else x


class Attention(nn.Module):
    """Grouped-query attention exposes every intermediate value as a site."""

    config: DecoderConfig

    def setup(self):
        c = self.config
        queries, keys = (c.n_heads, c.d_head), (c.n_kv_heads, c.d_head)
        q_axes, kv_axes = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        self.q = Linear((c.d_model,), queries, q_axes, c.qkv_bias)
        self.k = Linear((c.d_model,), keys, kv_axes, c.qkv_bias)
        self.v = Linear((c.d_model,), keys, kv_axes, c.qkv_bias)
        out_axes = ("heads", "head_dim", "embed")
        self.o = Linear(queries, (c.d_model,), out_axes, c.attn_out_bias)
        self.q_norm = HeadNorm(c, c.n_heads, "heads")
        self.k_norm = HeadNorm(c, c.n_kv_heads, "kv_heads")

    def __call__(self, resid: jax.Array, norm: Norm, tap: Tap) -> jax.Array:
        q, k, v = self.read(resid, norm, tap)
        q, k = self.q_norm(q, tap, "q_scale"), self.k_norm(k, tap, "k_scale")
        q, k, v = (tap(site, value) for site, value in zip("qkv", (q, k, v), strict=True))
        pattern = tap("attn_pattern", self.pattern(q, k, tap.ctx.index))
        # Heads before positions, here and in `pattern`: else XLA transposes the patterns, twice.
        batch, heads, length, _ = pattern.shape
        grouped = pattern.reshape(batch, self.config.n_kv_heads, -1, length, length)
        mixed = jnp.einsum("bkgts,bksd->bkgtd", grouped, v.transpose(0, 2, 1, 3))
        mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, -1)
        out = tap("head_out", mixed)
        if tap.wants("head_write") or tap.wants("head_added"):
            return self.o.add_bias(tap("head_write", self.o.per_head(out)).sum(2))
        return self.o(out)

    def read(self, resid: jax.Array, norm: Norm, tap: Tap) -> tuple[jax.Array, ...]:
        """Compute queries, keys and values from one normed stream or from one copy per head."""
        projections = (self.q, self.k, self.v)
        if not any(tap.wants(site) for site in QKV_INPUT_SITES):
            normed = norm(resid, tap, "norm1_scale")
            return tuple(project(normed) for project in projections)
        norm(resid, tap, "norm1_scale")
        # One denominator for all copies where somebody fixes it, each copy's own where nobody does.
        fixed = tap.ctx.seen["norm1_scale"][:, :, None]
        own = (lambda _, __: fixed) if "norm1_scale" in tap.intervention.sites else None
        out = []
        for site, project in zip(("q_in", "k_in", "v_in"), projections, strict=True):
            copies = jnp.broadcast_to(
                resid[:, :, None], (*resid.shape[:2], project.outs[0], resid.shape[-1])
            )
            normed = norm(tap(site, copies), own, "norm1_scale")
            out.append(project.add_bias(project.per_head(normed)))
        return tuple(out)

    def pattern(self, q: jax.Array, k: jax.Array, index: jax.Array) -> jax.Array:
        """Compute softmax(q · k / √Dh) over earlier positions, (B, H, T, S)."""
        c, length = self.config, q.shape[1]
        if c.positions == "rotary":
            cos, sin = rope.layer_tables(c, length, index)
            q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        divisor = score_divisor(c)
        if c.scale_attn_by_layer:
            divisor = divisor * (index + 1).astype(q.dtype)
        grouped = q.reshape(*q.shape[:2], c.n_kv_heads, -1, c.d_head) / divisor
        grouped, k = grouped.transpose(0, 2, 3, 1, 4), k.transpose(0, 2, 1, 3)
        scores = jnp.einsum("bkgtd,bksd->bkgts", grouped, k).astype(wide_dtype(q))
        if c.attn_softcap:
            scores = softcap(scores, c.attn_softcap)
        if c.causal:
            scores = jnp.where(self.mask(length, index), scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
        return weights.reshape(weights.shape[0], c.n_heads, length, length)

    def mask(self, length: int, index: jax.Array) -> jax.Array:
        """Compute which earlier positions this layer sees, (T, S) bool."""
        c = self.config
        mask = jnp.tril(jnp.ones((length, length), bool))
        if not 0 < c.window < length:  # In shorter sequences a window hides nothing.
            return mask
        reach = jnp.asarray([window or length for window in c.windows], jnp.int32)[index]
        places = jnp.arange(length)
        return mask & (places[:, None] - places < reach)
