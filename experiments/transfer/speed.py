"""How long does it take to match circuits, and to compare them with chance?

    pip install -e '.[transfer]'
    python -m experiments.transfer.speed
    python -m experiments.transfer.speed --sizes 20 150

Portraits are drawn at random, without a model: signatures of the second circuit are those of the
first with noise of .8 deviations, and seven tenths of its structure are the first one's. `match` is
one match; `compare` adds 99 with signatures that change places, for circuits of at most
`--compared` units. The largest size comes last, so that the peak memory after it is its own.

Takes some five minutes on two CPU cores. Writes results/transfer_speed.json; a stopped run
continues.
"""

from __future__ import annotations

import dataclasses
import resource
import time

import numpy as np

from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax import transfer
from hagd_jax.roles import NAMES
from hagd_jax.transfer import Portrait
from hagd_jax.units import Unit
from hagd_jax.units.unit import ATTENTION, HEAD

LAYERS = 24


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for timing matches.

    Attributes:
        sizes: Numbers of units of a circuit, ascending.
        compared: Largest number of units of circuits that are compared with chance.
        seed: Of the portraits.
    """

    sizes: tuple[int, ...] = (20, 64, 150, 1000)
    compared: int = 150
    seed: int = 0


def main(config: Config) -> None:
    """Time every size."""
    cells = [{"units": count} for count in config.sizes]

    def measure(cell: Row) -> list[Row]:
        return [timed(cell["units"], config)]

    measure_cells("transfer_speed", cells, measure, config, varied=("sizes",))


def timed(count: int, config: Config) -> Row:
    """Time one size; the process's first match is not the one that is timed."""
    first = drawn(count, config.seed)
    second = near(first, drawn(count, config.seed + 1), config.seed)
    transfer.match(drawn(3, 0), drawn(3, 1))
    began = time.monotonic()
    found = transfer.match(first, second)
    row: Row = {
        "match_seconds": round(time.monotonic() - began, 3),
        "similarity": round(found.similarity, 4),
        "right": float((found.plan.argmax(1) == np.arange(count)).mean()),
    }
    if count <= config.compared:
        began = time.monotonic()
        transfer.compare(first, second)
        row["compare_seconds"] = round(time.monotonic() - began, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row | {"peak_gb": round(peak * 1024 / 1e9, 2)}


def drawn(count: int, seed: int) -> Portrait:
    """A portrait of heads, each of which reads up to three others below it."""
    rng = np.random.default_rng([seed, count])
    layers = np.arange(count) * LAYERS // count
    units = tuple(Unit(HEAD, (layer, layer), i, ATTENTION, ((i, i + 1),))
                  for i, layer in enumerate(layers.tolist()))  # fmt: skip
    values = np.clip(rng.normal(size=(count, len(NAMES))), -3, 3)
    shares = np.zeros((count + 2, count + 2))
    for reader in range(1, count + 2):
        sources = rng.choice(reader, min(reader, 3), replace=False)
        shares[sources, reader] = rng.dirichlet(np.ones(len(sources)))
    return Portrait(units, tuple(unit.name for unit in units), values, np.ones_like(values, bool),
                    shares, (layers + 0.5) / LAYERS, "drawn", "drawn")  # fmt: skip


def near(first: Portrait, other: Portrait, seed: int) -> Portrait:
    """A portrait that resembles the first one."""
    noise = 0.8 * np.random.default_rng(seed).normal(size=first.values.shape)
    assert first.shares is not None
    assert other.shares is not None
    return dataclasses.replace(
        other, values=np.clip(first.values + noise, -3, 3),
        shares=0.7 * first.shares + 0.3 * other.shares,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
