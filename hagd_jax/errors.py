"""Typed errors: each names the value got, what was expected, and how to mend it.

They are raised before tracing, so a user never reads a traceback from deep inside JAX.
"""

from __future__ import annotations


class HagdError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: The subject, e.g. a file, a field or an argument.
        got: The value found.
        expected: What would have been right.
        mend: What the user can do about it (one sentence).

    Example:
        >>> raise ConfigError("d_model", got=7, expected="a multiple of n_heads = 2")
        Traceback (most recent call last):
        ...
        hagd_jax.errors.ConfigError: d_model: got 7; expected a multiple of n_heads = 2.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str | None = None, mend: str | None = None
    ):
        parts = [] if got is None else [f"got {got}"]
        if expected is not None:
            parts.append(f"expected {expected}")
        message = f"{what}: {'; '.join(parts)}" if parts else what
        message = message.rstrip(".") + "."
        super().__init__(f"{message} {mend}" if mend else message)


class ConfigError(HagdError, ValueError):
    """A configuration asks for something impossible or unsupported."""


class CheckpointError(HagdError, ValueError):
    """A weights file, a run folder or a checkpoint cannot be used as it is."""


class InputError(HagdError, ValueError):
    """Tokens, prompts, masks or circuits that do not fit the model."""


class MeshError(HagdError, ValueError):
    """A device mesh that does not exist here or does not divide an array."""


class MissingDependencyError(HagdError, ImportError):
    """An optional package is needed for what was asked."""
