"""Which slices do the large models of each family need? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_models
    python -m experiments.scale.plan_models --models mixtral-8x7b --programs forward

Three programs of each model are compiled for slices in turn, until one has the memory:

    forward      8 prompts of 2,048 tokens with three sites captured (see `plan_forward`);
    attribution  the three programs of a graph of a prompt of 2,048 tokens over a transcoder with
                 128 of 8 x width features active a token (see `plan_attribution`);
    step         the fused executor's step over neurons (see `plan_pipeline`).

Takes about half an hour on two CPU cores; no weights, no TPU. A stopped run continues. Writes
results/plan_models.json.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal, get_args

from experiments.common.cells import Row, measure_cells
from experiments.common.plans import Slices, account
from experiments.common.processes import on_cpu
from experiments.common.script import Places, run
from experiments.scale import plan_attribution, plan_forward, plan_pipeline
from hagd_jax import models, parallel
from hagd_jax.cli.plan import PlanMemory, run_plan
from hagd_jax.parallel import Plan

What = Literal["forward", "attribution", "step"]


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for planning the programs of large models.

    Attributes:
        models: Presets of the models.
        programs: What is planned.
        slices: TPU slices and their meshes, tried in order until one fits.
        forward: Batch and sites of the forward pass; its model and slices are not used.
        attribution: Prompt and features of the graph; its model and slices are not used.
        step: Sizes of the composed step; its models are not used.
    """

    models: tuple[str, ...] = ("qwen3-32b", "gemma-3-27b", "mixtral-8x7b", "llama-3-70b")
    programs: tuple[What, ...] = get_args(What)
    slices: Slices = (
        ("v5e:8x8", "data=8,model=8"),
        ("v5p:4x4x2", "data=2,model=16"),
        ("v5p:4x4x4", "data=4,model=16"),
        ("v5p:4x4x8", "data=4,model=32"),
    )
    forward: plan_forward.Config = plan_forward.Config()
    attribution: plan_attribution.Config = plan_attribution.Config()
    step: plan_pipeline.Config = plan_pipeline.Config()


def main(config: Config) -> None:
    """Plan every program of every model."""
    on_cpu()
    cells = [{"model": name, "program": what} for name in config.models for what in config.programs]

    def measure(cell: Row) -> list[Row]:
        rows: list[Row] = []
        for topology, description in config.slices:
            found = plans(cell["model"], cell["program"], topology, description, config)
            print(cell["model"], found, flush=True)
            rows = [{"part": part} | account(plan) for part, plan in found.items()]
            if all(plan.fits for plan in found.values()):
                break
        return rows

    rows = measure_cells("plan_models", cells, measure, config, varied=("models", "programs"))
    if large := [row for row in rows if not row["fits"]]:
        sys.exit(f"no slice is large enough: {large}")


def plans(
    name: str, what: What, topology: str, description: str, config: Config
) -> dict[str, Plan]:
    """Compile the programs of one kind for one slice."""
    if what == "forward":
        shape, sites = (config.forward.batch, config.forward.length), config.forward.capture
        return {what: run_plan(PlanMemory(name, topology, description, *shape, capture=sites))}
    decoder = models.preset(name).replace(dtype="bfloat16")
    mesh = parallel.topology_mesh(topology, description)
    if what == "step":
        return {what: plan_pipeline.program(decoder, config.step, mesh).plan(topology, mesh)}
    made = plan_attribution.programs(decoder, config.attribution, mesh)
    return {part: program.plan(topology, mesh) for part, program in made.items()}


if __name__ == "__main__":
    run(main, Config, __doc__)
