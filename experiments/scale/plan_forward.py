"""Does a Llama-2-70B forward with three captured sites fit a TPU slice? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_forward

Takes under a minute on two CPU cores and under 2 GB of memory; no weights, no TPU. Expected: both
slices fit (bytes a chip under `memory`). Writes results/plan_llama70b.json.
"""

from __future__ import annotations

import dataclasses
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from experiments.common.record import record
from hagd_jax import models
from hagd_jax.cli import Plan, run_plan

MODEL = "llama-70b"
SLICES = (("v5e:8x8", "data=8,model=8"), ("v5p:4x4x4", "data=8,model=8"))
BATCH, LENGTH = 8, 2048
CAPTURE = ("resid_post", "head_out", "mlp_out")


def main() -> None:
    began = time.monotonic()
    config = models.preset(MODEL).replace(dtype="bfloat16")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(models.abstract(config).params))
    print(f"{MODEL}: {parameters / 1e9:.2f} billion parameters, {BATCH} x {LENGTH} tokens")
    rows = []
    for topology, mesh in SLICES:
        plan = run_plan(Plan(MODEL, topology, mesh, batch=BATCH, length=LENGTH, capture=CAPTURE))
        rows.append(dataclasses.asdict(plan) | {"total": plan.total, "fits": plan.fits})
    record(
        "plan_llama70b",
        rows,
        seconds=time.monotonic() - began,
        packages=("libtpu",),
        accelerator="none",
        unit="bytes a chip",
        model=f"{MODEL}, {config.dtype}",
        parameters=parameters,
        tokens=[BATCH, LENGTH],
        capture=CAPTURE,
    )


if __name__ == "__main__":
    main()
