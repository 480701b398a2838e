"""Does the search recover known circuits, where first-order scores do and do not?

    pip install -e '.[tracr]'
    python -m experiments.circuits.ground_truth  # about twenty minutes on two cores

Models written by hand, each in three scrambled variants, have circuits of nodes and of edges. RASP
programs compiled by Tracr have circuits of edges: those without which some answer changes under the
ablation of the search (counterfactual, three pairings). The search is given the true size. Masks
start at the effects of measured cuts, where these cost less than a search, and at constant scores,
and are repaired by measured swaps; of all searches, the one with the smallest loss on the search's
inputs (all inputs, or 200 of them) counts, and one without loss ends the search. `exact` says
whether the circuit equals the true one. AUROC ranks units by the final mask logits, with members of
the circuit first. EAP and EAP-IG are measured on the same nodes, edges and inputs. Expected: AUROC
1.0 on 90% of cases, exact on 80%. Writes results/ground_truth.json.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from experiments.common.cells import Row, measure_cells
from experiments.common.known import sample, truth_of
from experiments.common.processes import few_programs
from experiments.common.script import Places, run
from hagd_jax.causal.metrics import auroc
from hagd_jax.models import LanguageModel
from hagd_jax.scores import GradientConfig, eap_edges, eap_ig, eap_ig_edges, path
from hagd_jax.search import MaskConfig, RepairConfig, search_restarts, with_cuts
from hagd_jax.search.top import highest
from hagd_jax.tasks import Prompts, Seen
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
from hagd_jax.units import Scores, components, parts_of
from hagd_jax.units.rows import count, flat, unflat

ABLATION = "counterfactual"


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for searching known circuits.

    Attributes:
        seeds: Number of scrambled variants of each model written by hand.
        by_hand: Names of the models written by hand; all of them if empty.
        programs: Names of compiled programs.
        of: Whether circuits of models written by hand consist of nodes, edges or each in turn.
        inputs: Largest number of a program's inputs that the search sees.
        pairings: Random pairings of inputs with counterfactuals that define the true edges.
        restarts: Number of searches from constant scores; more restarts take more time.
        search: Training of the masks.
        repair: Swaps that are measured after the search.
    """

    seeds: int = 3
    by_hand: tuple[str, ...] = ()
    programs: tuple[str, ...] = tuple(PROGRAMS)
    of: tuple[str, ...] = ("nodes", "edges")
    inputs: int = 200
    pairings: int = 3
    restarts: int = 3
    search: MaskConfig = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, check_every=100)
    repair: RepairConfig = RepairConfig(rounds=20, pairs=6, batch_size=64)


@cache
def case_of(name: str) -> Case:
    """Return the model written by hand of that name, with its true circuits."""
    return {case.name: case for case in hand_built()}[name]


def measure(cell: Row, config: Config) -> list[Row]:
    """Compare the search with first-order scores on one model; return rows."""
    if cell["family"] == "by hand":
        case = scrambled(case_of(cell["model"]), cell["seed"])
        model, prompts = case.model, case.prompts
        if cell["of"] == "edges":
            parts, truth = components(model), flat(components(model), true_edges(case, ABLATION))
        else:
            parts, truth = parts_of(model, None), truth_of(case, ABLATION)
    else:
        few_programs()
        compiled = compile_program(PROGRAMS[cell["model"]])
        model, parts = compiled.model, components(compiled.model)
        own = [compiled_prompts(compiled, seed=seed) for seed in range(config.pairings)]
        found = [
            necessary_edges(model, [p], ABLATION, among=program_edges(model)).flat() for p in own
        ]
        truth = flat(parts, parts.space.like(np.any(found, axis=0)))
        prompts = sample(own[0], config.inputs, cell["seed"])
    truth = truth.astype(bool)
    if not 0 < truth.sum() < len(truth):
        return []
    return list(rows_of(model, prompts, parts, truth, cell["seed"], config))


def rows_of(
    model: LanguageModel, prompts: Prompts, parts: Any, truth: np.ndarray, seed: int, config: Config
) -> Iterator[Row]:
    """Yield a row for each method of finding the circuit."""
    size, total = int(truth.sum()), count(parts)
    began = time.monotonic()
    nothing = Scores(unflat(parts, np.zeros(total, np.float32)), Seen.nothing())
    cuts = with_cuts({}, model, prompts, config.search, dictionary=parts, seed=seed)
    starts = [*cuts.values(), *[nothing] * config.restarts]
    best = search_restarts(
        model, prompts, starts, size, config.search, config.repair, dictionary=parts, seed=seed
    )
    mask, ranks = flat(parts, best.mask.mask).astype(bool), best.ranks
    spread, took = np.ptp(ranks) + 1, time.monotonic() - began
    yield found("hagd", ranks + spread * mask, mask, truth, took) | {
        "losses": [round(loss, 5) for loss in best.losses],
        "nothing_found": not best.found,
    }
    edges = parts == components(model)
    for name in ("eap", "eap_ig"):
        began = time.monotonic()
        if edges:
            scores = {"eap": eap_edges, "eap_ig": eap_ig_edges}[name](model, prompts, batch_size=64)
        else:
            steps = path.PATH if name == "eap_ig" else path.CLEAN
            scores = eap_ig(model, prompts, GradientConfig(steps, batch_size=64))
        row = flat(parts, scores.values)
        for by, own in ((name, row), (f"|{name}|", np.abs(row))):
            took = time.monotonic() - began
            yield found(by, own, highest(own, size), truth, took)


def found(by: str, scores: np.ndarray, mask: np.ndarray, truth: np.ndarray, took: float) -> Row:
    """Return a row that compares a ranking and a circuit with the true circuit."""
    return {
        "by": by, "size": int(truth.sum()), "total": len(truth),
        "auroc": round(auroc(scores, truth), 4), "exact": bool((mask == truth).all()),
        "recall": round(float(mask[truth].mean()), 4), "seconds": round(took, 1),
    }  # fmt: skip


def main(config: Config) -> None:
    """Search the circuits of all models."""
    by_hand = config.by_hand or tuple(case.name for case in hand_built())
    cells = [
        {"family": "by hand", "of": of, "model": name, "seed": seed}
        for seed in range(config.seeds)
        for of in config.of
        for name in by_hand
    ]
    cells += [
        {"family": "compiled", "of": "edges", "model": name, "seed": 0} for name in config.programs
    ]
    measure_cells(
        "ground_truth", cells, lambda cell: measure(cell, config), config,
        varied=("seeds", "by_hand", "programs", "of"), packages="tracr-pypi", ablation=ABLATION,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
