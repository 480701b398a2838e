"""Does a network trained on other graphs predict which nodes belong to a circuit?

    pip install -e '.[tracr]'
    python -m experiments.circuits.meta_learning  # about forty minutes on two cores

The graphs have known circuits and come from three families: models written by hand, each in
scrambled variants; compiled programs, whose members are the nodes without which some answer
changes; and small models trained on algorithms, with circuits that were found by masks and swaps
and pass the judge's gates. The learner is trained on two families and tested on the third. Its
AUROC is compared with the best of three single scores (influence, |attribution|, signed IG), before
and after adaptation to 16 measured ablations. Masks that start at its logits are compared with
masks that start at signed IG, by their loss after several numbers of steps. The learner of all
three families is written to hagd_jax/meta/learner.safetensors. Its size, steps and noise are the
better of two settings tried on these same figures.

Graphs are kept in runs/experiments/meta/. Writes results/meta_learning.json.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import jraph
import numpy as np

from experiments.common.known import sample, truth_of
from experiments.common.processes import few_programs
from experiments.common.record import half_interval, record
from experiments.common.script import Places, run
from experiments.common.small_models import algorithm_of
from hagd_jax import meta, tasks, testbeds
from hagd_jax.causal import Ablation, behaviour
from hagd_jax.causal.gates import KL_GATE
from hagd_jax.causal.metrics import auroc
from hagd_jax.meta.learner import states
from hagd_jax.models import LanguageModel
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.search import MaskConfig, RepairConfig, measured_losses, repair, search_masks
from hagd_jax.tasks import Prompts, Sizes
from hagd_jax.testbeds import PROGRAMS, compile_program, compiled_prompts, hand_built, scrambled
from hagd_jax.units import Nodes, neurons

K = 16  # ablations that the learner adapts to
ALGORITHMS = ("parity", "sorting", "induction", "dyck")
SHARES = (0.5, 0.35, 0.25, 0.15, 0.1)
Known = tuple[LanguageModel, Prompts, np.ndarray]
Family = Literal["by hand", "compiled", "trained"]


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for meta-training with one family of graphs left out.

    Attributes:
        steps: Training steps of the meta-learner.
        seeds: Number of learners for each family that is left out.
        halving: Graphs per family on which masks are trained; 0 for none.
        families: Families of graphs.
        graphs: Largest number of graphs per family; 0 for all.
        prompts: Largest number of prompts per graph.
        train: Training of the small models.
        sizes: Number of prompts in each split of the small models' tasks.
        masks: Training of the masks.
        mask_steps: Numbers of training steps after which mask losses are compared.
        learner: File to which the learner of all families is written.
    """

    steps: int = 600
    seeds: int = 3
    halving: int = 3
    families: tuple[Family, ...] = get_args(Family)
    graphs: int = 0
    prompts: int = 96
    train: testbeds.SmallTrainConfig = testbeds.SmallTrainConfig(d_model=64, n_heads=4, d_mlp=64)
    sizes: Sizes = Sizes(256, 64, 128)
    masks: MaskConfig = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, start=1.0)
    mask_steps: tuple[int, ...] = (25, 50, 100, 200)
    learner: Path = Path(meta.__file__).parent / "learner.safetensors"


def by_hand(seed: int, name: str, config: Config) -> Known:
    """Return a scrambled model written by hand, its prompts and its true circuit."""
    case = scrambled({case.name: case for case in hand_built()}[name], seed)
    truth = truth_of(case, "counterfactual")
    return case.model, case.prompts[: config.prompts], truth


def compiled(seed: int, name: str, config: Config) -> Known:
    """Return a compiled program, its prompts, and the nodes without which some answer changes."""
    found = compile_program(PROGRAMS[name])
    model = found.model
    prompts = sample(compiled_prompts(found, seed=seed), config.prompts, seed)
    space = neurons(model).space
    needed = np.zeros(space.nodes, bool)
    for start in range(0, space.nodes, 256):
        places = np.resize(np.arange(start, min(start + 256, space.nodes)), min(256, space.nodes))
        rows = np.ones((len(places), space.nodes), bool)
        rows[np.arange(len(places)), places] = False
        own = behaviour(
            model, prompts, [Nodes.from_flat(space, row) for row in rows],
            batch_size=config.prompts,
            ablation="counterfactual",
        )  # fmt: skip
        needed[places] |= ~own.match.all(1)
    return model, prompts, needed


def trained(seed: int, name: str, config: Config) -> Known:
    """Return a trained model, its prompts, and its smallest circuit that passes the gates.

    The circuit keeps 97% of the accuracy and is within the KL gate under counterfactual and mean
    ablation; it is the whole model if none of the sizes does.
    """
    model = testbeds.train_small(algorithm_of(name), seed=seed, config=config.train)
    task = tasks.task(name, model, sizes=config.sizes, seed=seed)
    prompts, space = task.splits["discover"], neurons(model).space
    scores = mean_scores(model, prompts[: config.prompts], gradients(config))
    sizes = [round(share * space.nodes) for share in SHARES]
    circuits = search_masks(model, prompts, scores, sizes, config.masks, seed=seed).circuits
    best = np.ones(space.nodes, bool)
    for size in sizes:
        swaps = RepairConfig(rounds=5, batch_size=64)
        mask = repair(model, prompts, circuits[size], swaps).mask.mask
        kept = []
        for ablation in ("counterfactual", "mean"):
            found = behaviour(
                model, task.splits["select"], [mask, Nodes.full(space, False)], batch_size=64,
                ablation=Ablation(ablation, prompts), candidates=task.candidates, with_model=True,
            )  # fmt: skip
            right, kl = found.correct.mean(1), found.kl.mean(1)
            kept.append(right[1] >= 0.97 * right[0] and kl[1] <= KL_GATE * kl[2])
        if all(kept):
            best = mask.flat().astype(bool)
    return model, prompts[: config.prompts], best


def gradients(config: Config) -> GradientConfig:
    """Return the gradient settings of the node scores."""
    return GradientConfig(batch_size=config.masks.batch_size)


FAMILIES: dict[str, tuple[Callable[[int, str, Config], Known], list[tuple[int, str]]]] = {
    "by hand": (by_hand, [(s, case.name) for s in range(5) for case in hand_built()]),
    "compiled": (compiled, [(0, name) for name in PROGRAMS]),
    "trained": (trained, [(s, name) for s in range(3) for name in ALGORITHMS]),
}


@dataclasses.dataclass(frozen=True)
class KnownGraph:
    """KnownGraph is an attribution graph with a known circuit and measured effects.

    Attributes:
        family: Family of the graph.
        name: Name of the model, with its seed.
        seen: The graph with node features, and its single scores.
        ig: (N,) signed integrated gradients.
        members: (N,) bool: the circuit's nodes.
        effects: (N,) measured effect of ablating each node alone.
    """

    family: str
    name: str
    seen: meta.Described
    ig: np.ndarray
    members: np.ndarray
    effects: np.ndarray


def members_of(config: Config, family: str) -> list[tuple[int, str]]:
    """Return the seeds and names of a family's graphs."""
    every = FAMILIES[family][1]
    return every[: config.graphs] if config.graphs else every


def file_of(config: Config, family: str, name: str, seed: int) -> Path:
    """Return the file in which a graph is kept."""
    return config.runs / "meta" / f"{family}-{name}-{seed}.npz".replace(" ", "_")


def all_graphs(config: Config) -> Iterator[KnownGraph]:
    """Yield the graphs of all families, except those whose circuit is empty or the whole model."""
    for family in config.families:
        for seed, name in members_of(config, family):
            path = file_of(config, family, name, seed)
            if not path.exists():
                write(path, FAMILIES[family][0](seed, name, config), config)
                few_programs()
            one = read(path, family, f"{name}-{seed}")
            if 0 < one.members.sum() < len(one.members):
                yield one


def write(path: Path, known: Known, config: Config) -> None:
    """Make the graph of one model, ablate each of its nodes alone, and save both."""
    (model, prompts, members), began = known, time.monotonic()
    graph = node_graph(
        model, prompts, GradientConfig((0.2, 0.4, 0.6, 0.8, 1.0), 32), candidates=1024
    )
    scores = mean_scores(model, prompts, gradients(config))
    seen = meta.describe(graph, scores)
    # Each node is ablated alone; all calls have one shape, so that one program serves them.
    total, places = len(members), np.arange(len(members))
    at_once = min(256, total)
    found = [
        meta.effects(model, prompts, np.resize(places[start : start + at_once], at_once),
                     batch_size=config.prompts).effects[: len(places[start : start + at_once])]
        for start in range(0, total, at_once)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    g: Any = seen.graph
    np.savez_compressed(
        path, nodes=g.nodes, edges=g.edges, senders=g.senders, receivers=g.receivers,
        members=members, effects=np.concatenate(found), **seen.singles,
    )  # fmt: skip
    print(path.stem, total, int(members.sum()), f"{time.monotonic() - began:.0f} s", flush=True)


def read(path: Path, family: str, name: str) -> KnownGraph:
    """Read a saved graph."""
    with np.load(path) as held:
        n: Any = [np.array([len(held[kind])], np.int32) for kind in ("nodes", "edges")]
        graph = jraph.GraphsTuple(
            held["nodes"], held["edges"], held["receivers"], held["senders"], None, *n
        )
        singles = {key: held[key] for key in ("influence", "|attribution|", "ig")}
        described = meta.Described(graph, singles)
        return KnownGraph(family, name, described, held["ig"], held["members"], held["effects"])


def scored(learner: meta.Learner, one: KnownGraph) -> np.ndarray:
    """Return the learner's logits, (N,)."""
    return np.asarray(meta.logits(learner, meta.padded(one.seen.graph)))[: len(one.members)]


def example(one: KnownGraph, seed: int) -> meta.Example:
    """Return a training example of a graph with K randomly chosen measured ablations."""
    places = np.resize(np.random.default_rng(seed).permutation(len(one.members)), K)
    measured = meta.Measured(places.astype(np.int32), one.effects[places])
    return meta.Example(one.seen.graph, one.members, measured)


def learnt(graphs: list[KnownGraph], steps: int, seed: int) -> meta.Learner:
    """Train a learner on graphs, each with three random draws of ablations."""
    draws = [example(one, 100 * draw + seed) for draw in range(3) for one in graphs]
    return meta.train(draws, meta.MetaConfig(steps=steps, seed=seed))


def tested(learner: meta.Learner, graphs: list[KnownGraph]) -> list[dict]:
    """Return the AUROC of the learner and of single scores on each graph."""
    rows = []
    for one in graphs:
        prior = scored(learner, one)
        places = meta.most_telling(prior, K)
        measured = meta.Measured(places.astype(np.int32), one.effects[places])
        after = np.asarray(meta.adapted(learner, states(learner, one.seen.graph), measured))
        row = {"family": one.family, "graph": one.name, "nodes": len(prior),
               "members": int(one.members.sum())}  # fmt: skip
        for name, scores in {**one.seen.singles, "prior": prior, "adapted": after,
                             "effects of all": one.effects}.items():  # fmt: skip
            row[name] = round(auroc(scores, one.members), 4)
        rows.append(row)
    return rows


def halving(learner: meta.Learner, family: str, config: Config) -> list[dict]:
    """Compare masks that start at the learner's logits with masks that start at signed IG."""
    rows = []
    for seed, name in members_of(config, family)[: config.halving]:
        model, prompts, members = FAMILIES[family][0](seed, name, config)
        size = int(members.sum())
        if not 0 < size < len(members):
            continue
        few_programs()
        one = read(file_of(config, family, name, seed), family, name)
        space, train = neurons(model).space, functools.partial(search_masks, model, prompts)
        starts = {"ig": one.ig, "prior": scored(learner, one)}
        for by, scores in starts.items():
            for steps in config.mask_steps:
                masks = dataclasses.replace(
                    config.masks, steps=steps, check_every=min(config.mask_steps)
                )
                made = train(Nodes.from_flat(space, scores), [size], masks)
                (loss,) = measured_losses(model, prompts, [made.circuits[size]])
                rows.append({"family": family, "graph": f"{name}-{seed}", "begins at": by,
                             "steps": steps, "loss": round(float(loss), 5)})  # fmt: skip
    return rows


def main(config: Config) -> None:
    """Test learners on the family left out, then train and save one on all families."""
    began = time.monotonic()
    graphs = list(all_graphs(config))
    rows, summary, starts = [], [], []
    for family in config.families:
        others = [one for one in graphs if one.family != family]
        own = [one for one in graphs if one.family == family]
        for seed in range(config.seeds):
            learner = learnt(others, config.steps, seed)
            rows += [row | {"seed": seed} for row in tested(learner, own)]
            if seed == 0 and config.halving:
                starts += halving(learner, family, config)
        summary.append(summarised(family, rows))
        print(summary[-1], flush=True)
    meta.save(learnt(graphs, config.steps, 0), config.learner)
    record(
        config.results / "meta_learning.json", summary, seconds=time.monotonic() - began, k=K,
        steps=config.steps, seeds=config.seeds, graphs=rows, starts=starts,
    )  # fmt: skip


def summarised(family: str, rows: list[dict]) -> dict:
    """Return mean AUROCs over graphs and seeds, and intervals of the gains with 95% coverage."""
    own = [row for row in rows if row["family"] == family]
    names = ("influence", "|attribution|", "ig", "prior", "adapted", "effects of all")
    means = {name: round(float(np.mean([row[name] for row in own])), 4) for name in names}
    best = max(("influence", "|attribution|", "ig"), key=means.__getitem__)
    found = {"family left out": family, "graphs": len({row["graph"] for row in own}), **means,
             "best single": best}  # fmt: skip
    for name, over in (("prior", best), ("adapted", "prior")):
        gain = np.array([row[name] - row[over] for row in own])
        half = half_interval(gain.tolist())
        three = (gain.mean(), gain.mean() - half, gain.mean() + half)
        columns = (f"{name} gains", f"{name} low", f"{name} high")
        found |= {column: round(float(x), 4) for column, x in zip(columns, three, strict=True)}
    return found


if __name__ == "__main__":
    run(main, Config, __doc__)
