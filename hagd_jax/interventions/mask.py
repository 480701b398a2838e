"""Move nodes toward what they would be without the behaviour: zero, mean, another prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.errors import InputError
from hagd_jax.interventions.nodes import NODE_SITES, Nodes
from hagd_jax.interventions.shapes import require_broadcast
from hagd_jax.models import Context, DecoderConfig, Intervention, scanned
from hagd_jax.models.sites import site_shape

Trace = Mapping[str, jax.Array]


@struct.dataclass
class MaskNodes(Intervention):
    """Interpolates nodes toward alternatives: v ← m · v + (1 − m) · alt.

    A mask of ones is exact: the value comes back bit for bit, whatever the alternatives, as long
    as they are finite (0 · ∞ is NaN).

    Attributes:
        mask: `Nodes` in [0, 1]: 1 keeps a node, 0 ablates it.
        head_alt: (L, B, T, H, Dh), or anything that broadcasts to it.
        neuron_alt: (L, B, T, M), or anything that broadcasts to it.
    """

    mask: Any = scanned()
    head_alt: Any = scanned()
    neuron_alt: Any = scanned()

    def on_head_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskNodes]:
        """Interpolate the heads' outputs before W_O."""
        mask = self.mask.heads[..., None, :, None]
        return mask * value + (1 - mask) * self.head_alt, self

    def on_neuron(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, MaskNodes]:
        """Interpolate the neurons' activations."""
        mask = self.mask.neurons[..., None, :]
        return mask * value + (1 - mask) * self.neuron_alt, self

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Masks have one entry a node, and alternatives broadcast to their sites."""
        for name, mask, alternative in (
            ("head", self.mask.heads, self.head_alt),
            ("neuron", self.mask.neurons, self.neuron_alt),
        ):
            width = config.n_heads if name == "head" else config.d_mlp
            shape = np.shape(mask)
            if shape[1:] not in ((width,), (1, width), (tokens_shape[0], width)):
                raise InputError(
                    f"the mask of {name}s",
                    got=f"shape {shape}",
                    expected=f"{(config.n_layers, width)}, or with an axis of "
                    f"{tokens_shape[0]} prompts after the layers",
                )
            target = site_shape(NODE_SITES[name], config, *tokens_shape)
            require_broadcast(f"{name}_alt, in each layer", np.shape(alternative)[1:], target)


def mask_nodes(mask: Nodes, alternative: Trace) -> MaskNodes:
    """Keep nodes where the mask is 1, replace them by the alternative where it is 0.

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
    missing = [site for site in NODE_SITES.values() if site not in alternative]
    if missing:
        raise InputError(
            "alternative",
            got=sorted(alternative),
            expected=f"{missing} as well",
            mend="Capture both `head_out` and `neuron`.",
        )
    return MaskNodes(mask.astype(jnp.float32), alternative["head_out"], alternative["neuron"])


def zero_alternative(trace: Trace) -> dict[str, jax.Array]:
    """Zeros in place of every node.

    Args:
        trace: Any trace with the node sites; only its shapes are used.

    Returns:
        Site → zeros that broadcast over prompts and positions.
    """
    return {site: jnp.zeros_like(trace[site][:, :1, :1]) for site in NODE_SITES.values()}


def mean_alternative(trace: Trace, weight: jax.Array) -> dict[str, jax.Array]:
    """The mean of every node at each position over reference prompts.

    Args:
        trace: Captured node sites of the reference prompts.
        weight: (B, T) 1 for real tokens, 0 for padding.

    Returns:
        Site → (L, 1, T, ...) means; at positions where no prompt has a token, the mean over all
        positions.
    """
    return mean_of_sums(*position_sums(trace, weight))


def position_sums(trace: Trace, weight: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """What `mean_alternative` divides; the sums of several batches add up.

    Args:
        trace: Captured node sites.
        weight: (B, T) 1 for real tokens, 0 for padding.

    Returns:
        Site → (L, 1, T, ...) sums over prompts, and (T,) how many tokens went into each.
    """

    def total(value: jax.Array) -> jax.Array:
        w = weight.reshape(1, *weight.shape, *[1] * (value.ndim - 3))
        return (value * w).sum(1, keepdims=True)

    return {site: total(trace[site]) for site in NODE_SITES.values()}, weight.sum(0)


def mean_of_sums(sums: Trace, count: jax.Array) -> dict[str, jax.Array]:
    """Means from (added up) results of `position_sums`; see `mean_alternative`."""

    def mean(total: jax.Array) -> jax.Array:
        n = count.reshape(1, 1, -1, *[1] * (total.ndim - 3))
        overall = total.sum(2, keepdims=True) / n.sum()
        return jnp.where(n > 0, total / jnp.maximum(n, 1), overall)

    return {site: mean(total) for site, total in sums.items()}


def resample_alternative(trace: Trace, order: jax.Array) -> dict[str, jax.Array]:
    """Every node's value from another prompt of the same batch.

    Args:
        trace: Captured node sites.
        order: (B,) which prompt stands in for each.

    Returns:
        Site → reordered values.
    """
    return {site: trace[site][:, order] for site in NODE_SITES.values()}
