"""Does a dictionary explain anything of what a model's MLPs write?

A dictionary of another model, layer or site may have the right shape, and computes without a word.
Its fraction of variance unexplained tells: FVU = Σ‖y − ŷ‖² / Σ‖y − ȳ‖², which the mean output alone
brings to 1. Features that mean something stay below, and others are near it or far above.
"""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, forward
from hagd_jax.models.model import encode
from hagd_jax.parallel import replicate
from hagd_jax.transcoders import replace
from hagd_jax.units.dictionary import Dictionary
from hagd_jax.units.features import Features

_LOG = logging.getLogger("hagd_jax")
# Nothing is explained from here on.
NOTHING = 0.95
# Fewer tokens have no variance to speak of.
_FEWEST = 4
_TEXT = (
    "The committee met on Tuesday to discuss the new bridge over the river. After two hours, its "
    "chairman said that the costs had doubled since 2019, and that nobody knew why."
)


@jax.jit
def unexplained(out: jax.Array, error: jax.Array, counts: jax.Array) -> jax.Array:
    """Compute the fraction of variance that a reconstruction leaves unexplained in every layer.

    Args:
        out: (L, T, D) what the MLPs write.
        error: (L, T, D) that minus the reconstruction.
        counts: (T,) bool: which tokens count.

    Returns:
        (L,) float32; NaN if fewer than four tokens count.

    Example:
        >>> out = jax.random.normal(jax.random.key(0), (2, 9, 5))
        >>> mean = out.mean(1, keepdims=True)
        >>> unexplained(out, out - mean, jnp.ones(9, bool)).round(4).tolist()
        [1.0, 1.0]
    """
    weight = counts.astype(jnp.float32)[:, None]
    total = weight.sum()
    out, error = out.astype(jnp.float32), error.astype(jnp.float32)
    mean = (out * weight).sum(1, keepdims=True) / total
    spread = ((out - mean) ** 2 * weight).sum((1, 2))
    missed = (error**2 * weight).sum((1, 2))
    return jnp.where(total >= _FEWEST, missed / spread, jnp.nan)


def doubt(fvu: np.ndarray, name: str) -> str | None:
    """Say what is wrong with a dictionary that explains nothing.

    Args:
        fvu: (L,) of the layers.
        name: Of the dictionary.

    Returns:
        A sentence; None if it explains something in most layers, or that is not known.

    Example:
        >>> print(doubt(np.array([1.5, 0.99]), "gemma-scope"))
        The features of gemma-scope explain nothing of what the MLPs of 2 of 2 layers write here \
(median FVU 1.25, where the mean output alone has 1): they were probably made for another model, \
layer or site.
        >>> doubt(np.array([0.4, 0.99, 0.3]), "gemma-scope")
    """
    bad = int((fvu >= NOTHING).sum())
    if 2 * bad < len(fvu) or not np.isfinite(fvu).any():
        return None
    return (
        f"The features of {name} explain nothing of what the MLPs of {bad} of {len(fvu)} layers "
        f"write here (median FVU {np.nanmedian(fvu):.2f}, where the mean output alone has 1): they "
        "were probably made for another model, layer or site."
    )


def warn_of_nothing(model: LanguageModel, dictionary: Dictionary) -> np.ndarray | None:
    """Warn of a transcoder that explains nothing of two English sentences.

    Args:
        model: The model; nothing is done if it has no tokenizer for them.
        dictionary: Its nodes; nothing is done for others than a transcoder's features.

    Returns:
        (L,) FVU, or None if nothing was done.
    """
    if model.tokenizer is None or not isinstance(dictionary, Features):
        return None
    try:
        tokens = encode(model, _TEXT)[: model.config.max_positions]
    except InputError:  # a model of another language than English
        return None
    trained = dictionary.trained
    sites = (trained.config.reads, trained.config.writes)
    trace = forward(model.bare(), np.asarray(tokens)[None], capture=sites).trace
    error = replace.errors(trained, trace)[:, 0]
    # The first token, where models park their attention, would be most of the variance.
    counts = jnp.arange(len(tokens)) > 0
    found = unexplained(trace[trained.config.writes][:, 0], error, counts)
    fvu = np.asarray(replicate(found, model.mesh))
    if said := doubt(fvu, trained.name):
        _LOG.warning(said)
    return fvu
