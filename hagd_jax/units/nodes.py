"""The nodes of a circuit: attention heads, and features of what the MLPs do."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.models.arrays import read_array


class Space(NamedTuple):
    """A space holds the numbers of layers, heads and features.

    Attributes:
        layers: L.
        heads: Attention heads a layer, H.
        features: Features a layer, F: neurons, or the features of a transcoder.
    """

    layers: int
    heads: int
    features: int

    @property
    def nodes(self) -> int:
        """Return the number of all nodes."""
        return self.layers * (self.heads + self.features)

    @property
    def layer(self) -> np.ndarray:
        """Return the (N,) int32 layer of every node, in the order of `Nodes.flat`."""
        each = (self.heads, self.features)
        return np.concatenate([np.repeat(np.arange(self.layers), n) for n in each]).astype(np.int32)


@struct.dataclass
class Nodes:
    """Nodes hold one value for each node of a model, such as a score or a mask.

    Attributes:
        heads: (L, H), or (L, B, H) for a value of its own in each prompt.
        features: (L, F), or (L, B, F).

    Example:
        >>> Nodes.full(Space(layers=2, heads=2, features=16), 1.0).flat().shape
        (36,)
    """

    heads: Any
    features: Any

    __repr__ = one_line

    @classmethod
    def full(cls, space: Space, value: float | bool, dtype: Any = None) -> Nodes:
        """Fill all nodes with one value."""
        require_is("space", space, Space)
        given = read_array("value", value)
        if given.ndim:
            raise InputError("value", got=f"shape {given.shape}", expected="one number")
        dtype = dtype or (jnp.bool_ if given.dtype == bool else jnp.float32)
        return cls(
            jnp.full((space.layers, space.heads), value, dtype),
            jnp.full((space.layers, space.features), value, dtype),
        )

    @classmethod
    def from_flat(cls, space: Space, flat: Any) -> Nodes:
        """Restore nodes from a flat array: heads first, layer by layer."""
        require_is("space", space, Space)
        flat = read_array("values of nodes", flat)
        if flat.shape != (space.nodes,):
            raise InputError(
                "values of nodes", got=f"shape {flat.shape}", expected=f"({space.nodes},)"
            )
        cut = space.layers * space.heads
        shape = space.layers, -1
        return cls(flat[:cut].reshape(shape), flat[cut:].reshape(shape))

    def flat(self) -> np.ndarray:
        """Copy the (N,) values to the host: all heads layer by layer, then all features."""
        return np.concatenate([np.asarray(self.heads).ravel(), np.asarray(self.features).ravel()])

    def like(self, flat: Any) -> Nodes:
        """Restore values of the same nodes from a flat array."""
        return Nodes.from_flat(self.space, flat)

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and features."""
        layers, *_, heads = np.shape(self.heads)
        return Space(layers, heads, np.shape(self.features)[-1])

    def __invert__(self) -> Nodes:
        return jax.tree.map(jnp.logical_not, self)

    def astype(self, dtype: Any) -> Nodes:
        """Convert the values to another dtype."""
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), self)
