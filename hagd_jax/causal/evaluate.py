"""The verdict on one circuit: is it enough, is it needed, does chance do as well?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import ABLATIONS, Behaviour, behaviour
from hagd_jax.causal.circuit import Circuit
from hagd_jax.causal.metrics import (
    Estimate,
    Faithfulness,
    accuracy,
    faithfulness,
    mean_ratio,
    permutation_p,
    preservation,
    ratio_of_means,
)
from hagd_jax.errors import ConfigError
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary, Nodes, as_dictionary

# A mean metric alone can be gamed, so a circuit's size is quoted only if these hold too.
ACCURACY_GATE = 0.85
KL_GATE = 0.30
# A model has a behaviour if it is right more often than this, at the lower end of its interval.
ABLE = 0.5


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """How a circuit is judged.

    Attributes:
        ablations: What its complement is replaced by; one verdict for each.
        controls: Random circuits of the same size, layer by layer and kind by kind.
        batch_size: Prompts in one call.
    """

    ablations: tuple[str, ...] = ("counterfactual", "mean")
    controls: int = 20
    batch_size: int = 16

    def __post_init__(self):
        unknown = [name for name in self.ablations if name not in ABLATIONS]
        if unknown or not self.ablations:
            raise ConfigError("ablations", got=self.ablations, expected=f"some of {ABLATIONS}")
        if self.controls < 1:
            raise ConfigError("controls", got=self.controls, expected="1 or more")
        if self.batch_size < 1:
            raise ConfigError("batch_size", got=self.batch_size, expected="1 or more")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was measured of a circuit under one ablation, on one split.

    Attributes:
        ablation: What the ablated nodes were set to.
        split: Which prompts.
        prompts: How many.
        faithfulness: (m(C) − m(∅)) / (m(M) − m(∅)); 1 is the whole model.
        preservation: Accuracy of the circuit over accuracy of the model.
        necessity: (m(M) − m(M∖C)) / (m(M) − m(∅)): what is lost when the circuit is ablated.
        accuracy: Of the model, the circuit, the model without it, and the empty circuit.
        metric: Mean logit difference of the same four.
        kl: Mean KL(model ‖ ·) of circuit, complement and empty circuit, in nats.
        exact_match: How often the circuit's top token is the model's.
        controls: Faithfulness of each random circuit.
        p_value: Chance that a random circuit is as faithful: (1 + k) / (1 + n).
        gates: Whether accuracy ≥ 0.85 of the model's and KL ≤ 0.3 of the empty circuit's.
    """

    ablation: str
    split: str
    prompts: int
    faithfulness: Faithfulness
    preservation: Estimate
    necessity: Estimate
    accuracy: dict[str, Estimate]
    metric: dict[str, float]
    kl: dict[str, float]
    exact_match: float
    controls: tuple[float, ...]
    p_value: float
    gates: dict[str, bool]

    __repr__ = one_line

    @property
    def beats_controls(self) -> bool:
        """Whether the circuit is more faithful than every random one; never if undefined."""
        value = self.faithfulness.ratio_of_means.value
        return bool(self.controls) and all(value > control for control in self.controls)

    @property
    def able(self) -> bool:
        """Whether the model has the behaviour: right on more than half, at the interval's end."""
        return self.accuracy["model"].low > ABLE

    @property
    def holds(self) -> bool:
        """Whether the model is able, both gates hold and no random circuit does as well."""
        passed = all(self.gates.get(gate) for gate in ("accuracy", "kl"))
        return self.able and passed and self.beats_controls

    def to_json(self) -> dict[str, Any]:
        """Plain numbers under their names."""
        record = dataclasses.asdict(self) | {"holds": self.holds}
        record["faithfulness"] = _named(self.faithfulness)
        for field in ("preservation", "necessity"):
            record[field] = getattr(self, field)._asdict()
        record["accuracy"] = {name: e._asdict() for name, e in self.accuracy.items()}
        return record


def evaluate(
    model: LanguageModel,
    circuit: Circuit,
    task: Task,
    config: JudgeConfig = JudgeConfig(),
    *,
    dictionary: Dictionary | Transcoder | None = None,
    split: str = "test",
    seed: int = 0,
    on_ablation: Callable[[str], None] | None = None,
) -> tuple[Verdict, ...]:
    """Judge a circuit by intervention.

    Args:
        model: The model the circuit was found in.
        circuit: The circuit.
        task: The behaviour it should carry.
        config: Ablations, controls, batching.
        dictionary: The one whose nodes are the circuit's: a transcoder, or neurons by default.
        split: Which prompts to judge on; not those it was found on.
        seed: Of the controls and the bootstrap.
        on_ablation: Called with the name of each finished ablation.

    Returns:
        One `Verdict` for each ablation.

    Raises:
        InputError: If the circuit belongs to a model of another shape, or another dictionary.
    """
    nodes = as_dictionary(model, dictionary)
    circuit.check_model(nodes)
    members = jax.tree.map(np.asarray, circuit.mask())
    empty = Nodes.full(nodes.space, False)
    controls = random_controls(members, config.controls, seed)
    verdicts = []
    for ablation in config.ablations:
        result = behaviour(
            model,
            task.splits[split],
            [empty, members, ~members, *controls],
            ablation=ablation,
            dictionary=nodes,
            candidates=task.candidates,
            reference=task.splits["discover"],
            batch_size=config.batch_size,
            seed=seed,
            with_model=True,
        )
        verdicts.append(_verdict(result, ablation, split, seed))
        if on_ablation is not None:
            on_ablation(ablation)
    return tuple(verdicts)


def random_controls(members: Nodes, count: int, seed: int) -> list[Nodes]:
    """Random circuits with as many heads and as many features in each layer as a given one.

    Args:
        members: `Nodes` of bool, (L, H) and (L, F).
        count: How many circuits.
        seed: Of the draw.

    Returns:
        The circuits.
    """
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda mask: rng.permuted(np.asarray(mask), axis=1), members)
        for _ in range(count)
    ]


def _verdict(result: Behaviour, ablation: str, split: str, seed: int) -> Verdict:
    metric = result.metric.astype(np.float64)
    full, empty, circuit, complement = metric[:4]
    names = ("model", "empty", "circuit", "complement")
    found = faithfulness(circuit, full, empty, seed=seed)
    scale = max(np.abs(full).max(), np.abs(empty).max())
    chance = tuple(mean_ratio(control - empty, full - empty, scale) for control in metric[4:])
    acc = {name: accuracy(row) for name, row in zip(names, result.correct, strict=False)}
    kl = {name: float(row.mean()) for name, row in zip(names, result.kl, strict=False)}
    return Verdict(
        ablation=ablation,
        split=split,
        prompts=len(full),
        faithfulness=found,
        preservation=preservation(result.correct[2], result.correct[0], seed=seed),
        necessity=ratio_of_means(full - complement, full - empty, scale=scale, seed=seed),
        accuracy=acc,
        metric={name: float(row.mean()) for name, row in zip(names, metric, strict=False)},
        kl=kl,
        exact_match=float(result.match[2].mean()),
        controls=chance,
        p_value=permutation_p(found.ratio_of_means.value, np.asarray(chance)),
        gates={
            # A model that is never right has no behaviour to keep.
            "accuracy": acc["circuit"].value >= ACCURACY_GATE * acc["model"].value > 0,
            "kl": kl["circuit"] <= KL_GATE * kl["empty"],
        },
    )


def _named(value: Faithfulness) -> dict[str, Any]:
    return value._asdict() | {"ratio_of_means": value.ratio_of_means._asdict()}
