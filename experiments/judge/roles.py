"""Are roles right? Rules against models whose units have a known purpose, and against noise.

    pip install -e '.[tracr]'
    python -m experiments.judge.roles

Takes about fifteen minutes on two free CPU cores; finished models are not measured again. Every
unit with a known role in a model of `testbeds.role_case` or `testbeds.role_program` is named by
`roles.roles_of`, and so are heads of the same models with permuted weights, which have no purpose.

- `tuning`: styles `plain` and `neox`, and programs of `testbeds.PROGRAMS` hidden in one host. The
  thresholds of `roles.RULES` were chosen on these, and its counts are these.
- `held out`: styles `gpt2` and `llama` of the larger size, and the programs of `BOARD`, which are
  longer, of other vocabularies, or other programs. No threshold was chosen by looking at them.

Expected on held-out models: at least 85% of 60 or more units with a purpose right (`unnamed` and
`inert` ones are counted apart), and at most 5% of heads of permuted models with a wrong role.
`inert` is no wrong role for these: it is what an ablation found. Writes results/roles.json.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import Any

import numpy as np

from experiments.common.cells import measure_cells
from experiments.common.record import share, write
from experiments.common.script import Places, run
from hagd_jax import roles
from hagd_jax.causal.negative import permuted
from hagd_jax.testbeds import PROGRAMS, RoleCase, role_case, role_program
from hagd_jax.testbeds.programs import BOARD
from hagd_jax.testbeds.role_models import BEHAVIOURS

STYLES = {"tuning": ("plain", "neox"), "held out": ("gpt2", "llama")}
SIZES = {"tuning": "small", "held out": "large"}
# Programs of four tokens, which fit in one host and share its compiled functions.
_TUNING = tuple(
    name for name, own in PROGRAMS.items()
    if own.length == 4 and name not in ("sort_freq", "shuffle_dyck2")
)  # fmt: skip
# It says the same of all inputs of one length.
_SILENT = "length"
NO_PURPOSE = (roles.UNNAMED, "inert")
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring how often roles are right.

    Attributes:
        sets: Sets of models to measure.
        seeds: Seeds of the tuning models of each style and behaviour.
        held_out_seeds: Seeds of the held-out ones.
        behaviours: Behaviours of the models that are written by hand; all if empty.
        programs: Names of programs; all if empty.
        heads: Heads of each weight-permuted model, at most.
    """

    sets: tuple[str, ...] = ("tuning", "held out")
    seeds: tuple[int, ...] = (0, 1)
    held_out_seeds: tuple[int, ...] = (100, 101)
    behaviours: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    heads: int = 16


def main(config: Config) -> None:
    """Measure every model, name its units, and add the shares of right names to the record."""
    varied = ("sets", "seeds", "held_out_seeds", "behaviours", "programs")
    rows = measure_cells(
        "roles", cells(config), lambda cell: measured(cell, config.heads), config, varied=varied
    )
    # Signatures are kept beside the finished models alone, so that other rules need none anew.
    rows = named(rows)
    file = config.results / "roles.json"
    found = {name: summary([row for row in rows if row["set"] == name]) for name in config.sets}
    write(file, {**json.loads(file.read_text()), "summary": found, "rows": rows})
    for name, own in found.items():
        print(name, {key: value for key, value in own.items() if key not in ("table", "rules")})


def cells(config: Config) -> list[dict[str, Any]]:
    """List the models to measure."""
    found: list[dict[str, Any]] = []
    for name in config.sets:
        seeds = config.seeds if name == "tuning" else config.held_out_seeds
        for style in STYLES[name]:
            found += [
                {"set": name, "style": style, "behaviour": behaviour, "seed": seed}
                for seed in seeds for behaviour in config.behaviours or BEHAVIOURS
            ]  # fmt: skip
        own = _TUNING if name == "tuning" else tuple(program.name for program in BOARD)
        chosen = [p for p in config.programs or own if p in own and p != _SILENT]
        found += [
            {"set": name, "program": program, "seed": own.index(program)} for program in chosen
        ]
    return found


def made(cell: dict[str, Any]) -> RoleCase:
    """Make the model of a cell."""
    if "behaviour" in cell:
        return role_case(cell["behaviour"], cell["style"], cell["seed"], SIZES[cell["set"]])
    if cell["set"] == "tuning":
        return role_program(PROGRAMS[cell["program"]], cell["seed"])
    return role_program({own.name: own for own in BOARD}[cell["program"]], cell["seed"])


def measured(cell: dict[str, Any], heads: int) -> list[dict[str, Any]]:
    """Measure the units of a model, and heads of the model with permuted weights."""
    case = made(cell)
    c = case.model.config
    every = [f"head {i}.{j}" for i in range(c.n_layers) for j in range(c.n_heads)][:heads]
    both = ((case.model, case.roles), (permuted(case.model), dict.fromkeys(every, RANDOM)))
    rows = []
    for model, true in both:
        found = roles.signatures(model, case.prompts, list(true))
        rows += [
            {"unit": unit.name, "true": true[unit.name], "values": values.round(5).tolist()}
            for unit, values in zip(found.units, found.values, strict=True)
        ]
    return rows


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name units by their signatures."""
    values = np.array([row.pop("values") for row in rows], np.float32)
    said = roles.named(values)
    return [row | {"said": role.name, "rule": role.rule}
            for row, role in zip(rows, said, strict=True)]  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what was right, what was wrong, and what each rule named."""
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    rules: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in rows:
        table[row["true"]][row["said"]] += 1
        idle = row["true"] == RANDOM and row["said"] == "inert"
        if row["rule"] and not idle:
            rules[row["rule"]]["fired"] += 1
            rules[row["rule"]]["wrong"] += row["said"] != row["true"]
    purpose = [row for row in rows if row["true"] not in (*NO_PURPOSE, RANDOM)]
    others = [row for row in rows if row["true"] in NO_PURPOSE]
    noise = [row for row in rows if row["true"] == RANDOM]
    right = sum(row["said"] == row["true"] for row in purpose)
    named = sum(row["said"] not in NO_PURPOSE for row in noise)
    return {
        "units": len(purpose), "right": right, "share_right": share(right, len(purpose)),
        "without_purpose": len(others),
        "without_purpose_right": sum(row["said"] == row["true"] for row in others),
        "random_heads": len(noise), "random_named": named,
        "share_random_named": share(named, len(noise)),
        "random_inert": sum(row["said"] == "inert" for row in noise),
        "rules": {name: dict(own) for name, own in sorted(rules.items())},
        "table": {true: dict(said) for true, said in sorted(table.items())},
    }  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
