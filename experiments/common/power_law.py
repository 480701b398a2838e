"""FVU against tokens as a power law that ends at a floor, with what says how far to believe it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

EXPONENTS = np.linspace(0.005, 2, 400)
LEAST_POINTS = 5  # three numbers are fitted, and points are left out


@dataclasses.dataclass(frozen=True)
class Law:
    """FVU = floor + scale · tokens^(−exponent)."""

    floor: float
    scale: float
    exponent: float

    def at(self, tokens: Any) -> Any:
        """FVU after so many tokens."""
        return self.floor + self.scale * np.asarray(tokens, float) ** -self.exponent

    def tokens_for(self, fvu: float) -> float:
        """Tokens until an FVU is reached; infinity if it is not above the floor."""
        if fvu <= self.floor:
            return math.inf
        return (self.scale / (fvu - self.floor)) ** (1 / self.exponent)


def fit(tokens: Any, fvu: Any, *, floor: bool = True) -> Law:
    """Least squares on relative errors; floor and scale are not negative.

    For a given exponent that is linear, so the best of a fine grid of exponents is the best there
    is, whatever one starts from.

    Example:
        >>> tokens = 1000 * 2.0 ** np.arange(6)
        >>> law = fit(tokens, 0.2 + 5 * tokens**-0.5)
        >>> round(law.floor, 3), round(law.exponent, 3)
        (0.2, 0.5)
    """
    tokens, fvu = np.asarray(tokens, float), np.asarray(fvu, float)
    best = math.inf, Law(0.0, 0.0, 0.0)
    for exponent in EXPONENTS:
        # In units of the first point, so that both columns are of the same size.
        power = (tokens / tokens[0]) ** -exponent
        columns = np.stack([np.full_like(power, floor), power], 1) / fvu[:, None]
        (low, scale), missed = nnls(columns, np.ones(len(fvu)))
        if missed < best[0]:
            best = missed, Law(float(low), float(scale * tokens[0] ** exponent), float(exponent))
    return best[1]


def describe(tokens: Any, fvu: Any, wanted: Sequence[float]) -> dict[str, Any]:
    """A fit, its residual, and how it changes with one point fewer.

    Args:
        tokens: (N,) of each point, rising.
        fvu: (N,).
        wanted: FVUs whose tokens are extrapolated.

    Returns:
        Plain numbers; ranges are [least, most] over fits without one of the points. None stands
        for "never", where a floor is above what is wanted. Empty for fewer points than five.
    """
    if len(tokens) < LEAST_POINTS:
        return {}
    law, bare = fit(tokens, fvu), fit(tokens, fvu, floor=False)
    rest = np.arange(len(tokens))
    others = [fit(tokens[rest != i], fvu[rest != i]) for i in rest]
    laws = [law, *others]
    return {
        "law": dataclasses.asdict(law),
        "residual": _rms(law, tokens, fvu),
        "floor_range": _range([x.floor for x in laws]),
        "exponent_range": _range([x.exponent for x in laws]),
        "last_point": {"measured": float(fvu[-1]), "predicted": float(others[-1].at(tokens[-1]))},
        "extrapolated": {
            f"{times} x the tokens": {
                "fvu": float(law.at(times * tokens[-1])),
                "range": _range([float(x.at(times * tokens[-1])) for x in laws]),
                "without_floor": float(bare.at(times * tokens[-1])),
            }
            for times in (10, 100)
        },
        "tokens_for": {
            f"FVU {value}": {
                "tokens": _finite(law.tokens_for(value)),
                "range": _range([x.tokens_for(value) for x in laws]),
                "without_floor": _finite(bare.tokens_for(value)),
            }
            for value in wanted
        },
        "without_floor": dataclasses.asdict(bare) | {"residual": _rms(bare, tokens, fvu)},
    }


def _rms(law: Law, tokens: Any, fvu: Any) -> float:
    """Root mean square of the relative errors."""
    return float(np.sqrt(np.mean((law.at(tokens) / fvu - 1) ** 2)))


def _range(values: list[float]) -> list[float | None]:
    return [_finite(min(values)), _finite(max(values))]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
