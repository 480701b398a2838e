"""The settings of a GGUF file's architecture, read with their types checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError

_MISSING = object()


class Settings:
    """Settings are the metadata under the architecture's name, e.g. `llama.*`.

    Attributes:
        architecture: Name of the architecture.
        values: Setting, without that name, to value.
    """

    def __init__(self, metadata: Mapping[str, Any], architecture: str):
        self.architecture, prefix = architecture, f"{architecture}."
        self.values = {
            key.removeprefix(prefix): value
            for key, value in metadata.items()
            if key.startswith(prefix)
        }

    def has(self, key: str) -> bool:
        """Tell whether the file says anything about it."""
        return key in self.values

    def error(self, key: str, got: object, expected: str) -> CheckpointError:
        """Make the error for a damaged file."""
        return CheckpointError(f"GGUF {self.architecture}.{key}", got=got, expected=expected)

    def unsupported(self, key: str, got: object, expected: object) -> ConfigError:
        """Make the error for a file that asks for something we do not do."""
        return ConfigError(f"GGUF {self.architecture}.{key}", got=got, expected=f"{expected}")

    def value(self, key: str, default: Any = _MISSING) -> Any:
        """Read a setting; an array must hold the same for every layer."""
        value = self.values.get(key, default)
        if value is _MISSING:
            raise self.error(key, "nothing", "a value")
        if not isinstance(value, np.ndarray):
            return value
        if not value.size or np.any(value != value[0]):
            raise self.unsupported(key, str(value)[:80], "the same for every layer")
        return value[0].item()

    def whole(self, key: str, default: Any = _MISSING) -> int:
        """Read a positive whole number."""
        value = self.value(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
        raise self.error(key, quoted(value), "a positive whole number")

    def number(self, key: str, default: Any = _MISSING) -> float:
        """Read a finite number that is not negative."""
        value = self.value(key, default)
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
            return float(value)
        raise self.error(key, quoted(value), "a finite number, not negative")

    def positive(self, key: str, default: Any = _MISSING) -> float:
        """Read a positive number."""
        value = self.number(key, default)
        if value > 0:
            return value
        raise self.error(key, value, "a positive number")

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """Read a setting that is on or off."""
        value = self.value(key, default)
        if isinstance(value, bool):
            return value
        raise self.error(key, quoted(value), "true or false")

    def layers(self, key: str, n_layers: int, default: int) -> tuple[int, ...]:
        """Read which layers have a property, as llama.cpp writes it.

        A number p means every layer but each p-th, 0 means all of them; an array says it for each.
        """
        value = self.values.get(key, default)
        if isinstance(value, np.ndarray):
            if len(value) != n_layers:
                raise self.error(key, f"{len(value)} entries", f"{n_layers}, one a layer")
            return tuple(np.flatnonzero(value).tolist())
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise self.error(key, quoted(value), "a whole number, or one entry a layer")
        return tuple(i for i in range(n_layers) if not value or i % value < value - 1)

    def require(self, key: str, only: Any) -> None:
        """Refuse a setting that is there and has another value than the one we compute with."""
        value = self.value(key, only)
        if value != only:
            raise self.unsupported(key, quoted(value), only)

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Raise for the first setting that is neither known nor switched off."""
        for key in sorted(self.values.keys() - known):
            if self.value(key):
                raise self.unsupported(key, quoted(self.values[key]), "no such setting")
