"""Edges between components as what a circuit can consist of."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.errors import require_is
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.transcoders.transcoder import Transcoder
from hagd_jax.units.dictionary import Dictionary
from hagd_jax.units.edges import WRITES, Edges, MaskEdges, mask_edges
from hagd_jax.units.features import as_dictionary


class Components(struct.PyTreeNode):
    """The component graph of one model; make it with `components`.

    To the judge it is what a `Dictionary` is for nodes: it knows the values of the writers, and
    the intervention that cuts edges.

    Attributes:
        decoder: The model's configuration.
    """

    decoder: DecoderConfig = struct.field(pytree_node=False)

    __repr__ = one_line

    @property
    def space(self) -> Edges:
        """True where there is an edge."""
        return Edges.existing(self.decoder)

    @property
    def capture(self) -> tuple[str, ...]:
        """What writers write."""
        return WRITES

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Site → (L, B, T, ...) writes; L = 1 for the embedding."""
        return {
            site: trace[site][None] if site == "embed" else trace[site] for site in self.capture
        }

    def mask(self, mask: Edges, alternative: Mapping[str, jax.Array]) -> MaskEdges:
        """Keep edges where the mask is 1; readers of the others see the alternative."""
        own = dict(alternative, embed=alternative["embed"][0])
        return mask_edges(self.decoder, mask, own)

    def bare(self) -> Components:
        """It has no name to leave out."""
        return self


def components(model: LanguageModel) -> Components:
    """The component graph of a model: heads, MLPs, and what they read from each other.

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


Parts = Dictionary | Components


def parts_of(model: LanguageModel, source: Parts | Transcoder | None) -> Parts:
    """What circuits of a model consist of: nodes of a dictionary, or edges between components."""
    if isinstance(source, Components):
        return source
    return as_dictionary(model, source).bare()
