"""Cut single edges between components: one reader sees another value of one writer.

Writers are the embedding, every head and every MLP, each with what it adds to the stream; readers
are the query, key and value inputs of every head, the input of every MLP, and the logits. A
reader's stream is the sum of what wrote before it, so an edge can be cut by adding, to the reader's
own copy of the stream, what the writer would have written elsewhere minus what it wrote here. Where
a norm follows attention or the MLP, that is what comes out of it, each pass with denominators of
its own; the bias of W_O is no head's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.interventions.shapes import require_broadcast, require_values
from hagd_jax.models import (
    Context,
    DecoderConfig,
    Intervention,
    carried,
    scanned,
    shared,
)
from hagd_jax.models.arrays import read_array
from hagd_jax.models.sites import site_shape

Values = Mapping[str, jax.Array]
WRITES = ("embed", "head_added", "mlp_out")


@struct.dataclass
class Edges:
    """Edges hold one value for each edge, such as a mask or a score, by the reader's input.

    The W = 1 + L · H + L writers are the embedding, the heads layer by layer, the MLPs. Query heads
    that share a key/value head share its inputs. Entries of writers that come after a reader mean
    nothing.

    Attributes:
        q: (L, H, W).
        k: (L, K, W).
        v: (L, K, W).
        mlp: (L, W).
        final: (W,) what the logits read.

    Example:
        >>> from hagd_jax.models import DecoderConfig
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> edges = Edges.existing(config)
        >>> edges.q.sum(-1).tolist(), edges.mlp.sum(-1).tolist()  # writers that each reader sees
        ([[1, 1], [4, 4]], [3, 6])
        >>> int(edges.count())
        46
    """

    q: Any
    k: Any
    v: Any
    mlp: Any
    final: Any

    __repr__ = one_line

    @classmethod
    def existing(cls, config: DecoderConfig) -> Edges:
        """Return a mask that is true where the writer comes before the reader."""
        c = config
        head = np.repeat(np.arange(c.n_layers), c.n_heads)
        # Twice the layer: heads write in the middle of their block, MLPs at its end.
        wrote = np.concatenate([[-1], 2 * head + 1, 2 * np.arange(c.n_layers) + 2])
        starts = 2 * np.arange(c.n_layers)[:, None]
        into = wrote <= starts
        per = lambda n: np.repeat(into[:, None], n, 1)  # noqa: E731
        mlp = into if c.parallel_residual else wrote <= starts + 1
        keys = per(c.n_kv_heads)
        return cls(per(c.n_heads), keys, keys.copy(), mlp, np.ones(len(wrote), bool))

    def count(self) -> Any:
        """Count the true entries."""
        return sum(jax.tree.leaves(jax.tree.map(lambda x: x.sum(), self)))

    def without(self, edge: int) -> Edges:
        """Copy the edges with one entry, counted as in `flat`, set to false."""
        flat = self.flat()
        edge = require_index("edge", edge, len(flat))
        flat[edge] = False
        return self.like(flat)

    def flat(self) -> np.ndarray:
        """Copy all (E,) entries to the host, those of later writers included."""
        every = (read_array(name, value) for name, value in vars(self).items())
        return np.concatenate([np.ravel(np.asarray(value)) for value in every])

    def like(self, flat: np.ndarray) -> Edges:
        """Restore the arrays from a flat one; the inverse of `flat`."""
        leaves, structure = jax.tree.flatten(self)
        flat, size = read_array("values of edges", flat), sum(map(np.size, leaves))
        if flat.shape != (size,):
            raise InputError("values of edges", got=f"shape {flat.shape}", expected=f"({size},)")
        ends = np.cumsum([np.size(x) for x in leaves])[:-1]
        parts = zip(np.split(np.asarray(flat), ends), leaves, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(x.shape) for part, x in parts])


@struct.dataclass
class MaskEdges(Intervention):
    """Interpolate what readers read: r ← r + Σ_w (1 − m_w) (alt_w − w).

    A mask of ones is exact, as long as alternatives are finite.

    Attributes:
        q, k, v, mlp, final: 1 − m, as in `Edges`; a prompt axis after the layers is allowed.
        alt_embed: (B, T, D), or what broadcasts to it.
        alt_heads: (L, B, T, H, D).
        alt_mlps: (L, B, T, D).
        moved: (W, B, T, D) alt − own of the writers so far; made when the embedding is written.
    """

    q: Any = scanned()
    k: Any = scanned()
    v: Any = scanned()
    mlp: Any = scanned()
    final: Any = shared()
    alt_embed: Any = shared()
    alt_heads: Any = scanned()
    alt_mlps: Any = scanned()
    moved: Any = carried(default=None)

    def on_embed(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Record the embedding as the first writer and leave the stream unchanged."""
        nobody = jnp.zeros((self.final.shape[-1], *value.shape), jnp.float32)
        begun = self.replace(moved=nobody)  # type: ignore[attr-defined]
        return value, begun._wrote(0, (self.alt_embed - value)[None])

    def on_q_in(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Interpolate what queries read."""
        return value + self._read(self.q), self

    def on_k_in(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Interpolate what keys read."""
        return value + self._read(self.k), self

    def on_v_in(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Interpolate what values read."""
        return value + self._read(self.v), self

    def on_head_added(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Record what the heads of a layer write."""
        heads = value.shape[2]
        difference = jnp.moveaxis(self.alt_heads - value, 2, 0)
        return value, self._wrote(1 + ctx.index * heads, difference)

    def on_resid_mlp(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Interpolate what the MLP reads."""
        return value + jnp.einsum("...w,w...td->...td", self.mlp, self.moved), self

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Record what the MLP of a layer writes."""
        c = ctx.config
        place = 1 + c.n_layers * c.n_heads + ctx.index
        return value, self._wrote(place, (self.alt_mlps - value)[None])

    def on_resid_final(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskEdges]:
        """Interpolate what the logits read."""
        return value + jnp.einsum("...w,w...td->...td", self.final, self.moved), self

    def _read(self, cut: jax.Array) -> jax.Array:
        return jnp.einsum("...hw,w...td->...thd", cut, self.moved)

    def _wrote(self, place: Any, difference: jax.Array) -> MaskEdges:
        difference = jnp.broadcast_to(difference, (len(difference), *self.moved.shape[1:]))
        start = (place, 0, 0, 0)
        moved = jax.lax.dynamic_update_slice(self.moved, difference.astype(jnp.float32), start)
        return self.replace(moved=moved)  # type: ignore[attr-defined]

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that masks cover each pair and that alternatives broadcast to their sites."""
        own = [np.shape(x) for x in (self.q, self.k, self.v, self.mlp, self.final)]
        expected = [x.shape for x in jax.tree.leaves(Edges.existing(config))]
        rows = tokens_shape[0]
        each = [(s[0], rows, *s[1:]) for s in expected[:-1]] + [(rows, *expected[-1])]
        if own not in (expected, each):
            raise InputError("mask of edges", got=f"shapes {own}", expected=f"{expected}")
        shapes = np.shape(self.alt_embed), np.shape(self.alt_heads)[1:], np.shape(self.alt_mlps)[1:]
        for site, got in zip(WRITES, shapes, strict=True):
            target = site_shape(site, config, *tokens_shape)
            require_broadcast(f"the alternative of {site}", got, target)


def mask_edges(config: DecoderConfig, mask: Edges, alternative: Values) -> MaskEdges:
    """Keep edges where the mask is 1; where it is 0 the reader sees the alternative.

    Args:
        config: The decoder's.
        mask: `Edges` of bool or float; a prompt axis after the layers is allowed.
        alternative: Values of `WRITES`, from a trace of other prompts or `zero_alternative`; what
            broadcasts to them will do.

    Returns:
        The intervention.

    Raises:
        InputError: If the alternative lacks a site, or the mask is one of another model.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, forward, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> other = forward(model, [[1, 2, 4]], capture=WRITES).trace
        >>> everything = Edges.existing(config)
        >>> kept = forward(model, [[1, 2, 3]], mask_edges(config, everything, other)).logits
        >>> np.allclose(kept, forward(model, [[1, 2, 3]]).logits, atol=1e-5)
        True
    """
    require_is("config", config, DecoderConfig)
    require_is("mask", mask, Edges)
    require_values("alternative", alternative, WRITES)
    existing = Edges.existing(config)
    for name, there in vars(existing).items():
        own = np.shape(getattr(mask, name))
        # A prompt axis stands after the layers, and in front where there are none.
        if there.shape not in (own, (*own[:1], *own[2:]) if there.ndim > 1 else own[1:]):
            raise InputError(f"mask of edges, {name}", got=own, expected=f"{there.shape}")

    def complement(mask: Any, there: np.ndarray) -> jax.Array:
        if np.ndim(mask) > there.ndim > 1:
            there = there[:, None]
        return jnp.where(there, 1 - jnp.asarray(mask, jnp.float32), 0)

    cut = jax.tree.map(complement, mask, existing)
    sites = (alternative[site] for site in WRITES)
    return MaskEdges(cut.q, cut.k, cut.v, cut.mlp, cut.final, *sites)
