"""What a transcoder is trained to make small."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph, own_edges
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.kernels import native, products, sparse
from hagd_jax.transcoders.training.loss_config import LossConfig

Params = dict[str, Any]


class Observed(struct.PyTreeNode):
    """Observations are what MLPs read and write on N = B · T tokens, in normalised units.

    Attributes:
        x: (L, N, D) what features read.
        y: (L, N, D) MLP outputs.
        weight: (B, T) 1 for tokens that count, 0 for BOS and padding.
        directions: v and J_MLP v at `some` tokens, (L, n, D) each; None without the Jacobian term.
    """

    x: jax.Array
    y: jax.Array
    weight: jax.Array
    directions: tuple[jax.Array, jax.Array] | None = None

    __repr__ = one_line


class Terms(struct.PyTreeNode):
    """Terms are the loss of one batch and what is measured beside it.

    Attributes:
        loss: () what is made small.
        fvu: (L,) squared error over the variance that was estimated before training, both of
            outputs no larger than `most` allows.
        l0: (L,) active features a token.
        fired: (L, F) tokens on which each feature is active.
        smallest: (L,) the smallest activation that is not zero.
        parts: Name → () the other terms, before their weights.
    """

    loss: jax.Array
    fvu: jax.Array
    l0: jax.Array
    fired: jax.Array
    smallest: jax.Array
    parts: dict[str, jax.Array]

    __repr__ = one_line


def by_rows(config: TranscoderConfig, mesh: jax.sharding.Mesh | None) -> bool:
    """Tell whether a transcoder computes with lists of active features (`kernels/sparse.py`).

    Where matrix units or GPUs do the dense products, those are faster; measured on CPU only.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return (
        config.activation == "topk"
        and config.dtype in ("float32", "bfloat16")
        and not config.predict
        and getattr(device, "platform", "") == "cpu"
        and native.available()
    )


def terms(
    params: Params,
    observed: Observed,
    dead: jax.Array | None,
    *,
    config: TranscoderConfig,
    loss: LossConfig,
    mesh: jax.sharding.Mesh | None = None,
) -> Terms:
    """Compute Σ_l ‖y − ŷ‖² (as FVU) and the other terms, on normalised activations.

    The error of a token is divided by ‖y‖² / (most · D), where that is above 1.

    Args:
        params: The transcoder's.
        observed: What it should imitate.
        dead: (L, F) bool, or None if no feature is.
        config: The transcoder.
        loss: Weights of the terms.
        mesh: Devices, or None.

    Returns:
        The terms; `loss` is differentiable in `params` and in x and y of `observed`.
    """
    x, y, directions = observed.x, observed.y, observed.directions
    dead = dead if loss.dead else None
    make = _by_rows if by_rows(config, mesh) else _densely
    looked = functools.partial(some, length=observed.weight.shape[1], every=loss.jacobian_every)
    found = make(params, x, dead, looked, directions, config, mesh)
    weight = observed.weight.reshape(-1)
    tokens = jnp.maximum(weight.sum(), 1)
    share = 1 / jnp.maximum(jnp.mean(y**2, -1) / loss.most, 1)

    def mean(per_token: jax.Array) -> jax.Array:
        """(L, N) → (L,), over tokens that count."""
        return per_token @ weight / tokens

    def fvu_of(error: jax.Array) -> jax.Array:
        return mean(share * jnp.mean(error**2, -1))

    error = y - found["output"] - feat.skip(params, x)
    fvu = fvu_of(error)
    parts = {"reconstruction": fvu.mean()}
    if loss.prefixes:
        nested = [y - found["prefix"](count) - feat.skip(params, x) for count in loss.prefixes]
        parts["nested"] = jnp.asarray(sum(fvu_of(left).mean() for left in nested))
    if loss.dead:
        parts["dead"] = jnp.zeros(())
    if dead is not None:
        left = jax.lax.stop_gradient(error) - found["others"]
        gone = mean(share * jnp.mean(left**2, -1)) * dead.any(-1)
        parts["dead"] = gone.mean()
    if loss.sparsity:
        parts["sparsity"] = mean(_weighted_l1(params, found["dense"], config)).mean()
    if config.predict:
        ahead = jnp.einsum("lnf,lfg->lng", found["dense"][:-1], params["W_pred"])
        miss = found["dense"][1:] - jax.nn.relu(ahead + params["b_pred"][:, None])
        parts["predict"] = mean(jnp.sum(miss**2, -1)).mean() / config.d_model
    if directions is not None:
        truth = directions[1]
        tangent = found["tangent"] + feat.skip(params, directions[0])
        counts = looked(share * weight)
        missed, size = (jnp.sum(counts * jnp.sum(v**2, -1), -1) for v in (tangent - truth, truth))
        parts["jacobian"] = jnp.mean(missed / jnp.maximum(size, 1e-12))
    total = jnp.asarray(sum(getattr(loss, name, 1.0) * part for name, part in parts.items()))
    active = jax.lax.stop_gradient(found["active"]).astype(jnp.float32)
    smallest = jnp.where(active > 0, active, jnp.inf).min((1, 2))
    return Terms(total, fvu, mean(found["l0"]), found["fired"](weight), smallest, parts)


def some(values: jax.Array, *, length: int, every: int) -> jax.Array:
    """Select every n-th token, at the same positions of each sequence: (L, N, ...) → (L, n, ...).

    Args:
        values: N tokens of sequences of equal length.
        length: Of a sequence.
        every: In how many; at least one token a sequence is taken.

    Returns:
        Those tokens.

    Example:
        >>> some(jnp.arange(12).reshape(1, 12), length=6, every=3).tolist()
        [[2, 5, 8, 11]]
    """
    layers, _, *rest = values.shape
    apart = values.reshape(layers, -1, length, *rest)
    return apart[:, :, min(every, length) - 1 :: every].reshape(layers, -1, *rest)


def _by_rows(
    params: Params, x: Any, dead: Any, looked: Any, directions: Any, config: Any, mesh: Any
) -> dict[str, Any]:
    count = config.n_features
    if dead is not None:
        active, others = sparse.encode_with_dead(params, x, dead, config, mesh)
        # Side by side, so that a decoder's gradient is written once for both.
        both = jax.tree.map(lambda a, b: _interleave(a, b), active, others)
        outputs = sparse.decode(params | {"b_dec": 0 * params["b_dec"]}, both, config, mesh)
        outputs = outputs.reshape(*x.shape[:2], 2, -1)
        found = {"output": outputs[:, :, 0] + params["b_dec"][:, None], "others": outputs[:, :, 1]}
    else:
        active = sparse.encode(params, x, config, mesh)
        found = {"output": sparse.decode(params, active, config, mesh)}
    if directions is not None:
        here = jax.tree.map(looked, active)
        found["tangent"] = _row_tangent(params, here, directions[0], config, mesh)
    real = active.values > 0

    def fired(weight: jax.Array) -> jax.Array:
        counted = active.replace(values=real * weight[:, None])
        return sparse.count(jax.lax.stop_gradient(counted), count, mesh)

    def prefix(count: int) -> jax.Array:
        first = jnp.where(active.indices < count, active.values, 0)
        return sparse.decode(params, active.replace(values=first), config, mesh)

    l0 = real.sum(-1).astype(jnp.float32)
    return found | {"l0": l0, "fired": fired, "active": active.values, "prefix": prefix}


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """(L, N, K) twice → (L, 2N, K): both lists of a token together, on its device."""
    return jnp.stack([a, b], 2).reshape(a.shape[0], -1, a.shape[-1])


def _row_tangent(
    params: Params, active: sparse.Active, v: Any, config: Any, mesh: Any
) -> jax.Array:
    """J v along the own-layer path: active rows of W_enc, then of the own edge's W_dec."""
    own = products.self_edges(len(v))
    moved: Any = products.dot(v, active.indices, params["W_enc"], own, mesh)
    moved = jnp.where(active.values > 0, moved, 0)
    return products.combine(moved, active.indices, params["W_dec"][own_edges(config)], own, mesh)


def _densely(
    params: Params, x: Any, dead: Any, looked: Any, directions: Any, config: Any, mesh: Any
) -> dict[str, Any]:
    dense, others = _dense_features(params, x, dead, config, mesh)
    found = {"output": feat.decode(params, dense, None, config), "dense": dense}
    if others is not None:
        centred = params | {"b_dec": jnp.zeros_like(params["b_dec"])}
        found["others"] = feat.decode(centred, others, None, config)
    if directions is not None:
        moved = jnp.einsum("lnd,lfd->lnf", directions[0], params["W_enc"]) * (looked(dense) > 0)
        own = params["W_dec"][own_edges(config)]
        found["tangent"] = jnp.einsum("lnf,lfd->lnd", moved, own)
    real = (dense > 0).astype(jnp.float32)
    return found | {
        "l0": real.sum(-1),
        "fired": lambda weight: jnp.einsum("lnf,n->lf", real, weight),
        "active": dense,
        "prefix": lambda count: feat.decode(
            params, jnp.where(jnp.arange(config.n_features) < count, dense, 0), None, config
        ),
    }


@jax.named_scope("encode")
def _dense_features(
    params: Params, x: Any, dead: Any, config: TranscoderConfig, mesh: Any
) -> tuple[jax.Array, jax.Array | None]:
    """(L, N, F) features, and those of dead ones as if the others did not exist."""
    names = [name for name in ("W_enc", "b_enc", "threshold") if name in params]

    # Pre-activations of one layer at a time: the backward pass makes them again.
    @jax.checkpoint
    def layer(inputs: tuple) -> tuple[jax.Array, jax.Array | None]:
        own, x, dead = inputs
        pre = feat.pre_activations(own, x, config)
        found = feat.activate(pre, config, own.get("threshold"), mesh).astype(config.dtype)
        if dead is None:
            return found, None
        others = jax.nn.relu(jnp.where(dead, pre, 0))
        if config.k:
            # Nothing is dead most of the time: spare the sort.
            strongest = functools.partial(feat.topk, k=config.k, mesh=mesh)
            others = jax.lax.cond(dead.any(), strongest, lambda others: others, others)
        return found, others.astype(config.dtype)

    return jax.lax.map(layer, ({name: params[name] for name in names}, x, dead))


def _weighted_l1(params: Params, dense: jax.Array, config: TranscoderConfig) -> jax.Array:
    """(L, N) Σ_f f · ‖all that f writes‖: rescaling a feature does not lower it."""
    senders = jnp.asarray(layer_graph(config).senders)
    squares = jnp.sum(params["W_dec"] ** 2, -1)
    norm = jnp.sqrt(jax.ops.segment_sum(squares, senders, config.n_layers) + 1e-12)
    return jnp.einsum("lnf,lf->ln", dense, norm) / jnp.sqrt(config.d_model)
