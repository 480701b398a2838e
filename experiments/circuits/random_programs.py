"""Are circuits of random programs found exactly, half of which nobody looked at?

    pip install -e '.[tracr]'
    python -m experiments.circuits.random_programs  # about half an hour on two busy cores

Random RASP programs, compiled by Tracr and hidden in models of 175 edges, whose necessary edges are
proven by cutting each of them in float64 (`testbeds.random_programs`). The seen half was there when
the search was made; the unseen half, of a seed fixed before, was run once. Edges are ranked by EAP,
EAP-IG and the effects of measured cuts alone; the search begins at the latter, is repaired, and
goes on from constant scores if that leaves a loss. The size is given, except for `smallest`: the
smallest circuit of the highest effects that has less than 0.1% of the empty circuit's loss, and
`smallest, gates`, the smallest with less than 30% of it, the judge's gate for KL. Cuts cost 19,075
forward passes of a prompt (175 edges, 109 prompts), one search from constant scores 19,200.
Expected: 95% exact on the unseen half by the search. Writes results/random_programs.json.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import cache

import numpy as np

from experiments.circuits.ground_truth import found
from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax.causal.gates import KL_GATE
from hagd_jax.scores import GradientConfig, component_graph, path
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    search_restarts,
    smallest_circuit,
    with_cuts,
)
from hagd_jax.search.top import highest
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import ProvenProgram, random_programs
from hagd_jax.units import Components, Scores, components
from hagd_jax.units.rows import count, flat, unflat

# Seeds of the halves. That of the unseen half was fixed before anything was run on it.
SEEDS = {"seen": 0, "unseen": 20261129}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for searching the circuits of random programs.

    Attributes:
        halves: Which programs: `seen`, `unseen` or both.
        programs: Number of programs in each half.
        restarts: Number of searches from constant scores, if cuts do not find a circuit.
        search: Training of the masks; its cost limits what is spent on cuts.
        repair: Swaps that are measured after the search.
    """

    halves: tuple[str, ...] = ("seen", "unseen")
    programs: int = 24
    restarts: int = 2
    search: MaskConfig = MaskConfig(steps=200, batch_size=32, learning_rate=0.1, check_every=100)
    repair: RepairConfig = RepairConfig(rounds=20, pairs=6, batch_size=64)


_made: dict[str, list[ProvenProgram]] = {}


@cache
def drawn(half: str) -> Iterator[ProvenProgram]:
    """Return the programs of a half, one after the other."""
    return random_programs(SEEDS[half], 1 << 20)


def program_of(half: str, number: int) -> ProvenProgram:
    """Return a program of a half; those before it are made first."""
    made = _made.setdefault(half, [])
    while len(made) <= number:
        made.append(next(drawn(half)))
    return made[number]


def measure(cell: Row, config: Config) -> list[Row]:
    """Rank and search the edges of one program; return a row for each way."""
    program = program_of(cell["half"], cell["number"])
    parts = components(program.model)
    truth = flat(parts, program.edges).astype(bool)
    layers = program.compiled.model.config.n_layers
    return [{"program": program.name, "layers": layers} | row
            for row in rows_of(program, parts, truth, config)]  # fmt: skip


def rows_of(
    program: ProvenProgram, parts: Components, truth: np.ndarray, config: Config
) -> Iterator[Row]:
    """Yield a row for each way of finding the edges."""
    model, prompts, size = program.model, program.prompts, int(truth.sum())
    for name, steps in (("eap", path.CLEAN), ("eap_ig", path.PATH)):
        began = time.monotonic()
        scores = component_graph(model, prompts, GradientConfig(steps, batch_size=32)).scores
        row = np.abs(flat(parts, scores.values))
        yield found(f"|{name}|", row, highest(row, size), truth, time.monotonic() - began)
    began = time.monotonic()
    starts = with_cuts({}, model, prompts, config.search, dictionary=parts)
    row, took = flat(parts, starts["cuts"].values), time.monotonic() - began
    yield found("cuts", row, highest(row, size), truth, took)
    nothing = Scores(unflat(parts, np.zeros(count(parts), np.float32)), Seen.nothing())
    best = search_restarts(
        model, prompts, [*starts.values(), *[nothing] * config.restarts], size, config.search,
        config.repair, dictionary=parts,
    )  # fmt: skip
    mask = flat(parts, best.mask.mask).astype(bool)
    ranks = best.ranks + (np.ptp(best.ranks) + 1) * mask
    yield found("hagd", ranks, mask, truth, time.monotonic() - began) | {
        "losses": [round(loss, 5) for loss in best.losses]
    }
    for name, most in (("smallest", 1e-3), ("smallest, gates", KL_GATE)):
        began = time.monotonic()
        least = smallest_circuit(
            model, prompts, starts["cuts"], most=most, config=config.search, dictionary=parts
        )
        mask = flat(parts, least.mask).astype(bool)
        yield found(name, row, mask, truth, took + time.monotonic() - began) | {
            "found": int(mask.sum())
        }


def main(config: Config) -> None:
    """Search the circuits of all programs."""
    cells = [
        {"half": half, "number": number}
        for half in config.halves
        for number in range(config.programs)
    ]
    measure_cells(
        "random_programs", cells, lambda cell: measure(cell, config), config,
        varied=("halves", "programs"), packages="tracr-pypi", seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
