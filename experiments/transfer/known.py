"""Are units matched rightly where it is known which correspond?

    pip install -e '.[transfer,tracr]'
    python -m experiments.transfer.known
    python -m experiments.transfer.known --parts roles --behaviours names subject

Pairs of models in which units of the one have a known counterpart in the other:

    programs  models of `testbeds.known_cases`, compiled programs among them, beside the same
              computation in a model with more layers, heads, neurons and a wider stream: in other
              layers, its heads and neurons permuted, its stream turned;
    roles     models of `testbeds.role_case`, written by hand in the blocks of GPT-2, GPT-NeoX,
              Llama and of a model without norms, with other places and strengths: units of one role
              correspond. What a whole MLP does in one model two neurons do in another;
    blocks    the same models, where neurons of one layer and role are one unit, as what a circuit
              keeps of an MLP is by default. Neurons of a layer are one unit in programs, too;
    alike     the models of `roles` and of `blocks`, every behaviour beside every other one: how
              often two models of one behaviour, of different families, are more similar than two of
              different behaviours.

Every pair is matched by roles and structure, by roles
alone, and with the signatures of the second circuit permuted (the null, ten times); a match is
right where a unit that has counterparts is matched with one of them. Chance is the share of the
second circuit's units that are. Pairs in which that has one unit say nothing and are left out.

Takes a few minutes a behaviour and half a minute a program on two CPU cores, nearly all of it
compiling. Writes results/transfer_known.json; a stopped run continues.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax import transfer
from hagd_jax.causal import Node, auroc
from hagd_jax.testbeds import (
    Case,
    RoleCase,
    hidden_in,
    known_cases,
    known_names,
    role_case,
    scrambled,
)
from hagd_jax.testbeds.role_models import BEHAVIOURS
from hagd_jax.testbeds.sketch import STYLES
from hagd_jax.transfer import MatchConfig, Portrait, PortraitConfig
from hagd_jax.units import Unit
from hagd_jax.units import tree as tree_of
from hagd_jax.units.unit import CLUSTER, MLP, ranges_of

Part = Literal["programs", "roles", "blocks", "alike"]
# The larger model: two more layers, between those of the case.
LARGER = {"n_layers": 6, "d_model": 96, "n_heads": 6, "n_kv_heads": 6, "d_mlp": 72}
LAYERS = (0, 2, 3, 5)
# Roles that say that a unit does nothing for the behaviour.
IDLE = ("inert", "first token")
HOW = PortraitConfig(prompts=64, batch_size=64)
SHUFFLES = 10


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for matching units whose counterparts are known.

    Attributes:
        parts: Kinds of pairs.
        programs: Names of known models; all of them if empty.
        behaviours: Behaviours of models written by hand.
        seeds: Of these models: every seed is paired with itself.
    """

    parts: tuple[Part, ...] = get_args(Part)
    programs: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = tuple(BEHAVIOURS)
    seeds: tuple[int, ...] = (0, 1)


def main(config: Config) -> None:
    """Match every pair."""
    cells: list[Row] = []
    if "programs" in config.parts:
        cells += [{"part": "programs", "of": name, "seed": 0}
                  for name in config.programs or known_names()]  # fmt: skip
    for part in ("roles", "blocks"):
        if part in config.parts:
            cells += [{"part": part, "of": name, "seed": seed}
                      for name in config.behaviours for seed in config.seeds]  # fmt: skip
        if "alike" in config.parts:
            cells += [{"part": "alike", "of": part, "seed": seed} for seed in config.seeds]

    def measure(cell: Row) -> list[Row]:
        if cell["part"] == "alike":
            return [alike(config, cell["of"], cell["seed"])]
        return pairs(cell, config.runs / "transfer_known")

    measure_cells("transfer_known", cells, measure, config,
                  varied=("parts", "programs", "behaviours", "seeds"))  # fmt: skip


def pairs(cell: Row, runs: Path) -> list[Row]:
    """Match all pairs of a cell, in both directions."""
    name, seed = cell["of"], cell["seed"]
    part = cell["part"]
    made = (programs if part == "programs" else roles)(name, seed, runs / part)
    return [
        {"first": one, "second": other} | matched(made[one], made[other], cell["seed"])
        for one, other in itertools.permutations(made, 2)
        if len(made[other][1]) > 1
    ]


def matched(first: tuple, second: tuple, seed: int) -> Row:
    """Match one pair in several ways; return how many units are matched rightly."""
    (one, own), (other, theirs) = first, second
    found = transfer.match(one, other)
    alone = transfer.match(one, other, MatchConfig(structure=0))
    null = [right(transfer.match(one, shuffled), own, theirs)
            for shuffled in transfer.reshuffled(other, SHUFFLES, seed, bands=1)]  # fmt: skip
    return {
        "units": len(own), "among": len(theirs),
        "known": sum(name in theirs for name in own),
        "chance": sum(theirs.count(name) for name in own) / len(theirs),
        "right": right(found, own, theirs), "right_by_role": right(alone, own, theirs),
        "right_permuted": float(np.mean(null)), "similarity": round(found.similarity, 4),
        "roles": round(found.role_similarity, 4),
        "structure": round(found.structure_similarity or 0.0, 4),
    }  # fmt: skip


def right(found: transfer.Match, own: tuple[str, ...], theirs: tuple[str, ...]) -> int:
    """Count the units that are matched with one that has their label."""
    best = found.plan.argmax(1)
    matched = found.plan.max(1) > 0
    return sum(bool(matched[i]) and theirs[best[i]] == name for i, name in enumerate(own))


def roles(behaviour: str, seed: int, runs: Path) -> dict[str, tuple]:
    """Portraits of the models of one behaviour, by style, with the roles of their units."""
    made = {}
    for style in STYLES:
        case = role_case(behaviour, style, seed)
        units = units_of(case, blocks=runs.name == "blocks")
        own = kept(runs / f"{behaviour}-{style}-{seed}.safetensors", case, list(units))
        made[style] = own, tuple(units.values())
    return made


def kept(path: Path, case: Case | RoleCase, units: list[Unit]) -> Portrait:
    """Read a portrait, or measure it and keep it."""
    if path.exists():
        return transfer.load_portrait(path)
    found = transfer.portrait(case.model, case.prompts, units, HOW)
    path.parent.mkdir(parents=True, exist_ok=True)
    transfer.save_portrait(found, path)
    return found


def units_of(case: RoleCase, *, blocks: bool) -> dict[Unit, str]:
    """The units of a case that do something, with their roles; with `blocks` neurons together."""
    own = {name: role for name, role in case.roles.items() if role not in IDLE}
    tree, groups = tree_of(case.model), dict[tuple, list[Unit]]()
    for name, role in own.items():
        unit = tree.unit(name)
        key = (unit.layers, role) if blocks and unit.kind == "neuron" else (name, role)
        groups.setdefault(key, []).append(unit)
    return {together(units): role for (_, role), units in groups.items()}


def alike(config: Config, part: str, seed: int) -> Row:
    """Compare all models of one seed that have other blocks, whatever they do."""
    folder = config.runs / "transfer_known" / part
    every = [(name, style, own[0]) for name in config.behaviours
             for style, own in roles(name, seed, folder).items()]  # fmt: skip
    similar, same = [], []
    for (name, style, one), (also, other, two) in itertools.combinations(every, 2):
        if style != other:
            similar.append(transfer.match(one, two).similarity)
            same.append(name == also)
    values, truth = np.array(similar), np.array(same)
    return {
        "same": int(truth.sum()), "others": int((~truth).sum()),
        "auroc": auroc(values, truth),
        "similarity": [float(np.median(values[truth])), float(values[truth].min())],
        "of_others": [float(np.median(values[~truth])), float(values[~truth].max())],
    }  # fmt: skip


def programs(name: str, seed: int, runs: Path) -> dict[str, tuple]:
    """Portraits of a known model and of the same computation in a larger one."""
    (case,) = known_cases([name])
    # A truth of each unit by itself shows where it goes.
    nodes = sorted(case.truth["mean"])
    case = case._replace(truth={str(i): frozenset({node}) for i, node in enumerate(nodes)})
    config = dataclasses.replace(case.model.config, **LARGER)
    number = 1000 * (1 + seed) + known_names().index(name)
    larger = scrambled(hidden_in(case, config, number, LAYERS), number)
    label = {i: f"head {node.layer}.{node.index}" if node.kind == "head" else f"mlp {node.layer}"
             for i, node in enumerate(nodes)}  # fmt: skip
    return {body: shown(own, label, runs / f"{number}-{body}.safetensors")
            for body, own in (("known", case), ("larger", larger))}  # fmt: skip


def shown(case: Case, label: dict[int, str], path: Path) -> tuple[Portrait, tuple[str, ...]]:
    """The portrait of a case whose units are its heads, and what it has of each MLP."""
    parts: dict[str, list[Node]] = {}
    for i, own in label.items():
        parts.setdefault(own, []).extend(case.truth[str(i)])
    tree = tree_of(case.model)
    units = [together([tree.unit(f"{node.kind} {node.layer}.{node.index}") for node in nodes])
             for nodes in parts.values()]  # fmt: skip
    return kept(path, case, units), tuple(parts)


def together(leaves: list[Unit]) -> Unit:
    """A head, a neuron, or neurons of a layer as one unit."""
    if len(leaves) == 1:
        return leaves[0]
    places = np.sort(np.concatenate([unit.places() for unit in leaves]))
    return Unit(CLUSTER, leaves[0].layers, 0, MLP, ranges_of(places))


if __name__ == "__main__":
    run(main, Config, __doc__)
