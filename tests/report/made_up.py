"""Reports made up from random numbers, without a model."""

import dataclasses

import numpy as np

from hagd_jax.causal import Circuit, Estimate, Faithfulness, Node, SizePoint, Verdict
from hagd_jax.report import Report
from hagd_jax.tasks import look
from hagd_jax.tasks.definition import Text
from hagd_jax.units import Nodes

NAN = float("nan")
NAMES = ("model", "circuit", "complement", "empty")


def make_verdict(ablation="counterfactual", seed=0, **changes):
    """A verdict that holds, with a number of its own in every field."""
    rng = np.random.default_rng(seed)

    def estimate(low, high):
        value = float(rng.uniform(low, high))
        return Estimate(value, value - 0.03, value + 0.02)

    shares = [float(rng.uniform(0.8, 1)) for _ in range(5)]
    verdict = Verdict(
        ablation=ablation,
        split="test",
        prompts=64,
        faithfulness=Faithfulness(estimate(0.9, 1.0), *shares, float(rng.uniform(0, 0.1))),
        preservation=estimate(0.9, 1),
        necessity=estimate(0.6, 0.9),
        accuracy={name: estimate(0.55, 0.9) for name in NAMES},
        metric={name: float(rng.normal(0, 3)) for name in NAMES},
        kl={
            "model": 0.0,
            "circuit": float(rng.uniform(0.05, 0.2)),
            "complement": 2.2,
            "empty": 3.1,
        },
        exact_match=float(rng.uniform(0.8, 1)),
        controls=tuple(rng.normal(0.1, 0.05, 10).tolist()),
        p_value=1 / 11,
        gates={"accuracy": True, "kl": True},
    )
    return dataclasses.replace(verdict, **changes)


def make_report(
    space=(2, 3, 40), size=7, ablations=("counterfactual", "mean"), dictionary="neurons", **changes
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
    curve = tuple(
        SizePoint(
            n, n / total, Estimate(f, f - 0.1, f + 0.1), Estimate(f, f - 0.1, 1.0), 3 * (1 - f)
        )
        for n, f in [(0, 0.0), (1, 0.2), (total // 2 + 1, 0.7), (total, 1.0)]
    )
    report = Report(
        title="sums in small",
        circuit=circuit,
        verdicts=tuple(make_verdict(name, seed) for seed, name in enumerate(ablations)),
        scores=scores,
        curve=curve,
        texts=(Text("1 2 =", "4 2 =", " 3", " 6", "[a] [b] ="),) * 6,
        facts={"seconds": "12.5", "command": "hagd extract", "description": "Adds numbers."},
    )
    return dataclasses.replace(report, **changes)
