"""Does a Llama-2-70B forward with three captured sites fit a TPU slice? Asked without a TPU.

Command:  pip install "hagd-jax[tpu]" && python experiments/plan_llama70b.py
Runtime:  a minute and a half on two CPU cores, under 2 GB of memory; no weights, no TPU.
Result:   experiments/results/plan_llama70b.json
Expected: both slices fit (bytes a chip under `memory`).
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp

from hagd_jax.models import DecoderConfig, LanguageModel, abstract, forward
from hagd_jax.parallel import Plan, plan, sharding, topology_mesh

# https://huggingface.co/meta-llama/Llama-2-70b-hf/blob/main/config.json
LLAMA_2_70B = DecoderConfig(
    family="llama",
    vocab_size=32000,
    n_layers=80,
    d_model=8192,
    n_heads=64,
    n_kv_heads=8,
    d_mlp=28672,
    max_positions=4096,
    norm="rms",
    norm_eps=1e-5,
    positions="rotary",
    activation="silu",
    gated_mlp=True,
    qkv_bias=False,
    attn_out_bias=False,
    mlp_bias=False,
    tied=False,
    dtype="bfloat16",
)
SLICES = (("v5e:8x8", "data=8,model=8"), ("v5p:4x4x4", "data=8,model=8"))
BATCH, LENGTH = 8, 2048
CAPTURE = ("resid_post", "head_out", "mlp_out")
RESULT = Path(__file__).parent / "results" / "plan_llama70b.json"


def plan_forward(topology: str, mesh_description: str) -> Plan:
    """Account for one forward pass on one slice."""
    mesh = topology_mesh(topology, mesh_description)
    model = abstract(LLAMA_2_70B, mesh=mesh)
    shape = (BATCH, LENGTH)
    placed = sharding(mesh, ("batch", "length"), shape, name="tokens")
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placed)

    def run(model: LanguageModel, tokens: jax.Array):
        return forward(model, tokens, capture=CAPTURE)

    return plan(run, (model, tokens), topology=topology, mesh=mesh)


def main():
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract(LLAMA_2_70B).params))
    print(f"Llama-2-70B: {parameters / 1e9:.2f} billion parameters, {BATCH} x {LENGTH} tokens")
    rows = []
    for topology, mesh in SLICES:
        account = plan_forward(topology, mesh)
        print(account, end="\n\n")
        rows.append(dataclasses.asdict(account) | {"total": account.total, "fits": account.fits})
    record = {
        "command": "python experiments/plan_llama70b.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, no TPU",
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        "unit": "bytes a chip",
        "parameters": parameters,
        "tokens": [BATCH, LENGTH],
        "capture": CAPTURE,
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
