"""What came of judging a circuit: one meaning of accepted, in code, pages, tables and terminal."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax.brief import one_line
from hagd_jax.causal.claim import HOLDS, UNKNOWN, Claim, plain
from hagd_jax.causal.evidence import Evidence
from hagd_jax.causal.gates import ABLE
from hagd_jax.causal.trials import AnyCircuit

ACCEPTED, REJECTED = "accepted", "rejected"


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """A report holds the claims tested of a circuit, and their results.

    A claim holds, fails, or has not enough data. A circuit is accepted if all claims that decide
    hold, rejected if one of them fails, and has not enough data otherwise. The core claims decide
    (size, sufficiency, necessity, minimality, and robustness to supersets if asked for), on prompts
    and under ablations that the circuit was not found by looking at; if there are none of
    those, nothing decides.

    Attributes:
        circuit: The circuit.
        claims: One for each test and ablation.
        prompts: On how many distinct prompts.
        split: Of which split.
        units: How many nodes or edges the model has.
        evidence: What was measured, by ablation.
        aside: What was set aside and why, in sentences.
        templates: How many templates the prompts are of; intervals are over those if there are
            several.
    """

    circuit: AnyCircuit
    claims: tuple[Claim, ...]
    prompts: int
    split: str
    units: int
    evidence: tuple[Evidence, ...] = ()
    aside: tuple[str, ...] = ()
    templates: int = 1

    __repr__ = one_line

    @property
    def decisive(self) -> tuple[Claim, ...]:
        """Return the claims that decide."""
        return tuple(claim for claim in self.claims if claim.decides)

    @property
    def accepted(self) -> bool:
        """Tell whether all decisive claims hold, and there are some."""
        return bool(self.decisive) and all(c.verdict == HOLDS for c in self.decisive)

    @property
    def verdict(self) -> str:
        """Return `accepted`, `rejected`, or `not enough data`."""
        if self.accepted:
            return ACCEPTED
        undecided = {c.verdict for c in self.decisive} <= {HOLDS, UNKNOWN}
        return UNKNOWN if undecided else REJECTED

    @property
    def share(self) -> float:
        """Return the circuit's share of the model's nodes or edges."""
        return self.circuit.leaves / max(self.units, 1)

    @property
    def able(self) -> bool:
        """Tell whether the model is right on more than half, at the interval's lower end."""
        return bool(self.evidence) and self.evidence[0].accuracy[0].low > ABLE

    @property
    def headline(self) -> str:
        """State the verdict and its basis, as `accepted on 64 test prompts under mean`."""
        names = sorted({c.ablation for c in self.decisive if c.ablation})
        if not names:
            return f"{self.verdict}: nothing on the {self.split} split can decide"
        return f"{self.verdict} on {self.prompts} {self.split} prompts under {', '.join(names)}"

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "verdict": self.verdict,
            "headline": self.headline,
            "model": self.circuit.model,
            "task": self.circuit.task,
            "share": self.share,
            "members": len(self.circuit),
            "leaves": self.circuit.leaves,
            "units": self.units,
            "seen": self.circuit.seen.to_json(),
            "aside": list(self.aside),
            "split": self.split,
            "prompts": self.prompts,
            "templates": self.templates,
            "claims": [claim.to_json() for claim in self.claims],
            "evidence": [plain(_named(found)) for found in self.evidence],
        }


def _named(found: Evidence) -> dict[str, Any]:
    """Evidence with named fields all the way down."""

    def named(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {name: named(part) for name, part in value._asdict().items()}
        return [named(part) for part in value] if isinstance(value, tuple) else value

    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return {name: named(value) for name, value in fields.items()}
