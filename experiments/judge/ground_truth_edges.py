"""How many edges does a compiled program need? Each edge is cut alone.

    pip install -e '.[tracr]'
    python -m experiments.judge.ground_truth_edges

Takes some three minutes on two CPU cores. Expected: every model computes its program on all inputs
of all lengths; `reverse` needs 10 edges under zero ablation and 2 under resample ablation,
`xproportion` 5 and 3, as published with AutoCircuit (Miller et al., 2024, arXiv:2407.08734).
Writes results/ground_truth_edges.json, with the names of the edges.

Edges along which the program's weights are zero are skipped: cutting them changes nothing, which
tests check. An edge is needed if some answer changes when its receiver alone sees zero (zero
ablation) or the sender's value on another input (resample ablation, three pairings) instead of the
sender's value. Edges end at a head's query, key or value input, at an MLP, or at the logits; the
embedding, with its positions, is one sender.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Literal

import numpy as np

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.causal import named_edges
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, forward
from hagd_jax.tasks import Prompts
from hagd_jax.testbeds import (
    PROGRAMS,
    Compiled,
    compile_program,
    compiled_prompts,
    necessary_edges,
    program_edges,
)
from hagd_jax.units import Edges

PUBLISHED = {"reverse": {"zero": 10, "resample": 2}, "xproportion": {"zero": 5, "resample": 3}}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for counting the edges that compiled programs need.

    Attributes:
        programs: Names of the programs.
        ablations: Value that the receiver of a cut edge sees: zero, or another input's (resample).
        longest: Longest inputs, in tokens; 0 for the length the program was compiled for.
    """

    programs: tuple[str, ...] = tuple(PROGRAMS)
    ablations: tuple[Literal["zero", "resample"], ...] = ("zero", "resample")
    longest: int = 0


def main(config: Config) -> None:
    """Compile each program, cut its edges one by one, and record how many are needed."""
    began, rows, names = time.monotonic(), [], {}
    for name in config.programs:
        compiled = compile_program(PROGRAMS[name])
        model = compiled.model
        prompts = all_prompts(compiled, config.longest)
        row = {
            "program": name,
            "layers": model.config.n_layers,
            "heads": model.config.n_heads,
            "edges": int(Edges.existing(model.config).count()),
            "of the program": int(program_edges(model).count()),
            "accuracy": round(accuracy(model, prompts), 4),
        }
        for ablation in config.ablations:
            found = necessary_edges(model, prompts, ablation, among=program_edges(model))
            row[ablation] = int(found.count())
            names[f"{name}, {ablation}"] = [" ".join(e) for e in named_edges(model.config, found)]
            row[f"published {ablation}"] = PUBLISHED.get(name, {}).get(ablation)
        rows.append(row)
        print(row, flush=True)
    record(
        config.results / "ground_truth_edges.json", rows, seconds=time.monotonic() - began, seed=0,
        packages=("tracr-pypi",), needed=names,
    )  # fmt: skip


def all_prompts(compiled: Compiled, longest: int = 0) -> list[Prompts]:
    """Return all inputs of every length at which the program has a value."""
    found = []
    for length in range(2, (longest or compiled.program.length) + 1):
        # A program that shifts by two has no answer on inputs of two tokens.
        with contextlib.suppress(InputError):
            found.append(compiled_prompts(compiled, length))
    return found


def accuracy(model: LanguageModel, prompts: list[Prompts]) -> float:
    """Return the share of all inputs and positions where the model agrees with the program."""
    right = []
    for part in prompts:
        logits = np.asarray(forward(model, part.clean).logits)
        at = logits[np.arange(len(part)), part.position]
        right.append(at.argmax(-1) == part.answer)
    return float(np.concatenate(right).mean())


if __name__ == "__main__":
    run(main, Config, __doc__)
