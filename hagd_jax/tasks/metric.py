"""How an answer is scored: logit difference, accuracy and divergence at the positions read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from hagd_jax.errors import InputError, require_index, require_is, require_list, shown

if TYPE_CHECKING:
    from hagd_jax.tasks.prompts import Prompts


def divergence(model: jax.Array, other: jax.Array) -> jax.Array:
    """Compute KL(model ‖ other) of the tokens that logits (..., V) predict, in nats."""
    target = jax.nn.log_softmax(model)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(other)), -1)


def read_logits(logits: Any, prompts: Prompts) -> jax.Array:
    """Select the logits at the positions where answers are read.

    Args:
        logits: (R, T, V) from `models.forward`.
        prompts: N prompts of R rows.

    Returns:
        (R, S, V), as `forward(..., read=prompts.reads)` gives at once.

    Raises:
        InputError: If they are not of these prompts.
    """
    from hagd_jax.tasks.prompts import Prompts  # which imports this module

    require_is("prompts", prompts, Prompts)
    try:
        logits = jnp.asarray(logits)
    except (TypeError, ValueError) as error:
        raise InputError("logits", got=shown(logits), expected="an array (R, T, V)") from error
    places = jnp.asarray(prompts.reads)[..., None]
    if logits.ndim != 3 or len(logits) != len(places):
        raise InputError(
            "logits",
            got=f"shape {logits.shape}",
            expected=f"({len(places)}, T, V), a row of the prompts each",
        )
    return jnp.take_along_axis(logits, places, axis=1)


def logit_difference(logits: Any, prompts: Prompts) -> jax.Array:
    """Compute logit(answer) − logit(distractor) of each prompt.

    Where several tokens are right or wrong it is the log-odds of being right,
    log Σ exp(logits of answers) − log Σ exp(logits of distractors). Of `Choices` it is their own.

    Args:
        logits: (N, T, V) from `models.forward`.
        prompts: N prompts.

    Returns:
        (N,).

    Example:
        >>> from hagd_jax.tasks import make_prompts
        >>> prompts = make_prompts([[0, 1]], [[1, 1]], [2], [0], vocab_size=3)
        >>> logit_difference(np.asarray([[[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]]), prompts).tolist()
        [3.0]
    """
    return prompts.metric(read_logits(logits, prompts))


def correct(logits: Any, prompts: Prompts, candidates: tuple[int, ...] | None = None) -> jax.Array:
    """Tell for each prompt whether the answer wins; a tie or a NaN is not a win.

    Args:
        logits: (N, T, V) from `models.forward`.
        prompts: N prompts.
        candidates: The tokens that the best answer must beat, answers left out; None for the
            distractors alone, all together.

    Returns:
        (N,) bool.

    Raises:
        InputError: If the logits are not of these prompts, or a candidate is no token.
    """
    at = read_logits(logits, prompts)
    if candidates is not None:
        listed = require_list("candidates", candidates, "token ids")
        candidates = tuple(require_index("candidates", one, at.shape[-1]) for one in listed)
        if not candidates:
            raise InputError("candidates", got="none", expected="at least one token")
    return prompts.correct(at, candidates)


def log_sum(at: jax.Array, tokens: Any) -> jax.Array:
    """Compute (N,) log Σ exp of the logits of each row's tokens."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim == 1:
        return jnp.take_along_axis(at, tokens[:, None], axis=1)[:, 0]
    found = jnp.take_along_axis(at, tokens, axis=1)
    return jax.nn.logsumexp(found, axis=1, where=tokens >= 0)


def columns(tokens: Any) -> jax.Array:
    """View tokens as (N, A), also where each row has a single one."""
    tokens = jnp.asarray(tokens)
    return tokens[:, None] if tokens.ndim == 1 else tokens
