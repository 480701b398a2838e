"""Does a Llama-2-70B forward with three captured sites fit a TPU slice? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_forward

Takes under a minute on two CPU cores and under 2 GB of memory; no weights, no TPU. Expected: both
slices fit (bytes a chip under `memory`). Writes results/plan_llama70b.json.
"""

from __future__ import annotations

import dataclasses
import time

import jax

from experiments.common.plans import Slices, account
from experiments.common.processes import on_cpu
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models
from hagd_jax.cli.plan import PlanMemory, run_plan


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for planning the forward pass of a large model.

    Attributes:
        model: Preset of the model.
        slices: TPU slices and their meshes.
        batch: Prompts per batch; more prompts use more memory.
        length: Tokens per prompt; longer prompts use more memory.
        capture: Sites whose activations are captured.
    """

    model: str = "llama-70b"
    slices: Slices = (("v5e:8x8", "data=8,model=8"), ("v5p:4x4x4", "data=8,model=8"))
    batch: int = 8
    length: int = 2048
    capture: tuple[str, ...] = ("resid_post", "head_out", "mlp_out")


def main(config: Config) -> None:
    """Plan the forward pass for every slice, and record the memory per chip."""
    on_cpu()
    began, name, shape = time.monotonic(), config.model, (config.batch, config.length)
    decoder = models.preset(name).replace(dtype="bfloat16")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(models.abstract(decoder).params))
    print(f"{name}: {parameters / 1e9:.2f} billion parameters, {shape[0]} x {shape[1]} tokens")
    rows = [
        account(run_plan(PlanMemory(name, topology, mesh, *shape, capture=config.capture)))
        for topology, mesh in config.slices
    ]
    record(
        config.results / "plan_llama70b.json", rows, seconds=time.monotonic() - began,
        packages=("libtpu",), accelerator="none", unit="bytes a chip",
        model=f"{name}, {decoder.dtype}", parameters=parameters, tokens=shape,
        capture=config.capture,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
