"""Attention heads and MLP neurons as units: the model's own basis."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from hagd_jax.errors import require_is
from hagd_jax.interventions import MaskNeurons, chain, mask_heads
from hagd_jax.interventions.shapes import require_values
from hagd_jax.models import Chain, Intervention, LanguageModel
from hagd_jax.transcoders.replace import site_of
from hagd_jax.units.dictionary import NEURONS, Dictionary
from hagd_jax.units.nodes import Nodes, Space


class Neurons(Dictionary):
    """The model's own basis; make it with `neurons`.

    Activations times output rows sum to the MLP's output, with nothing left over.
    """

    @property
    def space(self) -> Space:
        """Heads and neurons."""
        return Space(self.decoder.n_layers, self.decoder.n_heads, self.decoder.d_mlp)

    @property
    def capture(self) -> tuple[str, ...]:
        """What the nodes are already."""
        return ("head_out", "neuron")

    @property
    def label(self) -> str:
        """Always the same."""
        return NEURONS

    @property
    def about(self) -> str:
        """How many."""
        return f"{self.space.features:,} a layer"

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The two sites."""
        return {site: site_of(trace, site) for site in self.capture}

    def mask(self, mask: Nodes, alternative: Mapping[str, jax.Array]) -> Intervention:
        """Interpolate both."""
        return mask_nodes(mask, alternative)


def neurons(model: LanguageModel) -> Neurons:
    """The neuron basis of a model: an exact dictionary, with no error term.

    Args:
        model: The model.

    Returns:
        The dictionary.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> neurons(models.init(config, jax.random.key(0))).space
        Space(layers=2, heads=2, features=16)
    """
    return Neurons(model.config, NEURONS)


def mask_nodes(mask: Nodes, alternative: Mapping[str, jax.Array]) -> Chain:
    """Keep heads and neurons where the mask is 1, replace them where it is 0.

    Args:
        mask: `Nodes` of bool or float; a prompt axis after the layers is allowed.
        alternative: `head_out` and `neuron` values: a trace of other prompts (counterfactual), or
            the result of `zero_alternative`, `mean_alternative` or `resample_alternative`.
            Finite: a NaN or an infinity in it reaches the model even where the mask is 1.

    Returns:
        The intervention.

    Raises:
        InputError: If the alternative lacks one of the two sites.
    """
    require_is("mask", mask, Nodes)
    require_values("alternative", alternative, ("head_out", "neuron"))
    neurons = MaskNeurons(mask.astype(jnp.float32).features, alternative["neuron"])
    return chain(mask_heads(mask.heads, alternative["head_out"]), neurons)
