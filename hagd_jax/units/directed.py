"""Units that read the residual stream along directions and write to it along others."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import Intervention, LanguageModel
from hagd_jax.units.dictionary import Dictionary

Writes = Literal["mlp_out", "mlp_out_raw"]


class Decoders(NamedTuple):
    """Decoders are the directions that features write along the E edges of the layer graph.

    Attributes:
        senders: (E,) layer of the features, ascending.
        receivers: (E,) layer whose MLP output they write to, see `Directed.writes`.
        rows: (E, F, D) what a feature at 1 writes, in the dtype of the weights.
    """

    senders: np.ndarray
    receivers: np.ndarray
    rows: jax.Array

    __repr__ = one_line


class Directed(Dictionary):
    """A directed dictionary has units inside MLPs that read and write along directions."""

    @property
    @abc.abstractmethod
    def name_of_values(self) -> str:
        """Name the activations inside MLPs among the entries of `values`."""

    @property
    @abc.abstractmethod
    def source(self) -> str:
        """Name the site from which the activations inside MLPs are computed."""

    @property
    def reads(self) -> str:
        """Name the site that features read along their directions."""
        return "mlp_in"

    @property
    def pulls(self) -> tuple[str, ...]:
        """Name the sites that `pull` needs of a trace."""
        return (self.reads,)

    @property
    def writes(self) -> Writes:
        """Name where rows of decoders are added: the stream, or the MLP's output before its norm.

        `mlp_out` is the site, what is added to the stream. `mlp_out_raw` is what the norm after
        the MLP reads, in models that have one; in others the two are the same.
        """
        return "mlp_out"

    @property
    def target(self) -> Writes:
        """Name the site whose values features and `constant` reconstruct."""
        return "mlp_out"

    @property
    def skip(self) -> Any:
        """Return the (L, D, D) linear map from what features read to the MLP output, or None."""
        return None

    @property
    def edges(self) -> int:
        """Return the number of edges of the layer graph, one a layer by default."""
        return self.decoder.n_layers

    @property
    def together(self) -> bool:
        """Tell whether activations at one position depend on other positions of a pass."""
        return False

    @property
    @abc.abstractmethod
    def most_active(self) -> int | None:
        """Return the most features active at a position; None if only a pass can tell."""

    @abc.abstractmethod
    def by_layer(self, trace: Mapping[str, jax.Array], then: Callable[[jax.Array], Any]) -> Any:
        """Apply a function to the activations of one prompt, one layer at a time.

        Args:
            trace: Trace of one prompt that captured `source`.
            then: (T, F) float32 activations of a layer → a pytree of arrays.

        Returns:
            The pytree, with a leading L.
        """

    @abc.abstractmethod
    def decoders(self, model: LanguageModel) -> Decoders:
        """Return the directions that features write along each edge of the layer graph."""

    @abc.abstractmethod
    def encoders(self, model: LanguageModel) -> jax.Array:
        """Return (K, L, F, D) directions that features read; K is 2 for gated neurons."""

    @abc.abstractmethod
    def constant(self, trace: Mapping[str, jax.Array]) -> jax.Array | None:
        """Return the part of MLP outputs that does not depend on the features.

        Args:
            trace: Trace of one prompt that captured `reads`.

        Returns:
            (L, T, D) float32; or None where features explain the MLP outputs exactly.
        """

    @abc.abstractmethod
    def pull(
        self, model: LanguageModel, trace: Mapping[str, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Back-propagate gradients from activations to what the features read.

        Args:
            model: The model.
            trace: Trace of B prompts that captured `pulls`.
            gradient: (L, B, T, F) gradient with respect to the activations.

        Returns:
            K arrays (L, B, T, F): the gradients with respect to read · encoder.
        """

    @abc.abstractmethod
    def adding(self, amount: jax.Array) -> Intervention:
        """Add amounts to the activations of features, where gradients are taken.

        Args:
            amount: (L, B, T, F).

        Returns:
            The intervention.
        """
