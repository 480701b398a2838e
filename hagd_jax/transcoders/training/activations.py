"""What a transcoder is trained on: activations of all layers, and the scales they come in."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError, TrainingError
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import to_global
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.training.normalise import Moments, Normalisation


@functools.partial(jax.jit, static_argnames=("config",))
def moments(
    model: LanguageModel, tokens: jax.Array, weight: jax.Array, *, config: TranscoderConfig
) -> Moments:
    """Sum a batch's activations and their squares for normalisation.

    Args:
        model: Whose activations.
        tokens: (B, T).
        weight: (B, T) 1 for tokens that count.
        config: Which sites.

    Returns:
        The sums.
    """
    return Moments.of(*activations(model, tokens, config), weight.reshape(-1))


def activations(
    model: LanguageModel, tokens: jax.Array, config: TranscoderConfig
) -> tuple[jax.Array, jax.Array]:
    """Compute what features read and what MLPs write, for all layers in one pass.

    Args:
        model: The model.
        tokens: (B, T).
        config: Which site is read.

    Returns:
        x and y, (L, B · T, D) float32.
    """
    # Nobody reads the logits, so the compiler leaves the unembedding out.
    target = config.target(model.config)
    trace = forward(model, tokens, capture=(config.reads, target)).trace
    flat = (config.n_layers, -1, config.d_model)
    x, y = trace[config.reads], trace[target]
    return x.reshape(flat).astype(jnp.float32), y.reshape(flat).astype(jnp.float32)


def estimate(
    model: LanguageModel, batches: Iterable[Any], config: TranscoderConfig
) -> Normalisation:
    """Estimate means and scales of a model's activations from some batches of text.

    Args:
        model: The model, without tokenizer and name (`model.bare()`), on any mesh.
        batches: Pairs of (B, T) token ids and (B, T) weights; of each, this process's rows.
        config: The transcoder to be trained: which site it reads.

    Returns:
        The normalisation of the tokens of positive weight.

    Raises:
        InputError: If no token has a positive weight.
        TrainingError: If an activation is not finite; the message names the layer.
    """
    sums = None
    for batch in batches:
        found = moments(model, *to_global(model.mesh, tuple(batch)), config=config)
        sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
    if sums is None or float(sums.count) == 0:
        raise InputError(
            "text to estimate scales from",
            got="no token of positive weight",
            expected="some text",
            mend="Is the corpus shorter than one batch?",
        )
    stats = sums.normalisation()
    for layer in range(config.n_layers):
        rows = jax.tree.map(lambda leaf: np.asarray(leaf[layer]), stats)  # noqa: B023
        if not all(np.isfinite(row).all() for row in jax.tree.leaves(rows)):
            raise TrainingError(
                f"activations at layer {layer}",
                got="NaN or infinity",
                expected="finite numbers",
                mend="Do the model's weights fit its dtype? Try --dtype float32.",
            )
    return stats
