"""What writes to the residual stream in one prompt: active features, errors, embeddings.

Features lie in slots, K of each (layer, position), in rising order of the feature; empty slots
have activation 0. A dictionary whose features are nearly all active has a slot for each of them:
then its decoder is used as it is, and no row of it is copied.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.models.layers import embed_scale
from hagd_jax.parallel import constrain, replicate
from hagd_jax.units import Directed

# A slot for every feature when more than this share of them is active somewhere: one product with
# the whole decoder is then faster than many small ones.
_DENSE = 0.25


class Sources(struct.PyTreeNode):
    """Sources are what writes to the stream: features, errors and embeddings of a prompt.

    Attributes:
        activation: (L, T, K) of the feature in each slot; 0 in empty ones.
        index: (L, T, K) which feature; None if slot i is feature i.
        decoders: (E, T, K, D) rows of the features in the slots, or (E, F, D) all rows.
        error: (L, T, D) what features do not explain of the MLP outputs.
        embedding: (T, D) token embeddings, scaled as the model scales them.
        senders: (E,) the layer whose features an edge carries.
        receivers: (E,) the layer it writes to.
        writes: Where rows of decoders and errors are added, see `Directed.writes`.
    """

    activation: jax.Array
    index: jax.Array | None
    decoders: jax.Array
    error: jax.Array
    embedding: jax.Array
    senders: Any = struct.field(pytree_node=False)
    receivers: Any = struct.field(pytree_node=False)
    writes: str = struct.field(pytree_node=False, default="mlp_out")

    __repr__ = one_line

    @property
    def window(self) -> int:
        """Return the number of layers above its own to which a feature writes."""
        return max(r - s for s, r in zip(self.senders, self.receivers, strict=True))


def sources(
    model: LanguageModel,
    dictionary: Directed,
    tokens: jax.Array,
    trace: dict[str, jax.Array],
    counts: jax.Array,
    check: Callable[[int, int], None] | None = None,
) -> Sources:
    """Find what writes to the stream in a prompt.

    Args:
        model: The model.
        dictionary: Its features.
        tokens: (1, T).
        trace: Of the prompt, with `source_sites(dictionary)` captured.
        counts: (T,) bool: positions whose features and errors are nodes.
        check: Told the slots of a position and the active features, before rows are copied,
            if that was not known before the pass (`Directed.most_active`).

    Returns:
        The `Sources`.

    Raises:
        InputError: If activations are not finite.
    """
    bare, own = model.bare(), dictionary.bare()
    most = dictionary.most_active
    if most is None:
        most, active = map(int, _count_active(own, trace, counts))
        if check is not None:
            check(slots_for(most, dictionary.space.features), active)
    slots = slots_for(most, dictionary.space.features)
    found, finite = gathered(bare, own, tokens, trace, counts, slots)
    if not finite:
        raise InputError(
            "activations",
            got="NaN or infinity",
            expected="finite numbers",
            mend="Compute in float32, or check the weights.",
        )
    return found


def source_sites(dictionary: Directed) -> tuple[str, ...]:
    """List the sites that `sources` needs of a pass."""
    return (dictionary.source, *dictionary.pulls, "mlp_in", dictionary.target)


def slots_for(most: int, features: int) -> int:
    """Choose the feature slots of a position from a few sizes, to share compiled programs.

    Args:
        most: Active features at any one position.
        features: In the dictionary.

    Returns:
        At least `most`; all of the features, once a good part of them is active.

    Example:
        >>> slots_for(30, 4096), slots_for(33, 4096), slots_for(2000, 4096)
        (32, 48, 4096)
    """
    if most > _DENSE * features:
        return features
    return min(round_up(max(most, 1)), features)


def round_up(count: int) -> int:
    """Round up to the next of 8, 16, 24, 32, 48, 64, 96, 128, ...

    Example:
        >>> [round_up(n) for n in (1, 9, 17, 33, 65, 2048)]
        [8, 16, 24, 48, 96, 2048]
    """
    if count <= 16:
        return 8 * math.ceil(count / 8)
    power = 2 ** math.floor(math.log2(count - 1))
    return next(size for size in (power, 3 * power // 2, 2 * power) if size >= count)


@jax.jit
def _count_active(
    dictionary: Directed, trace: dict[str, jax.Array], counts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How many features are active at the position that has most, and everywhere."""
    each = _by_layer(dictionary, trace, counts, lambda found: jnp.sum(found != 0, -1))
    return each.max(), each.sum()


@functools.partial(jax.jit, static_argnames="slots")
def gathered(
    model: LanguageModel,
    dictionary: Directed,
    tokens: jax.Array,
    trace: dict[str, jax.Array],
    counts: jax.Array,
    slots: int,
) -> tuple[Sources, jax.Array]:
    """Gather sources into a fixed number of slots per position, and tell if they are finite."""
    features = dictionary.space.features

    def layer(found: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        finite = jnp.isfinite(found).all()
        if slots == features:
            return found, None, finite
        size, index = jax.lax.top_k(jnp.abs(found), slots)
        # Empty slots last, the others in rising order.
        index = jnp.sort(jnp.where(size > 0, index, features), -1)
        used = jnp.minimum(index, features - 1)
        values = jnp.where(index < features, jnp.take_along_axis(found, used, -1), 0)
        return values, used.astype(jnp.int32), finite

    activation, index, finite = _by_layer(dictionary, trace, counts, layer)
    senders, receivers, decoders = dictionary.decoders(model)
    if index is not None:
        # One edge after the other: devices that share a decoder need all of it for a moment.
        decoders = jax.lax.map(
            lambda edge: constrain(edge[0][edge[1]], ("length", "features", None), model.mesh),
            (decoders, index[senders]),
        )
    out = trace[dictionary.target][:, 0].astype(jnp.float32)
    finite = replicate(finite.all() & jnp.isfinite(out).all(), model.mesh)
    table = model.params["embed"]["embedding"].astype(jnp.float32)
    made = Sources(
        activation=constrain(activation, ("layers", "length", "features"), model.mesh),
        index=index,
        decoders=decoders,
        error=jnp.zeros_like(out),
        embedding=table[tokens[0]] * embed_scale(model.config),
        senders=tuple(senders.tolist()),
        receivers=tuple(receivers.tolist()),
        writes=dictionary.writes,
    )
    constant = dictionary.constant(trace)
    if constant is None:
        return made, finite  # nothing is left over
    error = out - _reconstructed(made, constant)
    return made.replace(error=jnp.where(counts[:, None], error, 0)), finite


def _by_layer(dictionary: Directed, trace: dict[str, jax.Array], counts: Any, then: Any) -> Any:
    """What `then` makes of each layer's (T, F) activations, one layer at a time."""
    return dictionary.by_layer(trace, lambda found: then(jnp.where(counts[:, None], found, 0)))


def _reconstructed(found: Sources, constant: jax.Array) -> jax.Array:
    """(L, T, D) MLP outputs from the features in the slots and what does not depend on them."""
    form = "tk,kd->td" if found.index is None else "tk,tkd->td"

    def edge(total: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        rows, sender, receiver = inputs
        part = jnp.einsum(form, found.activation[sender], rows.astype(jnp.float32))
        return total.at[receiver].add(part), None

    edges = found.decoders, np.asarray(found.senders), np.asarray(found.receivers)
    total, _ = jax.lax.scan(edge, constant, edges)
    return total
