"""Does the search find circuits that are known, where first-order scores do and do not?

    pip install -e '.[tracr]'
    python -m experiments.circuits.ground_truth  # about twenty minutes on two cores

Models written by hand, each in three guises: circuits of nodes, and of edges. RASP programs
compiled by Tracr: circuits of edges, the truth being the edges without which some answer changes
under the ablation searched with (counterfactual, three pairings). The size is given; masks begin
at scores that say nothing, and are repaired by measured swaps: the best of three searches by its
loss on what it saw, all inputs, or 200 of them. `exact`: the circuit is the true one. AUROC is of
the last masks' logits, members of the circuit first. Beside it EAP and EAP-IG on the same nodes,
edges and inputs. Expected: AUROC 1.0 on 90% of cases, exact on 80%. Writes
results/ground_truth.json.
"""

from __future__ import annotations

import argparse
import time
from functools import cache

import jax
import numpy as np

from experiments.common.cells import Row, measure_cells
from hagd_jax.causal.metrics import auroc
from hagd_jax.scores import GradientConfig, eap_edges, eap_ig, eap_ig_edges, patching
from hagd_jax.search import MaskConfig, RepairConfig, search_restarts
from hagd_jax.search.parts import count, flat, unflat
from hagd_jax.search.top import highest
from hagd_jax.testbeds import (
    PROGRAMS,
    Case,
    compile_program,
    compiled_prompts,
    hand_built,
    necessary_edges,
    program_edges,
    scrambled,
    true_edges,
)
from hagd_jax.units import components, parts_of

SEARCH = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, check_every=100)
REPAIR = RepairConfig(rounds=20, pairs=6, batch_size=64)
MOST, PAIRINGS, RESTARTS = 200, 3, 3


@cache
def case_of(name: str) -> Case:
    return {case.name: case for case in hand_built()}[name]


def measure(cell: Row) -> list[Row]:
    if cell["family"] == "by hand":
        case = scrambled(case_of(cell["model"]), cell["seed"])
        model, prompts = case.model, case.prompts
        if cell["of"] == "edges":
            parts, truth = components(model), flat(components(model), true_edges(case, ABLATION))
        else:
            parts, truth = parts_of(model, None), members(case)
    else:
        jax.clear_caches()  # each program has shapes of its own: too many to keep
        compiled = compile_program(PROGRAMS[cell["model"]])
        model, parts = compiled.model, components(compiled.model)
        own = [compiled_prompts(compiled, seed=seed) for seed in range(PAIRINGS)]
        found = [
            necessary_edges(model, [p], ABLATION, among=program_edges(model)).flat() for p in own
        ]
        truth = flat(parts, parts.space.like(np.any(found, axis=0)))
        every = own[0]
        rows = np.random.default_rng(cell["seed"]).permutation(len(every))[:MOST]
        prompts = every[np.sort(rows)]
    truth = truth.astype(bool)
    if not 0 < truth.sum() < len(truth):
        return []
    return list(rows_of(model, prompts, parts, truth, cell["seed"]))


ABLATION = "counterfactual"


def members(case: Case) -> np.ndarray:
    space = parts_of(case.model, None).space
    row = np.zeros(space.nodes, bool)
    for node in case.truth[ABLATION]:
        first = 0 if node.kind == "head" else space.layers * space.heads
        width = space.heads if node.kind == "head" else space.features
        row[first + node.layer * width + node.index] = True
    return row


def rows_of(model, prompts, parts, truth: np.ndarray, seed: int):
    """A row for each way to find the circuit."""
    size, total = int(truth.sum()), count(parts)
    began = time.monotonic()
    nothing = unflat(parts, np.zeros(total, np.float32))
    starts = [nothing] * RESTARTS
    best = search_restarts(
        model, prompts, starts, size, SEARCH, REPAIR, dictionary=parts, seed=seed
    )
    mask, ranks = flat(parts, best.mask).astype(bool), np.asarray(best.kept)
    spread, took = np.ptp(ranks) + 1, time.monotonic() - began
    yield found("hagd", ranks + spread * mask, mask, truth, took) | {
        "losses": [round(loss, 5) for loss in best.losses]
    }
    edges = parts == components(model)
    for name in ("eap", "eap_ig"):
        began = time.monotonic()
        if edges:
            scores = {"eap": eap_edges, "eap_ig": eap_ig_edges}[name](model, prompts, batch_size=64)
        else:
            steps = patching.PATH if name == "eap_ig" else patching.CLEAN
            scores = eap_ig(model, prompts, GradientConfig(steps, batch_size=64))
        row = flat(parts, scores)
        for by, own in ((name, row), (f"|{name}|", np.abs(row))):
            took = time.monotonic() - began
            yield found(by, own, highest(own, size), truth, took)


def found(by: str, scores: np.ndarray, mask: np.ndarray, truth: np.ndarray, took: float) -> Row:
    return {
        "by": by, "size": int(truth.sum()), "total": len(truth),
        "auroc": round(auroc(scores, truth), 4), "exact": bool((mask == truth).all()),
        "recall": round(float(mask[truth].mean()), 4), "seconds": round(took, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="guises of models written by hand")
    args = parser.parse_args()
    cells = [
        {"family": "by hand", "of": of, "model": case.name, "seed": seed}
        for seed in range(args.seeds) for of in ("nodes", "edges") for case in hand_built()
    ]  # fmt: skip
    cells += [{"family": "compiled", "of": "edges", "model": name, "seed": 0} for name in PROGRAMS]
    measure_cells("ground_truth", cells, measure, packages="tracr-pypi", ablation=ABLATION)


if __name__ == "__main__":
    main()
