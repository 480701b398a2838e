"""Does a network that has seen other graphs know which nodes belong to a circuit?

    pip install -e '.[tracr]'
    python -m experiments.circuits.meta_learning  # about forty minutes on two cores

Graphs with known circuits, of three families: models written by hand, in guises; compiled
programs, whose members are the nodes without which some answer changes; small models trained on
algorithms, with circuits found by masks and swaps and accepted by the judge. The learner is trained
on two families and tested on the third. AUROC beside the best of three single scores (influence,
|attribution|, signed IG), before and after adaptation to 16 measured ablations; and the loss of
masks that begin at its logits beside masks that begin at signed IG, after so many steps. The
learner of all three families is written to hagd_jax/meta/learner.safetensors. Its size, steps and
noise are the better of two tried on these same figures.

Graphs are kept in runs/experiments/meta/. Writes results/meta_learning.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jraph
import numpy as np
from scipy import stats

from experiments.common.cells import RUNS
from experiments.common.record import record
from hagd_jax import meta, tasks, testbeds
from hagd_jax.causal import behaviour
from hagd_jax.causal.evaluate import KL_GATE
from hagd_jax.causal.metrics import auroc
from hagd_jax.meta.learner import states
from hagd_jax.models import LanguageModel
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.search import MaskConfig, RepairConfig, measured_losses, repair, search_masks
from hagd_jax.tasks import Prompts, Sizes
from hagd_jax.testbeds import PROGRAMS, compile_program, compiled_prompts, hand_built, scrambled
from hagd_jax.units import Nodes, neurons

K, MOST = 16, 96
GRADIENTS = GradientConfig(batch_size=32)
MASKS = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, start=1.0)
SMALL = testbeds.SmallTrainConfig(d_model=64, n_heads=4, d_mlp=64)
ALGORITHMS = ("parity", "sorting", "induction", "dyck")
Known = tuple[LanguageModel, Prompts, np.ndarray]


def by_hand(seed: int, name: str) -> Known:
    case = scrambled({case.name: case for case in hand_built()}[name], seed)
    space = neurons(case.model).space
    row = np.zeros(space.nodes, bool)
    for node in case.truth["counterfactual"]:
        first = 0 if node.kind == "head" else space.layers * space.heads
        width = space.heads if node.kind == "head" else space.features
        row[first + node.layer * width + node.index] = True
    return case.model, case.prompts[:MOST], row


def compiled(seed: int, name: str) -> Known:
    found = compile_program(PROGRAMS[name])
    model, prompts = found.model, compiled_prompts(found, seed=seed)
    prompts = prompts[np.sort(np.random.default_rng(seed).permutation(len(prompts))[:MOST])]
    space = neurons(model).space
    needed = np.zeros(space.nodes, bool)
    for start in range(0, space.nodes, 256):
        places = np.resize(np.arange(start, min(start + 256, space.nodes)), min(256, space.nodes))
        rows = np.ones((len(places), space.nodes), bool)
        rows[np.arange(len(places)), places] = False
        own = behaviour(
            model, prompts, [Nodes.from_flat(space, row) for row in rows], batch_size=MOST,
            ablation="counterfactual",
        )  # fmt: skip
        needed[places] |= ~own.match.all(1)
    return model, prompts, needed


def trained(seed: int, name: str) -> Known:
    """The least of some sizes whose circuit keeps 97% and both gates under two ablations."""
    algorithm = tasks.small_algorithm(name)
    assert algorithm is not None
    model = testbeds.train_small(algorithm, seed=seed, config=SMALL)
    task = tasks.task(name, model, sizes=Sizes(256, 64, 128), seed=seed)
    prompts, space = task.splits["discover"], neurons(model).space
    scores = mean_scores(model, prompts[:MOST], GRADIENTS)
    sizes = [round(share * space.nodes) for share in (0.5, 0.35, 0.25, 0.15, 0.1)]
    circuits, _ = search_masks(model, prompts, scores, sizes, MASKS, seed=seed)
    best = np.ones(space.nodes, bool)
    for size in sizes:
        mask = repair(model, prompts, circuits[size], RepairConfig(rounds=5, batch_size=64)).mask
        kept = []
        for ablation in ("counterfactual", "mean"):
            found = behaviour(
                model, task.splits["select"], [mask, Nodes.full(space, False)], batch_size=64,
                ablation=ablation, candidates=task.candidates, reference=prompts, with_model=True,
            )  # fmt: skip
            right, kl = found.correct.mean(1), found.kl.mean(1)
            kept.append(right[1] >= 0.97 * right[0] and kl[1] <= KL_GATE * kl[2])
        if all(kept):
            best = mask.flat().astype(bool)
    return model, prompts[:MOST], best


FAMILIES: dict[str, tuple[Callable[[int, str], Known], list[tuple[int, str]]]] = {
    "by hand": (by_hand, [(s, case.name) for s in range(5) for case in hand_built()]),
    "compiled": (compiled, [(0, name) for name in PROGRAMS]),
    "trained": (trained, [(s, name) for s in range(3) for name in ALGORITHMS]),
}


@dataclasses.dataclass(frozen=True)
class One:
    """A graph, and what masks need to begin on it."""

    family: str
    name: str
    seen: meta.Described
    ig: np.ndarray
    members: np.ndarray
    effects: np.ndarray


def all_graphs(families: list[str]) -> Iterator[One]:
    for family in families:
        make, every = FAMILIES[family]
        for seed, name in every:
            path = RUNS / "meta" / f"{family}-{name}-{seed}.npz".replace(" ", "_")
            if not path.exists():
                write(path, *make(seed, name))
                jax.clear_caches()  # each graph has programs of its own: too many to keep
            one = read(path, family, f"{name}-{seed}")
            if 0 < one.members.sum() < len(one.members):
                yield one


def write(path: Path, model: LanguageModel, prompts: Prompts, members: np.ndarray) -> None:
    began = time.monotonic()
    graph = node_graph(
        model, prompts, GradientConfig((0.2, 0.4, 0.6, 0.8, 1.0), 32), candidates=1024
    )
    scores = mean_scores(model, prompts, GRADIENTS)
    seen = meta.describe(graph, scores)
    # Every node alone, in calls of one shape.
    total, places = len(members), np.arange(len(members))
    at_once = min(256, total)
    found = [
        meta.effects(model, prompts, np.resize(places[start : start + at_once], at_once),
                     batch_size=MOST).effects[: len(places[start : start + at_once])]
        for start in range(0, total, at_once)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    g = seen.graph
    np.savez_compressed(
        path, nodes=g.nodes, edges=g.edges, senders=g.senders, receivers=g.receivers,
        members=members, effects=np.concatenate(found), **seen.singles,
    )  # fmt: skip
    print(path.stem, total, int(members.sum()), f"{time.monotonic() - began:.0f} s", flush=True)


def read(path: Path, family: str, name: str) -> One:
    with np.load(path) as held:
        n = np.array([len(held["nodes"])], np.int32), np.array([len(held["edges"])], np.int32)
        graph = jraph.GraphsTuple(
            held["nodes"], held["edges"], held["receivers"], held["senders"], None, *n
        )
        singles = {key: held[key] for key in ("influence", "|attribution|", "ig")}
        return One(family, name, meta.Described(graph, singles), held["ig"], held["members"],
                   held["effects"])  # fmt: skip


def example(one: One, seed: int) -> meta.Example:
    """With K ablations chosen at random: as many members among them as there happen to be."""
    places = np.resize(np.random.default_rng(seed).permutation(len(one.members)), K)
    measured = meta.Measured(places.astype(np.int32), one.effects[places])
    return meta.Example(one.seen.graph, one.members, measured)


def learnt(graphs: list[One], steps: int, seed: int) -> meta.Learner:
    draws = [example(one, 100 * draw + seed) for draw in range(3) for one in graphs]
    return meta.train(draws, meta.MetaConfig(steps=steps, seed=seed))


def tested(learner: meta.Learner, graphs: list[One]) -> list[dict]:
    rows = []
    for one in graphs:
        prior = meta.score(learner, one.seen)
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


def halving(learner: meta.Learner, family: str, count: int) -> list[dict]:
    """Loss of masks after so many steps, from the learner's logits and from signed IG."""
    make, every = FAMILIES[family]
    rows = []
    for seed, name in every[:count]:
        model, prompts, members = make(seed, name)
        if not 0 < members.sum() < len(members):
            continue
        jax.clear_caches()
        path = RUNS / "meta" / f"{family}-{name}-{seed}.npz".replace(" ", "_")
        one, space = read(path, family, name), neurons(model).space
        starts = {"ig": one.ig, "prior": meta.score(learner, one.seen)}
        for by, scores in starts.items():
            for steps in (25, 50, 100, 200):
                config = dataclasses.replace(MASKS, steps=steps, check_every=25)
                size = int(members.sum())
                circuits, _ = search_masks(
                    model, prompts, Nodes.from_flat(space, scores), [size], config
                )
                (loss,) = measured_losses(model, prompts, [circuits[size]])
                rows.append({"family": family, "graph": f"{name}-{seed}", "begins at": by,
                             "steps": steps, "loss": round(float(loss), 5)})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="of meta-training")
    parser.add_argument("--seeds", type=int, default=3, help="learners a family left out")
    parser.add_argument("--halving", type=int, default=3, help="graphs a family; 0 for none")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    args = parser.parse_args()
    began = time.monotonic()
    graphs = list(all_graphs(args.families))
    rows, summary, starts = [], [], []
    for family in args.families:
        others = [one for one in graphs if one.family != family]
        own = [one for one in graphs if one.family == family]
        for seed in range(args.seeds):
            learner = learnt(others, args.steps, seed)
            rows += [row | {"seed": seed} for row in tested(learner, own)]
            if seed == 0 and args.halving:
                starts += halving(learner, family, args.halving)
        summary.append(summarised(family, rows))
        print(summary[-1], flush=True)
    meta.save(learnt(graphs, args.steps, 0), Path(meta.__file__).parent / "learner.safetensors")
    record("meta_learning", summary, seconds=time.monotonic() - began, k=K, steps=args.steps,
           seeds=args.seeds, graphs=rows, starts=starts)  # fmt: skip


def summarised(family: str, rows: list[dict]) -> dict:
    """Means over graphs and seeds, and the interval of the gain over the best single score."""
    own = [row for row in rows if row["family"] == family]
    names = ("influence", "|attribution|", "ig", "prior", "adapted", "effects of all")
    means = {name: round(float(np.mean([row[name] for row in own])), 4) for name in names}
    best = max(("influence", "|attribution|", "ig"), key=means.__getitem__)
    found = {"family left out": family, "graphs": len({row["graph"] for row in own}), **means,
             "best single": best}  # fmt: skip
    for name, over in (("prior", best), ("adapted", "prior")):
        gain = np.array([row[name] - row[over] for row in own])
        low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain) + 1e-12)
        three = (gain.mean(), low, high)
        columns = (f"{name} gains", f"{name} low", f"{name} high")
        found |= {column: round(float(x), 4) for column, x in zip(columns, three, strict=True)}
    return found


if __name__ == "__main__":
    main()
