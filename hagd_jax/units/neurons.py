"""Attention heads and MLP neurons as units: the model's own basis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.errors import require_is
from hagd_jax.interventions import MaskNeurons, chain, mask_heads
from hagd_jax.interventions.shapes import require_values
from hagd_jax.models import (
    Chain,
    Context,
    Intervention,
    LanguageModel,
    scanned,
)
from hagd_jax.models.layers import ACTIVATIONS
from hagd_jax.transcoders.checks import site_of
from hagd_jax.units.dictionary import NEURONS
from hagd_jax.units.directed import Decoders, Directed, Writes
from hagd_jax.units.nodes import Nodes, Space


@struct.dataclass
class AddToNeurons(Intervention):
    """Add to neurons, at the place where their gradients are taken.

    Attributes:
        amount: (L, B, T, M).
    """

    amount: Any = scanned()

    def on_neuron(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToNeurons]:
        """Add this layer's amounts to the neurons."""
        return value + self.amount, self


class Neurons(Directed):
    """This dictionary has the model's own neurons as nodes; make it with `neurons`.

    Activations times output rows sum to the MLP's output, with nothing left over; a norm after the
    MLP stands between that sum and the stream. In a mixture the neurons of a layer are those of all
    its experts, an activation is multiplied by its expert's weight, and edges hold that weight as
    they hold attention patterns.
    """

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and neurons."""
        return Space(self.decoder.n_layers, self.decoder.n_heads, self.decoder.d_mlp)

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of head outputs and neurons."""
        return ("head_out", "neuron")

    @property
    def label(self) -> str:
        """Return the label, the same for every model."""
        return NEURONS

    @property
    def about(self) -> str:
        """Describe the nodes by their numbers."""
        return f"{self.space.features:,} a layer"

    @property
    def per_expert(self) -> tuple[int, ...]:
        """Return the neurons of an expert in each layer of a mixture."""
        c = self.decoder
        each = (0 if layer in c.dense_layers else c.d_expert for layer in range(c.n_layers))
        return tuple(each) if c.experts else ()

    @property
    def name_of_values(self) -> str:
        """Name the activations inside MLPs among the entries of `values`."""
        return "neuron"

    @property
    def source(self) -> str:
        """Name the site of the neurons."""
        return "neuron"

    @property
    def pulls(self) -> tuple[str, ...]:
        """Name the site that neurons read, and in a mixture that of their experts' weights."""
        return (self.reads, "router") if self.decoder.experts else (self.reads,)

    @property
    def writes(self) -> Writes:
        """Name what rows of W_out are added to, which a norm after the MLP reads."""
        return "mlp_out_raw"

    @property
    def most_active(self) -> int | None:
        """Return the number of neurons that a token uses at most; without experts, all of them."""
        c = self.decoder
        return max(c.experts_per_token * c.d_expert, c.d_dense) or self.space.features

    def by_layer(self, trace: Mapping[str, jax.Array], then: Callable[[jax.Array], Any]) -> Any:
        """Process the neurons of one prompt, one layer at a time."""
        return jax.lax.map(then, site_of(trace, "neuron")[:, 0].astype(jnp.float32))

    def decoders(self, model: LanguageModel) -> Decoders:
        """Return the output rows of the MLPs, in a mixture those of all its experts."""
        own = np.arange(model.config.n_layers)
        return Decoders(own, own, model.params["blocks"]["mlp"]["out"]["kernel"])

    def encoders(self, model: LanguageModel) -> jax.Array:
        """Return the input columns of the MLPs, the gate's first."""
        mlp, names = model.params["blocks"]["mlp"], ("gate", "in")
        names = names if model.config.gated_mlp else names[1:]
        return jnp.stack([jnp.swapaxes(mlp[name]["kernel"], 1, 2) for name in names])

    def constant(self, trace: Mapping[str, jax.Array]) -> None:
        """Return None: the neurons and biases explain MLP outputs in full."""

    def pull(
        self, model: LanguageModel, trace: Mapping[str, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Back-propagate gradients through the activation function and the gate.

        In a mixture of experts the weight of a neuron's expert is held, and multiplies them.
        """
        c, params = model.config, model.params["blocks"]["mlp"]
        act, read = ACTIVATIONS[c.activation], site_of(trace, self.reads)
        if c.experts:
            gradient = gradient * jnp.repeat(site_of(trace, "router"), c.d_expert, axis=-1)

        def before(name: str) -> jax.Array:
            kernel = params[name]["kernel"].astype(read.dtype)
            part = jnp.einsum("lbtd,ldf->lbtf", read, kernel)
            bias = params[name].get("bias")
            return part if bias is None else part + bias[:, None, None]

        if c.gated_mlp:
            _, back = jax.vjp(lambda gate, up: act(gate) * up, before("gate"), before("in"))
        else:
            _, back = jax.vjp(act, before("in"))
        return back(gradient.astype(read.dtype))

    def adding(self, amount: jax.Array) -> Intervention:
        """Add to the neurons."""
        return AddToNeurons(amount)

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Read head outputs and neurons from a trace."""
        return {site: site_of(trace, site) for site in self.capture}

    def mask(
        self, mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
    ) -> Intervention:
        """Interpolate heads and neurons."""
        return mask_nodes(mask, alternative, span)


def neurons(model: LanguageModel) -> Neurons:
    """Make the dictionary of a model's neurons, which is exact and has no error term.

    Args:
        model: The model.

    Returns:
        The dictionary.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> neurons(model).space
        Space(layers=2, heads=2, features=16)
    """
    require_is("model", model, LanguageModel)
    return Neurons(model.config, NEURONS)


def mask_nodes(
    mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
) -> Chain:
    """Keep heads and neurons where the mask is 1, replace them where it is 0.

    Args:
        mask: `Nodes` of bool or float; a prompt axis after the layers is allowed.
        alternative: `head_out` and `neuron` values: a trace of other prompts (counterfactual), or
            the result of `zero_alternative`, `mean_alternative` or `resample_alternative`.
            Finite: a NaN or an infinity in it reaches the model even where the mask is 1.
        span: (B, T) number of the span of each token, if the masks have an axis of spans before
            the nodes.

    Returns:
        The intervention.

    Raises:
        InputError: If the alternative lacks one of the two sites.
    """
    require_is("mask", mask, Nodes)
    require_values("alternative", alternative, ("head_out", "neuron"))
    neurons = MaskNeurons(mask.astype(jnp.float32).features, alternative["neuron"], span)
    return chain(mask_heads(mask.heads, alternative["head_out"], span), neurons)
