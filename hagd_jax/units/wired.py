"""Units with edges between them as what a circuit can consist of: the pass, edge by edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.interventions.shapes import require_broadcast, require_values
from hagd_jax.models import (
    Context,
    DecoderConfig,
    Intervention,
    LanguageModel,
    carried,
    scanned,
    shared,
)
from hagd_jax.models.feed_forward import MLP
from hagd_jax.models.intervention import Identity
from hagd_jax.models.layers import Attention, Norm
from hagd_jax.models.sites import site_shape
from hagd_jax.models.tap import Options, Tap
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units.unit_edges import Frame, Slots, UnitEdges

READS = ("embed", "head_out", "neuron")
_BLOCK = ("attn", "mlp", "norm1", "norm2", "norm_attn_out", "norm_mlp_out")


@struct.dataclass
class GivenHeads(Intervention):
    """Replace queries, keys and values, by which a reader's attention is computed.

    Attributes:
        q: (B, T, H, Dh).
        k: (B, T, K, Dh).
        v: (B, T, K, Dh).
    """

    q: Any = shared()
    k: Any = shared()
    v: Any = shared()

    def on_q(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, GivenHeads]:
        """Replace the queries."""
        return self.q, self

    def on_k(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, GivenHeads]:
        """Replace the keys."""
        return self.k, self

    def on_v(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, GivenHeads]:
        """Replace the values."""
        return self.v, self


@struct.dataclass
class MaskUnitEdges(Intervention):
    """Run units of a model, each on what its own edges let it read; ablate all other leaves.

    The stream x is that of the circuit with all edges. A reader's own copy of it is
    r = x + Σ_u (1 − m_u) (alt_u − own_u), where own_u is what unit u writes in this pass and alt_u
    what it writes under the ablation. Norms are computed of that copy, and its block is run once
    for each reader. Where a norm follows attention or the MLP, writes are what comes out of it with
    the denominators of this pass.

    Attributes:
        heads: Who reads in attention; `at` holds 1 − m, (L, S, 3, W).
        mlps: Who reads in MLPs; `at` holds 1 − m, (L, S, 1, W).
        final: (W,) 1 − m of what the logits read.
        params: The weights of the blocks.
        alt_embed: (B, T, D), or what broadcasts to it.
        alt_heads: (L, B, T, H, Dh) `head_out` under the ablation.
        alt_neurons: (L, B, T, M) `neuron` under the ablation.
        moved: (W, B, T, D) alt − own of what sources wrote; made when the embedding is written.
    """

    heads: Any = scanned()
    mlps: Any = scanned()
    final: Any = shared()
    params: Any = scanned()
    alt_embed: Any = shared()
    alt_heads: Any = scanned()
    alt_neurons: Any = scanned()
    moved: Any = carried(default=None)

    def on_embed(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskUnitEdges]:
        """Record the embedding as the first source and leave the stream unchanged."""
        moved = jnp.zeros((self.final.shape[-1], *value.shape), jnp.float32)
        return value, self.replace(moved=moved.at[0].set(self.alt_embed - value))  # type: ignore[attr-defined]

    def on_head_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskUnitEdges]:
        """Compute the heads of each unit from what it reads; set all others to the alternative."""

        def attend(cut: jax.Array) -> jax.Array:
            return self._attend(self._read(ctx.seen["resid_pre"], cut), ctx)

        return self._each(self.heads, attend, self.alt_heads, value), self

    def on_attn_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskUnitEdges]:
        """Record what the units in attention wrote."""
        apart = self.alt_heads - ctx.seen["head_out"]
        kernel = self.params["attn"]["o"]["kernel"].astype(apart.dtype)
        write = lambda part: jnp.einsum("bthk,hkd->btd", part, kernel)  # noqa: E731
        return value, self._wrote(self.heads, apart, write, "attn_out", ctx)

    def on_neuron(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskUnitEdges]:
        """Compute the neurons of each unit from what it reads; ablate all others."""
        c = ctx.config

        def run(cut: jax.Array) -> jax.Array:
            read = self._read(ctx.seen["resid_mid"], cut)[0]
            tap = Tap(Identity(), c, Options(("neuron",)), ctx.index)
            MLP(c, parent=None).apply(
                {"params": self.params["mlp"]}, self._normed("norm2", read, c), tap
            )
            return tap.captured["neuron"]

        return self._each(self.mlps, run, self.alt_neurons, value), self

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskUnitEdges]:
        """Record what the units in the MLP wrote."""
        apart = self.alt_neurons - ctx.seen["neuron"]
        kernel = self.params["mlp"]["out"]["kernel"].astype(apart.dtype)
        return value, self._wrote(self.mlps, apart, lambda part: part @ kernel, "mlp_out", ctx)

    def on_resid_final(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskUnitEdges]:
        """Let the logits read by their own edges."""
        return self._read(value, self.final[None])[0], self

    def _read(self, x: jax.Array, cut: jax.Array) -> jax.Array:
        """(P, B, T, D) copies of the stream, one for each input."""
        return (x + jnp.einsum("pw,wbtd->pbtd", cut, self.moved)).astype(x.dtype)

    def _each(self, slots: Slots, run: Callable, start: jax.Array, like: jax.Array) -> jax.Array:
        """Run a block for each unit that reads in it, and keep the unit's own leaves."""

        def one(found: jax.Array, slot: Slots) -> tuple[jax.Array, None]:
            member = slot.member.reshape(*slot.member.shape, *[1] * (like.ndim - 3))
            new = lambda: jnp.where(member, run(slot.at), found)  # noqa: E731
            # Empty slots cost nothing: this is a branch, not a selection.
            return jax.lax.cond(slot.used, new, lambda: found), None

        begin = jnp.broadcast_to(start, like.shape).astype(like.dtype)
        return jax.lax.scan(one, begin, slots)[0]

    def _attend(self, streams: jax.Array, ctx: Context) -> jax.Array:
        """(B, T, H, Dh) of all heads, whose queries, keys and values read (3, B, T, D)."""
        c = ctx.config

        def run(x: jax.Array, sites: tuple[str, ...], given: Intervention) -> dict:
            tap = Tap(given, c, Options(sites), ctx.index)
            attention = Attention(c, parent=None)
            attention.apply({"params": self.params["attn"]}, x, lambda x, *_: x, tap)
            return tap.captured

        normed = self._normed("norm1", streams, c)
        # Of each run only what was asked for is computed: the rest is dead code.
        qkv = {site: run(x, (site,), Identity())[site]
               for site, x in zip("qkv", normed, strict=True)}  # fmt: skip
        return run(normed[0], ("head_out",), GivenHeads(**qkv))["head_out"]

    def _normed(self, name: str, x: jax.Array, c: DecoderConfig) -> jax.Array:
        """Apply the norm before attention or the MLP, if there is one."""
        norm = Norm(c, c.norm_placement == "after", parent=None)
        return norm.apply({"params": self.params.get(name, {})}, x, None, "")  # type: ignore[return-value]

    def _wrote(
        self, slots: Slots, apart: jax.Array, write: Callable, site: str, ctx: Context
    ) -> MaskUnitEdges:
        """Add to `moved` what each unit would write under the ablation minus what it wrote."""
        c, after = ctx.config, ctx.config.norm_placement != "before"
        norm = Norm(c, not after, parent=None)

        def gained(x: jax.Array) -> jax.Array:
            if not after or c.norm == "none":
                return x
            params = {"params": self.params[f"norm_{site}"]}
            held = lambda _, __: ctx.seen[f"{site}_scale"]  # noqa: E731
            # The bias of a norm is nobody's write.
            return norm.apply(params, x, held, site) - norm.apply(params, 0 * x, held, site)  # type: ignore[operator]

        def one(moved: jax.Array, slot: Slots) -> tuple[jax.Array, None]:
            member = slot.member.reshape(*slot.member.shape, *[1] * (apart.ndim - 3))

            def new() -> jax.Array:
                part = gained(write(jnp.where(member, apart, 0)))
                return moved.at[slot.source].add(part.astype(moved.dtype))

            return jax.lax.cond(slot.used, new, lambda: moved), None

        return self.replace(moved=jax.lax.scan(one, self.moved, slots)[0])  # type: ignore[attr-defined]

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check that alternatives broadcast to their sites."""
        shapes = np.shape(self.alt_embed), np.shape(self.alt_heads)[1:]
        for site, got in zip(READS, (*shapes, np.shape(self.alt_neurons)[1:]), strict=True):
            require_broadcast(f"the alternative of {site}", got,
                              site_shape(site, config, *tokens_shape))  # fmt: skip


class Wired(struct.PyTreeNode):
    """Units whose edges are what a circuit consists of; make it with `wired`.

    To the judge it is what a `Dictionary` is for nodes: it knows the values of the leaves, and the
    intervention that closes edges. It holds the model's blocks, since each reader runs its own.

    Attributes:
        decoder: The model's configuration.
        count: E, number of edges.
        direct: Place of the edge from the embedding to the logits.
        heads: Who reads in attention.
        mlps: Who reads in MLPs.
        final: (W,) places of edges into the logits.
        layer: (E,) layer in which each edge is read.
        kind: (E,) number of the kind of its input.
        params: Weights of the blocks.
    """

    decoder: DecoderConfig = struct.field(pytree_node=False)
    count: int = struct.field(pytree_node=False)
    direct: int = struct.field(pytree_node=False)
    heads: Slots
    mlps: Slots
    final: Any
    layer: Any
    kind: Any
    params: Any

    __repr__ = one_line

    @property
    def space(self) -> UnitEdges:
        """Return a mask that is true for every edge."""
        return UnitEdges(np.ones(self.count, bool))

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of embedding, heads and neurons."""
        return READS

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Read the leaves and the embedding: site → (L, B, T, ...), L = 1 for the embedding."""
        return {site: trace[site][None] if site == "embed" else trace[site] for site in READS}

    def mask(self, mask: UnitEdges, alternative: Mapping[str, jax.Array]) -> MaskUnitEdges:
        """Keep edges where the mask is 1; elsewhere readers see what is written when ablated."""
        require_is("mask", mask, UnitEdges)
        require_values("alternative", alternative, READS)
        if np.shape(mask.values) != (self.count,):
            raise InputError("mask of edges", got=f"shape {np.shape(mask.values)}",
                             expected=f"({self.count},)")  # fmt: skip
        shut = 1 - jnp.asarray(mask.values, jnp.float32)
        cut = lambda at: jnp.where(at >= 0, shut[at], 0)  # noqa: E731
        return MaskUnitEdges(
            self.heads._replace(at=cut(self.heads.at)), self.mlps._replace(at=cut(self.mlps.at)),
            cut(self.final), self.params, alternative["embed"][0], alternative["head_out"],
            alternative["neuron"],
        )  # fmt: skip

    def bare(self) -> Wired:
        """Return the value itself, which has no name to drop."""
        return self

    def at(self, prompts: Prompts) -> Wired:
        """Return the value itself, which needs no spans of prompts."""
        return self

    def of(self, model: LanguageModel) -> Wired:
        """Return the same units of a model with other weights."""
        return self.replace(params=_blocks(model))


def wired(model: LanguageModel, frame: Frame) -> Wired:
    """Make the edges between units of a model what circuits consist of.

    With all edges the pass is that of the circuit of nodes with these units; with all units as
    well it is the model's.

    Args:
        model: The model.
        frame: The units and their edges, from `frame_of`.

    Returns:
        What to give the judge as `dictionary`.

    Raises:
        InputError: If the model has other sizes, or is a mixture of experts: a router reads, too,
            and no unit is its reader.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> from hagd_jax.units.unit_edges import frame_of
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> tree = hagd.units.tree(model)
        >>> wired(model, frame_of(tree.space, tree.antichain(["mlp 0", "head 1.1"]), False)).count
        10
    """
    require_is("model", model, LanguageModel)
    require_is("frame", frame, Frame)
    c = model.config
    if c.experts:
        raise InputError("model with edges between units", got=f"{c.experts} experts a layer",
                         expected="dense MLPs")  # fmt: skip
    expected = (c.n_layers, c.n_heads, c.d_mlp), c.parallel_residual
    if (tuple(frame.space), frame.parallel) != expected:
        raise InputError("units with edges between them",
                         got=f"layers, heads, neurons, parallel blocks = {tuple(frame.space)}, "
                         f"{frame.parallel}", expected=f"{expected[0]}, {expected[1]}")  # fmt: skip
    layer, kind = frame.labels
    heads, mlps = frame.slots("attention"), frame.slots("mlp")
    return Wired(c, len(frame), frame.direct, heads, mlps, frame.final(), layer, kind,
                 _blocks(model))  # fmt: skip


def _blocks(model: LanguageModel) -> dict[str, Any]:
    blocks = model.params["blocks"]
    return {name: blocks[name] for name in _BLOCK if name in blocks}
