"""Are p-values of transfer right where two circuits share nothing?

    pip install -e '.[transfer]'
    python -m experiments.transfer.calibrated
    python -m experiments.transfer.calibrated --pairs 20 --behaviours names subject

The heads and MLPs of models written by hand, of several behaviours and families, are measured on
one half of their prompts and on the other. A pair is `--units` of them drawn at random in one
model, and as many in another one; beside the second stand 19 further draws in its model:

- `ks`: are the p-values uniform? By a Kolmogorov-Smirnov test; ties, as where nothing matches, are
  broken at random, without which p-values are larger, never smaller.
- `above`: how many pairs are more similar than the first circuit is to itself, measured on the
  other half of the prompts?

Takes some five minutes on two CPU cores. Writes results/transfer_calibrated.json.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from scipy import stats

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import transfer
from hagd_jax.testbeds import role_case
from hagd_jax.testbeds.role_models import BEHAVIOURS
from hagd_jax.testbeds.sketch import STYLES
from hagd_jax.transfer import Portrait, PortraitConfig

NULLS = 19


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for calibrating p-values.

    Attributes:
        behaviours: Behaviours of the models.
        pairs: Number of pairs.
        units: Units of a random circuit.
        seed: Of the models and the draws.
    """

    behaviours: tuple[str, ...] = tuple(BEHAVIOURS)
    pairs: int = 200
    units: int = 4
    seed: int = 0


def main(config: Config) -> None:
    """Measure the models, draw the pairs, and record what came of them."""
    began = time.monotonic()
    halves = [measured(name, style, config.seed)
              for name in config.behaviours for style in STYLES]  # fmt: skip
    rng = np.random.default_rng(config.seed)
    values, above = [], 0
    for _ in range(config.pairs):
        one, other = rng.choice(len(halves), 2, replace=False)
        first, twin = drawn(rng, config.units, *halves[one])
        every = [drawn(rng, config.units, halves[other][0])[0] for _ in range(1 + NULLS)]
        alike = np.array([transfer.match(first, own).similarity for own in every])
        values.append(p_value(rng, alike))
        above += int(alike[0] > transfer.match(first, twin).similarity)
    record(
        config.results / "transfer_calibrated.json",
        [{"pairs": config.pairs, "units": config.units, "models": len(halves), "above": above,
          "ks": float(stats.kstest(values, "uniform").pvalue),
          "at_05": float(np.mean(np.array(values) <= 0.05))}],
        seconds=time.monotonic() - began, seed=config.seed,
    )  # fmt: skip


def measured(behaviour: str, style: str, seed: int) -> tuple[Portrait, Portrait]:
    """Heads and MLPs of a model on one half of its prompts, and on the other."""
    case = role_case(behaviour, style, seed)
    half = min(64, len(case.prompts) // 2)
    how = PortraitConfig(prompts=half, batch_size=half, seed=seed)
    print(case.name, flush=True)
    return (transfer.portrait(case.model, case.prompts[:half], config=how),
            transfer.portrait(case.model, case.prompts[half : 2 * half], config=how))  # fmt: skip


def drawn(rng: np.random.Generator, count: int, *halves: Portrait) -> list[Portrait]:
    """The same random units of several portraits of a model."""
    chosen = np.sort(rng.choice(len(halves[0]), count, replace=False))
    return [dataclasses.replace(
        own, units=tuple(own.units[i] for i in chosen), names=tuple(own.names[i] for i in chosen),
        values=own.values[chosen], known=own.known[chosen], depth=own.depth[chosen],
    ) for own in halves]  # fmt: skip


def p_value(rng: np.random.Generator, alike: np.ndarray) -> float:
    """The rank of the first among all, ties broken at random, as a share."""
    more, ties = (alike[1:] > alike[0]).sum(), (alike[1:] == alike[0]).sum()
    return float((more + rng.random() * (1 + ties)) / len(alike))


if __name__ == "__main__":
    run(main, Config, __doc__)
