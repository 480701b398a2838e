"""Fit FVU against tokens as a power law with a floor, and report how reliable the fit is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

EXPONENTS = np.linspace(0.005, 2, 400)
LEAST_POINTS = 5  # the fit has three parameters, and is repeated with one point left out


@dataclasses.dataclass(frozen=True)
class Law:
    """Law is a power law FVU = floor + scale · tokens^(−exponent)."""

    floor: float
    scale: float
    exponent: float

    def at(self, tokens: Any) -> Any:
        """Return the FVU after a number of tokens."""
        return self.floor + self.scale * np.asarray(tokens, float) ** -self.exponent

    def tokens_for(self, fvu: float) -> float:
        """Return the tokens needed for an FVU; infinity if it is not above the floor."""
        if fvu <= self.floor:
            return math.inf
        return (self.scale / (fvu - self.floor)) ** (1 / self.exponent)


def fit(tokens: Any, fvu: Any, *, floor: bool = True) -> Law:
    """Fit the law by least squares on relative errors, with non-negative floor and scale.

    The problem is linear for a given exponent. A fine grid of exponents therefore finds the global
    optimum (to the spacing of the grid) without a starting point.

    Example:
        >>> tokens = 1000 * 2.0 ** np.arange(6)
        >>> law = fit(tokens, 0.2 + 5 * tokens**-0.5)
        >>> round(law.floor, 3), round(law.exponent, 3)
        (0.2, 0.5)
    """
    tokens, fvu = np.asarray(tokens, float), np.asarray(fvu, float)
    best = math.inf, Law(0.0, 0.0, 0.0)
    for exponent in EXPONENTS:
        # Relative to the first point, so that both columns have the same scale.
        power = (tokens / tokens[0]) ** -exponent
        columns = np.stack([np.full_like(power, floor), power], 1) / fvu[:, None]
        (low, scale), missed = nnls(columns, np.ones(len(fvu)))
        if missed < best[0]:
            best = missed, Law(float(low), float(scale * tokens[0] ** exponent), float(exponent))
    return best[1]


def describe(tokens: Any, fvu: Any, wanted: Sequence[float]) -> dict[str, Any]:
    """Fit the law, and report its residual and its range over leave-one-out fits.

    Args:
        tokens: (N,) training tokens of each point, increasing.
        fvu: (N,) FVU of each point.
        wanted: FVUs for which the necessary tokens are extrapolated.

    Returns:
        JSON values. Ranges are [least, most] over all fits, including those without one point.
        None means that an FVU is never reached, since it is below the floor. The dict is empty for
        fewer than five points.
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
    """Return the root mean square of the relative errors."""
    return float(np.sqrt(np.mean((law.at(tokens) / fvu - 1) ** 2)))


def _range(values: list[float]) -> list[float | None]:
    return [_finite(min(values)), _finite(max(values))]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
