"""Does the judge accept what is true and nothing else? Judged on models whose circuits are known.

    python experiments/judge_judged.py

Takes some fifteen minutes on two CPU cores. Expected: every true circuit accepted; at most 5% of
random circuits of the same size accepted; of true circuits without one of their units at least 95%
rejected; of those with one idle unit more at least 95% fail minimality; nothing accepted on models
whose weights were permuted. Writes results/judge_judged.json.

The models are those written by hand (`causal.ground_truth.hand_built`), each in several guises:
heads and neurons change places, the stream is turned at random. The verdict is read under mean and
resample ablation; circuits are recorded as found under counterfactual ablation. All inputs of a
model are its prompts, so discovery and test data do not differ here: nothing was discovered.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from record import record

from hagd_jax.causal import Circuit, Node, ValidateConfig, validate
from hagd_jax.causal.ground_truth import Case, as_task, hand_built, scrambled
from hagd_jax.causal.metrics import accuracy
from hagd_jax.transcoders import neurons

CONFIG = ValidateConfig(ablations=("mean", "resample"), batch_size=128)
TARGETS = {
    "true": "accepted, 100%", "random": "accepted, at most 5%", "one unit less": "rejected, 95%",
    "one idle unit more": "fails minimality, 95%", "permuted weights": "accepted, 0%",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guises", type=int, default=4, help="of every model")
    parser.add_argument("--random", type=int, default=10, help="random circuits of every model")
    args = parser.parse_args()
    began, rows = time.monotonic(), []
    for guise in range(args.guises):
        for plain in hand_built():
            case = scrambled(plain, guise)
            rng = np.random.default_rng(guise)
            rows += list(judged(case, guise, rng, args.random))
            print(f"{case.name}, guise {guise}", rows[-1], flush=True)
    summary = [summarised(kind, rows) for kind in TARGETS]
    record(
        "judge_judged", summary, seconds=time.monotonic() - began, seed=0,
        models=args.guises * len(hand_built()), details=rows,
    )  # fmt: skip


def judged(case: Case, guise: int, rng: Any, random: int) -> Iterable[dict[str, Any]]:
    """All circuits of one model."""
    truth, constant = case.truth["mean"], case.truth["zero"]
    units = sorted(everything(case))

    def row(kind: str, nodes: Iterable[Node], case: Case = case) -> dict[str, Any]:
        report = validate(case.model, circuit(case, nodes), as_task(case), CONFIG)
        minimal = [c.verdict for c in report.claims if c.name == "minimality"]
        return {"kind": kind, "case": case.name, "guise": guise, "verdict": report.verdict,
                "minimality": minimal}  # fmt: skip

    yield row("true", truth)
    for node in sorted(truth):
        yield row("one unit less", truth - {node})
    idle = [unit for unit in units if unit not in constant]
    yield row("one idle unit more", truth | {idle[rng.integers(len(idle))]})
    drawn = 0
    while drawn < random:
        chosen = frozenset(units[i] for i in rng.permutation(len(units))[: len(truth)])
        # By chance, a small model's true circuit may be drawn; that is not a false one.
        if chosen != truth:
            drawn += 1
            yield row("random", chosen)
    yield row("permuted weights", truth, permuted(case, rng))


def circuit(case: Case, nodes: Iterable[Node]) -> Circuit:
    """As a search would have recorded it."""
    chosen = tuple(sorted(nodes))
    space = neurons(case.model).space
    return Circuit(chosen, (1.0,) * len(chosen), space, case.model.name, case.name)


def everything(case: Case) -> set[Node]:
    """All heads and neurons."""
    layers, heads, features = neurons(case.model).space
    both = (("head", heads), ("neuron", features))
    return {Node(kind, i, j) for kind, n in both for i in range(layers) for j in range(n)}


def permuted(case: Case, rng: Any) -> Case:
    """The same weights, each array's in another order: the same sizes, no computation."""
    shuffle = lambda x: rng.permuted(np.asarray(x).ravel()).reshape(x.shape)  # noqa: E731
    params = jax.tree.map(shuffle, case.model.params)
    return case._replace(model=case.model.replace(params=params))


def summarised(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of verdicts, with Clopper–Pearson's interval."""
    own = [row for row in rows if row["kind"] == kind]
    hit = {
        "one unit less": lambda row: row["verdict"] == "rejected",
        "one idle unit more": lambda row: "fails" in row["minimality"],
    }.get(kind, lambda row: row["verdict"] == "accepted")
    share = accuracy(np.array([hit(row) for row in own], float))
    return {
        "circuits": kind,
        "judged": len(own),
        "share": round(share.value, 4),
        "low": round(share.low, 4),
        "high": round(share.high, 4),
        "target": TARGETS[kind],
    }


if __name__ == "__main__":
    main()
