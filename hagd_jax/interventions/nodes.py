"""The nodes of a component circuit: attention heads and MLP neurons."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.models import DecoderConfig

KINDS = ("head", "neuron")
NODE_SITES = {"head": "head_out", "neuron": "neuron"}


@struct.dataclass
class Nodes:
    """One value for each node of a model: a score, a mask, a membership.

    Neurons are an exact dictionary of the MLP: their activations times their output rows sum to
    its output, with nothing left over.

    Attributes:
        heads: (L, H), or (L, B, H) for a value of its own in each prompt.
        neurons: (L, M), or (L, B, M).

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> Nodes.full(config, 1.0).flat().shape
        (36,)
    """

    heads: Any
    neurons: Any

    @classmethod
    def full(cls, config: DecoderConfig, value: float | bool, dtype: Any = None) -> Nodes:
        """The same value for every node."""
        dtype = dtype or (jnp.bool_ if isinstance(value, bool) else jnp.float32)
        return cls(
            jnp.full((config.n_layers, config.n_heads), value, dtype),
            jnp.full((config.n_layers, config.d_mlp), value, dtype),
        )

    @classmethod
    def from_flat(cls, config: DecoderConfig, flat: Any) -> Nodes:
        """Undo `flat`: heads first, each layer by layer."""
        cut = config.n_layers * config.n_heads
        shape = config.n_layers, -1
        return cls(flat[:cut].reshape(shape), flat[cut:].reshape(shape))

    def flat(self) -> np.ndarray:
        """(N,) on the host: all heads layer by layer, then all neurons."""
        return np.concatenate([np.asarray(self.heads).ravel(), np.asarray(self.neurons).ravel()])

    def __invert__(self) -> Nodes:
        return jax.tree.map(jnp.logical_not, self)

    def astype(self, dtype: Any) -> Nodes:
        """The same values in another dtype."""
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), self)


def count_nodes(config: DecoderConfig) -> int:
    """How many heads and neurons a model has."""
    return config.n_layers * (config.n_heads + config.d_mlp)
