"""Edges between components as what a circuit can consist of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import jax

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import require_is
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units.dictionary import Dictionary
from hagd_jax.units.edges import WRITES, Edges, MaskEdges, mask_edges
from hagd_jax.units.features import Source, as_dictionary
from hagd_jax.units.wired import Wired


class Components(struct.PyTreeNode):
    """This dictionary has the edges between components as units; make it with `components`.

    To the judge it is what a `Dictionary` is for nodes: it knows the values of the writers, and
    the intervention that cuts edges.

    Attributes:
        decoder: The model's configuration.
    """

    decoder: DecoderConfig = struct.field(pytree_node=False)

    __repr__ = one_line

    @property
    def space(self) -> Edges:
        """Return a mask that is true where an edge exists."""
        return Edges.existing(self.decoder)

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of what writers write."""
        return WRITES

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Read what writers write: site → (L, B, T, ...), with L = 1 for the embedding."""
        return {
            site: trace[site][None] if site == "embed" else trace[site] for site in self.capture
        }

    def mask(self, mask: Edges, alternative: Mapping[str, jax.Array]) -> MaskEdges:
        """Keep edges where the mask is 1; elsewhere readers see the alternative."""
        own = dict(alternative, embed=alternative["embed"][0])
        return mask_edges(self.decoder, mask, own)

    def bare(self) -> Components:
        """Return the dictionary itself, which has no name to drop."""
        return self

    def at(self, prompts: Prompts) -> Components:
        """Return the value itself, which needs no spans of prompts."""
        return self


def components(model: LanguageModel) -> Components:
    """Make the component graph of a model: edges from heads, MLPs and embedding to their readers.

    Args:
        model: The model.

    Returns:
        What to give the judge as `dictionary`.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> int(components(model).space.count())
        46
    """
    require_is("model", model, LanguageModel)
    return Components(model.config)


# What masks are trained over and scores are of; and what circuits that are judged consist of.
Parts = Dictionary | Components
AnyParts = Parts | Wired


@overload
def parts_of(model: LanguageModel, source: Parts | Source | None) -> Parts: ...
@overload
def parts_of(model: LanguageModel, source: AnyParts | Source | None) -> AnyParts: ...
def parts_of(model: LanguageModel, source: AnyParts | Source | None) -> AnyParts:
    """Choose the units of circuits: nodes of a dictionary, or edges between components."""
    if isinstance(source, Components | Wired):
        return source
    return as_dictionary(model, source).bare()
