"""A dictionary: what the nodes inside MLPs are, beside the attention heads.

Attribution, search, the judge and reports ask it for the number of nodes, for their values in a
pass, and for the intervention that masks them. The neuron basis is an exact dictionary; a
transcoder's is not: what it does not explain is no node, and stays in whatever is ablated.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import DecoderConfig, Intervention
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.spans import span_names
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
    def mask(
        self, mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
    ) -> Intervention:
        """Keep nodes where the mask is 1, replace them by the alternative where it is 0.

        Args:
            mask: `Nodes` of bool or float; a prompt axis after the layers is allowed.
            alternative: Named as `values` are; anything that broadcasts to them.
            span: (B, T) number of the span of each token, if the masks have an axis of spans
                before the nodes; `Spanned` gives it.

        Returns:
            The intervention. A mask of ones is exact.
        """

    def at(self, prompts: Prompts) -> Self:
        """Return the dictionary for a pass over some prompts, whose spans it may need.

        Args:
            prompts: The prompts that the model will read, or a batch of them.
        """
        return self

    def by_span(self, names: Iterable[str]) -> Spanned:
        """Split each node by the spans of prompts, so that it is a node once for each span.

        Args:
            names: Names of the spans, such as `task.spans`.

        Returns:
            The dictionary of as many nodes for each span; its masks hold where their span is.

        Raises:
            InputError: If there is no name, one comes twice, or nodes are split already.

        Example:
            >>> case = hagd.testbeds.hand_built()[0]
            >>> hagd.units.neurons(case.model).by_span(["letters", "rest"]).space
            Space(layers=1, heads=8, features=12)
        """
        return Spanned(self.decoder, self.name, self, span_names(names))

    def bare(self) -> Self:
        """Drop the name, which would only enlarge the compilation key."""
        return self.replace(name="")


class Spanned(Dictionary):
    """This dictionary has the nodes of another one once for each span; see `Dictionary.by_span`.

    In each layer the heads of the first span come first, then those of the second; so do features.
    A mask is kept by layer and span: inside a layer each token takes the row of its own span, so
    no array has layers and positions at once.

    Attributes:
        base: The dictionary whose nodes are split.
        names: S names of spans.
        span: (R, T) number of the span of each token of a batch, set by `at`.
    """

    base: Dictionary | None = None
    names: tuple[str, ...] = struct.field(pytree_node=False, default=())
    span: Any = None

    def __post_init__(self):
        if isinstance(self.base, Spanned):
            raise InputError("units to split by span", got=f"those of {self.base.label!r}",
                             expected="units that are not split")  # fmt: skip

    @property
    def whole(self) -> Dictionary:
        """Return the dictionary whose nodes are split."""
        assert self.base is not None
        return self.base

    @property
    def space(self) -> Space:
        """Return the number of layers, and S times the numbers of heads and features."""
        layers, heads, features = self.whole.space
        return Space(layers, len(self.names) * heads, len(self.names) * features)

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of the dictionary that is split."""
        return self.whole.capture

    @property
    def label(self) -> str:
        """Return the label of the dictionary that is split, with the names of the spans."""
        return spanned_label(self.whole.label, self.names)

    @property
    def about(self) -> str:
        """Describe the nodes, and how they are split."""
        return f"{self.whole.about}, each by span: {', '.join(self.names)}"

    @property
    def per_expert(self) -> tuple[int, ...]:
        """Return the neurons of an expert in each layer, of the dictionary that is split."""
        return self.whole.per_expert

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Compute the activations of the nodes that are split, at all positions."""
        return self.whole.values(trace)

    def at(self, prompts: Prompts) -> Self:
        """Return the dictionary with the spans of some prompts.

        Raises:
            InputError: If the prompts have other spans, or none.
        """
        if prompts.spans != self.names:
            raise InputError(
                "prompts of a circuit split by span",
                got=f"the spans {', '.join(prompts.spans)}" if prompts.spans else "no spans",
                expected=f"the spans {', '.join(self.names)}",
                mend="Use the task that the circuit was split on, or make spans with "
                "tasks.with_spans.",
            )
        return self.replace(span=prompts.span)

    def mask(
        self, mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
    ) -> Intervention:
        """Keep nodes where the mask is 1, at the positions of their span."""
        span = self.span if span is None else span
        if span is None:
            raise InputError("dictionary split by span", got="a mask without the prompts' spans",
                             expected="one of dictionary.at(prompts)")  # fmt: skip
        require_is("mask", mask, Nodes)

        def split(x: Any) -> jax.Array:
            x = jnp.asarray(x)
            return x.reshape(*x.shape[:-1], len(self.names), -1)

        return self.whole.mask(Nodes(split(mask.heads), split(mask.features)), alternative, span)

    def bare(self) -> Self:
        """Drop the names of both dictionaries."""
        return self.replace(name="", base=self.whole.bare())


# Between the label of a dictionary and the spans that split it, and between those.
_AT, _BETWEEN = "@", ","


def spanned_label(label: str, names: Sequence[str]) -> str:
    """Return the label of a dictionary that is split by span; the same one for no spans.

    Example:
        >>> spanned_label("neurons", ("io", "end", "rest"))
        'neurons@io,end,rest'
    """
    return f"{label}{_AT}{_BETWEEN.join(names)}" if names else label


def spans_of(label: str) -> tuple[str, ...]:
    """Return the names of the spans by which a dictionary is split, read off its label.

    Example:
        >>> spans_of("neurons@io,end,rest"), spans_of("runs/a@b#1a2b3c4d")
        (('io', 'end', 'rest'), ())
    """
    found = tail(label).partition(_AT)[2]
    return tuple(found.split(_BETWEEN)) if found else ()


def whole_label(label: str) -> str:
    """Return the label of the dictionary whose nodes are split, or the same one if none are.

    Example:
        >>> whole_label("neurons@io,end,rest"), whole_label("runs/a@b#1a2b3c4d")
        ('neurons', 'runs/a@b#1a2b3c4d')
    """
    names = spans_of(label)
    return label[: -len(spanned_label("", names))] if names else label


def tail(label: str) -> str:
    """Return the part of a label that is independent of where a dictionary is stored.

    Example:
        >>> tail("runs/mine#1a2b3c4d"), tail("neurons")
        ('1a2b3c4d', 'neurons')
    """
    return label.rpartition("#")[2]
