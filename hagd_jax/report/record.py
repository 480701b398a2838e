"""What a report is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, Evidence, SizePoint, ValidationReport
from hagd_jax.errors import InputError
from hagd_jax.tasks.definition import Text
from hagd_jax.units import Nodes

ABLATION_WORDS = {
    "zero": "set to zero",
    "mean": "set to their average over other prompts",
    "mean_overall": "set to their average over other prompts and all positions",
    "resample": "set to their values on another prompt",
    "counterfactual": "set to their values on the counterfactual prompt",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """A report holds everything that a run's page shows.

    Attributes:
        title: Heading.
        circuit: What was found.
        validation: What the judge says of it; None if it was not judged.
        scores: The score of every node, (L, H) and (L, F) float; positive helps the behaviour.
        curve: Faithfulness against size, in any order.
        curve_ablation: What replaced the complement when the curve was measured.
        texts: Prompts it was judged on.
        facts: Name → value, shown as provenance; `description` is shown under the title and
            `command` as code.

    Raises:
        InputError: If the scores are not those of the circuit's nodes.
    """

    title: str
    circuit: Circuit
    validation: ValidationReport | None
    scores: Nodes
    curve: tuple[SizePoint, ...] = ()
    curve_ablation: str = "counterfactual"
    texts: tuple[Text, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    __repr__ = one_line

    def __post_init__(self):
        layers, heads, features = self.circuit.space
        got = np.shape(self.scores.heads), np.shape(self.scores.features)
        if got != ((layers, heads), (layers, features)):
            raise InputError(
                "scores",
                got=f"shapes {got[0]} and {got[1]}",
                expected=f"{(layers, heads)} and {(layers, features)}, as the circuit's",
            )

    @property
    def total(self) -> int:
        """Return the number of nodes of the model."""
        return self.circuit.space.nodes

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Return what was measured, by ablation."""
        return self.validation.evidence if self.validation else ()

    def under(self, ablation: str) -> Evidence | None:
        """Return what was measured under one ablation; None if nothing was."""
        return next((found for found in self.evidence if found.ablation == ablation), None)
