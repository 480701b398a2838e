"""A dictionary: what the nodes inside MLPs are, beside the attention heads.

Attribution, search, the judge and reports ask it for the number of nodes, for their values in a
pass, and for the intervention that masks them. The neuron basis is an exact dictionary; a
transcoder's is not: what it does not explain is no node, and stays in whatever is ablated.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Self

import jax

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.models import DecoderConfig, Intervention
from hagd_jax.units.nodes import Nodes, Space

NEURONS, MLPS = "neurons", "mlps"


class Dictionary(struct.PyTreeNode, abc.ABC):
    """A dictionary defines the nodes of a model; it is a pytree, so its weights pass `jit`.

    Attributes:
        decoder: The model's configuration.
        name: Where it came from, for records.
    """

    decoder: DecoderConfig = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False, default="")

    def __init_subclass__(cls, **kwargs: Any):
        # Each subclass is a dataclass of its own; all are printed as below.
        super().__init_subclass__(repr=False, **kwargs)

    def __repr__(self) -> str:
        if not isinstance(self.decoder, DecoderConfig):  # inside a transformation
            return one_line(self)
        layers, heads, features = self.space
        kind = type(self).__name__
        return f"{kind}({self.name!r}: {layers} layers of {heads} heads and {features:,} units)"

    @property
    @abc.abstractmethod
    def space(self) -> Space:
        """Return the numbers of layers, heads and features."""

    @property
    @abc.abstractmethod
    def capture(self) -> tuple[str, ...]:
        """Name the sites from which `values` computes."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """Return the label by which a recorded circuit identifies its dictionary."""

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """Describe the nodes in a few words."""

    @property
    def per_expert(self) -> tuple[int, ...]:
        """Return the neurons of an expert in each layer, for their names.

        0 where a layer is no mixture; empty where no layer is, or units are no neurons.
        """
        return ()

    @abc.abstractmethod
    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Compute the activations of all nodes from a trace.

        Args:
            trace: Of a pass that captured `capture`.

        Returns:
            Name → (L, B, T, ...): of heads `head_out`, and of the rest `neuron` or `feature`.
        """

    @abc.abstractmethod
    def mask(self, mask: Nodes, alternative: Mapping[str, jax.Array]) -> Intervention:
        """Keep nodes where the mask is 1, replace them by the alternative where it is 0.

        Args:
            mask: `Nodes` of bool or float; a prompt axis after the layers is allowed.
            alternative: Named as `values` are; anything that broadcasts to them.

        Returns:
            The intervention. A mask of ones is exact.
        """

    def bare(self) -> Self:
        """Drop the name, which would only enlarge the compilation key."""
        return self.replace(name="")


def tail(label: str) -> str:
    """Return the part of a label that is independent of where a dictionary is stored.

    Example:
        >>> tail("runs/mine#1a2b3c4d"), tail("neurons")
        ('1a2b3c4d', 'neurons')
    """
    return label.rpartition("#")[2]
