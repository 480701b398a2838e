"""Are the known circuits true? A proof for every model with a known circuit.

    pip install -e '.[tracr]'
    python -m experiments.judge.known_models

Takes some three minutes on two CPU cores. For every model of `testbeds.known_cases` and every
ablation under which its circuit is stated, the script measures on all of its prompts:

- `off`: distance of the circuit's metric from the model's, as a share of the largest metric.
  Expected: at most 1e-3, which is float32 precision on logits of up to thousands.
- `least`: smallest loss from removing one unit: the KL from the model as a share of the empty
  circuit's. Expected: at least .05, so that no unit is idle.
- `touched`: share of the prompts on which that unit changes the metric at all.

`testbeds.known` says where each circuit comes from; none was found by a search. Writes
results/known_models.json.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from experiments.common.known import truth_of
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.causal import Ablation, behaviour
from hagd_jax.testbeds import Case, known_cases
from hagd_jax.units import Nodes, neurons

# A fixed number of circuits per call, so that models of one shape share a compiled program.
MASKS = 14
SAME = 1e-2


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for proving that circuits are true.

    Attributes:
        models: Names of the models; all of them if empty.
        ablations: Ablations to prove circuits under; a case may state fewer.
    """

    models: tuple[str, ...] = ()
    ablations: tuple[str, ...] = ("mean", "resample", "counterfactual", "zero")


def main(config: Config) -> None:
    """Prove every circuit, and record the largest error and the smallest loss."""
    began, rows = time.monotonic(), []
    for case in known_cases(config.models or None):
        rows += [proof(case, name) for name in config.ablations if name in case.truth]
        print(rows[-1], flush=True)
    record(
        config.results / "known_models.json", rows, seconds=time.monotonic() - began, seed=0,
        packages=("tracr-pypi",), models=len({row["model"] for row in rows}),
        off=max(row["off"] for row in rows), least=min(row["least"] for row in rows),
    )  # fmt: skip


def proof(case: Case, ablation: str) -> dict:
    """Measure the circuit alone, and without each of its units; return a row."""
    space, truth = neurons(case.model).space, truth_of(case, ablation)
    units = np.flatnonzero(truth)
    flat = np.array([truth & (np.arange(len(truth)) != unit) for unit in units])
    flat = np.concatenate([[truth, np.zeros_like(truth)], flat])
    count = max(MASKS, len(flat))
    flat = np.concatenate([flat, np.zeros((count - len(flat), len(truth)), bool)])
    found = behaviour(
        case.model, case.prompts, [Nodes.from_flat(space, row) for row in flat], 
        ablation=Ablation(ablation, case.prompts), batch_size=len(case.prompts), with_model=True,
    )  # fmt: skip
    full, alone, without = found.metric[0], found.metric[1], slice(3, 3 + len(units))
    lost = found.kl[without].mean(1) / found.kl[2].mean()
    least = int(lost.argmin())
    return {
        "model": case.name,
        "ablation": ablation,
        "units": len(units),
        "prompts": len(case.prompts),
        "accuracy": float(found.correct[0].mean()),
        "off": float(np.abs(alone - full).max() / np.abs(full).max()),
        "least": float(lost[least]),
        "touched": float((np.abs(found.metric[without][least] - full) > SAME).mean()),
    }


if __name__ == "__main__":
    run(main, Config, __doc__)
