"""How rotary frequencies are stretched to contexts longer than a model was trained on."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

from hagd_jax.brief import quoted
from hagd_jax.errors import require, require_choice, require_flag, require_number

RopeKind = Literal["linear", "dynamic", "llama3", "factors", "yarn", "longrope"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Configure how rotary frequencies are scaled beyond the trained context.

    Attributes:
        kind: `linear` divides every frequency by `factor`; `dynamic` raises the base with the
            sequence length (NTK); `llama3` divides low frequencies only; `factors` divides each
            frequency by its own entry of `factors` (how GGUF files store llama3 scaling); `yarn`
            divides those that turn less than `beta_slow` times in the trained context, and part of
            those up to `beta_fast` times; `longrope` divides by `factors` in sequences longer than
            the trained context and by `short_factors` in others.
        factor: The stretch.
        low_freq_factor: `llama3`: wavelengths above original / low are divided by `factor`.
        high_freq_factor: `llama3`: wavelengths below original / high are left alone.
        original_max_positions: Context length before stretching (all but `linear`, `factors`).
        factors: `factors`, `longrope`: one divisor per frequency, rotary_dim / 2 of them.
        short_factors: `longrope`: the same for sequences within the trained context.
        beta_fast: `yarn`: frequencies that turn this often or more are left alone.
        beta_slow: `yarn`: those that turn this often or less are divided by `factor`.
        truncate: `yarn`: round the bounds of the blend to whole pairs.
        attention_factor: Cosines and sines are multiplied by it. 0 derives the usual one:
            0.1 ln(factor) + 1 for `yarn`, √(1 + ln(factor) / ln(original)) for `longrope`, else 1.

    Raises:
        ConfigError: If the kind is unknown, or a number that it needs is missing or impossible.

    Example:
        >>> round(RopeScaling("yarn", 4.0, original_max_positions=32768).attention_factor, 4)
        1.1386
    """

    kind: RopeKind
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0
    factors: tuple[float, ...] = ()
    short_factors: tuple[float, ...] = ()
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 0.0

    def __post_init__(self):
        require_choice("rope_scaling kind", self.kind, get_args(RopeKind))
        require_number("rope_scaling factor", self.factor, above=0, most=2**20)
        require_flag("rope_scaling truncate", self.truncate)
        users = {"factors": ("factors", "longrope"), "short_factors": ("longrope",)}
        for field, kinds in users.items():
            _check_factors(f"rope_scaling {field}", getattr(self, field), self.kind in kinds)
        for field in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            require_number(f"rope_scaling {field}", getattr(self, field), above=0, most=2**30)
        longest = "rope_scaling original_max_positions"
        least = {"llama3": 1, "yarn": 1, "longrope": 2}.get(self.kind, 0)
        require_number(longest, self.original_max_positions, least=least, most=2**30, whole=True)
        ends = {
            "llama3": ("low_freq_factor", "high_freq_factor"),
            "yarn": ("beta_slow", "beta_fast"),
        }
        if self.kind in ends:
            low, high = (getattr(self, field) for field in ends[self.kind])
            expected = f"less than the {ends[self.kind][1].split('_')[0]} {high}"
            if self.kind == "yarn":
                expected = f"less than the fast {high}"
            require(low < high, f"rope_scaling {ends[self.kind][0]}", got=low, expected=expected)
        require_number("rope_scaling attention_factor", self.attention_factor, least=0, most=2**20)
        if not self.attention_factor:
            object.__setattr__(self, "attention_factor", self._usual_attention_factor())

    def _usual_attention_factor(self) -> float:
        if self.factor <= 1:
            return 1.0
        if self.kind == "yarn":
            return 0.1 * math.log(self.factor) + 1
        if self.kind == "longrope":
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_positions))
        return 1.0


def _check_factors(what: str, factors: object, used: bool) -> None:
    """Divisors are positive, and there where the kind of stretching has them."""
    if not isinstance(factors, tuple):
        require(False, what, got=quoted(factors), expected="a tuple")
        return
    require(not used or len(factors) > 0, what, got="none", expected="one a frequency")
    for i, factor in enumerate(factors):
        require_number(f"{what}[{i}]", factor, above=0, most=2**30)
