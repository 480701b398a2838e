"""Reports made up from random numbers, without a model."""

import dataclasses

import numpy as np

from hagd_jax.causal import (
    Alone,
    Circuit,
    Claim,
    Estimate,
    Evidence,
    Faithfulness,
    Node,
    SizePoint,
    ValidationReport,
)
from hagd_jax.report import Report
from hagd_jax.tasks import Seen, look
from hagd_jax.tasks.definition import Text
from hagd_jax.units import Nodes, Space
from hagd_jax.units.tree import tree_of

NAN = float("nan")
# A circuit of units at all resolutions.
SPACE = Space(4, 2, 6)
MIXED = Circuit.of_units(
    tree_of(SPACE, "neurons", [np.arange(32) // 3], 2, Seen.nothing()),
    ["layers 0-1", "cluster 2.0", "head 2.0", "mlp 3", "neuron 2.5"], (2.0, 5.0, 4.0, 1.0, 3.0),
    model="m", task="t", seen=Seen.nothing(),
)  # fmt: skip


def make_evidence(ablation="counterfactual", seed=0, **changes):
    """Evidence of a circuit that holds, with a number of its own in every field."""
    rng = np.random.default_rng(seed)

    def estimate(low, high):
        value = float(rng.uniform(low, high))
        return Estimate(value, value - 0.03, value + 0.02)

    shares = [float(rng.uniform(0.8, 1)) for _ in range(5)]
    spread = Faithfulness(
        estimate(0.9, 1.0), *shares, float(rng.uniform(0, 0.1)), estimate(0.85, 0.95)
    )
    made = Evidence(
        ablation=ablation,
        decides=ablation != "counterfactual",
        reference="values come from elsewhere",
        alone=Alone(
            match=float(rng.uniform(0.8, 1)),
            able=estimate(0.55, 0.9),
            kl=estimate(0.05, 0.2),
            faithfulness=spread,
            kept=estimate(0.9, 1),
            preservation=estimate(0.9, 1),
            passed={"kl": True, "accuracy": True},
        ),
        metric=tuple(float(x) for x in rng.normal(0, 3, 4)),
        kl=(0.0, 3.1, float(rng.uniform(0.05, 0.2)), 2.2),
        accuracy=tuple(estimate(0.55, 0.9) for _ in range(4)),
        necessity=estimate(0.6, 0.9),
        controls=tuple(rng.uniform(1, 2, 10).tolist()),
        chance=tuple(rng.normal(0.1, 0.05, 10).tolist()),
    )
    return dataclasses.replace(made, **changes)


def make_claims(ablations, verdict="holds"):
    """The core claims of several ablations; under the counterfactual they decide nothing."""
    nothing = Estimate(NAN, NAN, NAN)
    return tuple(
        Claim(name, verdict, nothing, 1 / 11, a, "test", f"{name} was seen", a != "counterfactual")
        for a in ablations
        for name in ("sufficiency", "necessity", "minimality")
    )


def make_validation(circuit, evidence, claims=None, **changes):
    """A validation of made-up evidence."""
    claims = make_claims([e.ablation for e in evidence]) if claims is None else claims
    made = ValidationReport(
        circuit, claims, 64, "test", circuit.space.nodes, tuple(evidence),
        ("ablation counterfactual, which the circuit was found with",), 3,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def make_report(
    space=(2, 3, 40),
    size=7,
    ablations=("counterfactual", "mean"),
    dictionary="neurons",
    evidence=None,
    claims=None,
    **changes,
):
    """A report on random scores whose circuit holds the best `size` nodes."""
    layers, heads, features = space
    kind = "neuron" if dictionary == "neurons" else "feature"
    rng = np.random.default_rng(1)
    scores = Nodes(rng.normal(size=(layers, heads)), rng.normal(size=(layers, features)))
    ranked = np.argsort(-scores.flat())[:size]
    nodes = sorted(
        Node("head", *divmod(int(i), heads))
        if i < layers * heads
        else Node(kind, *divmod(int(i) - layers * heads, features))
        for i in ranked
    )
    table = {"head": scores.heads, kind: scores.features}
    circuit = Circuit(
        tuple(nodes),
        tuple(float(table[n.kind][n.layer, n.index]) for n in nodes),
        space,
        model="small",
        task="sums",
        dictionary=dictionary,
        seen=look(ablation="counterfactual"),
        config={"steps": 5},
    )
    total = layers * (heads + features)
    if evidence is None:
        evidence = [make_evidence(name, seed) for seed, name in enumerate(ablations)]
    curve = tuple(
        SizePoint(
            n, n / total, Estimate(f, f - 0.1, f + 0.1), Estimate(f, f - 0.1, 1.0), 3 * (1 - f)
        )
        for n, f in [(0, 0.0), (1, 0.2), (total // 2 + 1, 0.7), (total, 1.0)]
    )
    report = Report(
        title="sums in small",
        circuit=circuit,
        validation=make_validation(circuit, evidence, claims) if evidence else None,
        scores=scores,
        curve=curve,
        texts=(Text("1 2 =", "4 2 =", " 3", " 6", "[a] [b] ="),) * 6,
        facts={"seconds": "12.5", "command": "hagd extract", "description": "Adds numbers."},
    )
    return dataclasses.replace(report, **changes)
