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
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.models import DecoderConfig, Intervention
from hagd_jax.units.nodes import Nodes, Space

NEURONS, MLPS = "neurons", "mlps"


class Dictionary(struct.PyTreeNode, abc.ABC):
    """Nodes of one model; a pytree, so that it passes through `jit` with its weights.

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
        """How many nodes there are."""

    @property
    @abc.abstractmethod
    def capture(self) -> tuple[str, ...]:
        """The sites from which `values` computes."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What a circuit records, and by which it knows its dictionary again."""

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """What it is, in a few words."""

    @abc.abstractmethod
    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """What every node is in a pass.

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
        """Without its name, which would enter a compilation key for nothing."""
        return self.replace(name="")


def tail(label: str) -> str:
    """What of a dictionary's label does not depend on where it lies: a digest, or its kind.

    Example:
        >>> tail("runs/mine#1a2b3c4d"), tail("neurons")
        ('1a2b3c4d', 'neurons')
    """
    return label.rpartition("#")[2]
