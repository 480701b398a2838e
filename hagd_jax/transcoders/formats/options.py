"""Allow-lists for the configurations of the published formats.

A field that nobody here has read the meaning of may change what a transcoder computes, so it is
refused by name rather than passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hagd_jax.errors import ConfigError

# Any value: the field says nothing about the mathematics, or its value is checked elsewhere.
ANY = None
OFF = (False, None)
_LONGEST = 60

Allowed = Mapping[str, "tuple[Any, ...] | None"]


def require_known(values: Mapping[Any, Any], allowed: Allowed, what: str) -> None:
    """Refuse unknown fields, and values with a meaning that is not implemented here.

    Args:
        values: The configuration as it was read.
        allowed: Field → the values that it may have, or `ANY`.
        what: The file, for messages.

    Raises:
        ConfigError: Naming the field, its value and the values that it may have.

    Example:
        >>> require_known({"k": 3, "signed": False}, {"k": ANY, "signed": OFF}, "cfg.json")
        >>> require_known({"signed": True}, {"signed": OFF}, "cfg.json")
        Traceback (most recent call last):
        ...
        hagd_jax.errors.ConfigError: cfg.json: signed: got True; expected False or None.
    """
    for name in sorted(values, key=str):
        value = values[name]
        if name not in allowed:
            raise ConfigError(
                f"{what}: {clipped(name, str)}",
                got=clipped(value),
                expected="no such field: it is not known what it changes",
                mend="If it does not change what the transcoder computes, remove it.",
            )
        right = allowed[name]
        if right is not None and not any(value is one or _equal(value, one) for one in right):
            raise ConfigError(
                f"{what}: {name}", got=clipped(value), expected=" or ".join(map(repr, right))
            )


def clipped(value: Any, text: Any = repr) -> str:
    """Shorten a value for a message."""
    found = text(value)
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]}..."


def _equal(value: Any, one: Any) -> bool:
    """1 is not True, nor 0 False."""
    return type(value) is type(one) and value == one
