"""The nodes of a circuit: attention heads, and features of what the MLPs do."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is
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
        layers, heads, features = _sizes(self)
        return layers * (heads + features)

    @property
    def layer(self) -> np.ndarray:
        """Return the (N,) int32 layer of every node, in the order of `Nodes.flat`."""
        layers, *each = _sizes(self)
        return np.concatenate([np.repeat(np.arange(layers), n) for n in each]).astype(np.int32)


# Layers, or nodes of a layer, in a space.
_MOST = 1 << 31


def _sizes(space: Space) -> Space:
    """The sizes of a space, which its constructor takes as they come since JAX makes spaces too."""
    require_is("space", space, Space)
    named = zip(Space._fields, space, strict=True)
    return Space(*(require_index(f"{name} of a space", size, _MOST) for name, size in named))


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
        space = _sizes(space)
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
        space = _sizes(space)
        flat = read_array("values of nodes", flat)
        if flat.shape != (space.nodes,):
            raise InputError(
                "values of nodes", got=f"shape {flat.shape}", expected=f"({space.nodes},)"
            )
        cut = space.layers * space.heads
        heads, features = (space.layers, space.heads), (space.layers, space.features)
        return cls(flat[:cut].reshape(heads), flat[cut:].reshape(features))

    def flat(self) -> np.ndarray:
        """Copy the (N,) values to the host: all heads layer by layer, then all features."""
        both = (read_array(name, value) for name, value in vars(self).items())
        return np.concatenate([np.asarray(value).ravel() for value in both])

    def like(self, flat: Any) -> Nodes:
        """Restore values of the same nodes from a flat array."""
        return Nodes.from_flat(self.space, flat)

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and features."""
        heads, features = (_shape(name, value) for name, value in vars(self).items())
        if heads[0] != features[0]:
            got = f"{heads[0]} layers of heads, {features[0]} of features"
            raise InputError("nodes", got=got, expected="one number of layers")
        return Space(heads[0], heads[-1], features[-1])

    def __invert__(self) -> Nodes:
        return jax.tree.map(jnp.logical_not, self)

    def astype(self, dtype: Any) -> Nodes:
        """Convert the values to another dtype."""
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), self)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    """The shape of heads or features; JAX makes nodes of what only has a shape, too."""
    shape = getattr(value, "shape", None)
    shape = shape if isinstance(shape, tuple) else read_array(name, value).shape
    if len(shape) not in (2, 3):
        expected = "layers and nodes of a layer, with prompts between them or not"
        raise InputError(name, got=f"shape {shape}", expected=expected)
    return shape
