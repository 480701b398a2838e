"""How much host memory does loading take, and does the mesh compute what one device computes?

    python -m experiments.scale.loading_memory

Takes about a minute and a half on two CPU cores, 3 GB of memory, 1.1 GB of disk. Expected: peak
over baseline at most 1.25 times the model's bytes on the mesh; the same weights on the mesh as on
one device, bit for bit, and logits within 1e-4 (computed in float32). Writes
results/loading_memory.json.

A Llama-like model of 1.02 GB in bfloat16 is written by `save`, in three shards. Fresh processes
load it, on 8 host devices (data=2, model=4) and on one, while a thread reads the resident memory,
pages mapped from files included, 500 times a second; afterwards the kernel's own high-water mark
is read too. On host devices the placed weights are host memory themselves: 1.0 is the least.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from experiments.common.record import record

LIMIT = 1.25
TOLERANCE = 1e-4
MESHES = {"mesh": ("data=2,model=4", 8), "one_device": ("", 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["write", *MESHES], help="internal: one process of it")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.part == "write":
        write(given.folder)
    elif given.part:
        print(json.dumps(measure(given.folder, MESHES[given.part][0])))
    else:
        compare()


def compare() -> None:
    """Run every part in a process of its own, and compare."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        run("write", folder, devices=1)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        parts = {part: json.loads(run(part, folder, n)) for part, (_, n) in MESHES.items()}
    mesh, one = parts["mesh"], parts["one_device"]
    logits = [part.pop("logits") for part in (mesh, one)]
    difference = max(abs(a - b) for a, b in zip(*logits, strict=True))
    for part in parts.values():
        part["peak_over_model"] = round((part["peak"] - part["baseline"]) / size, 4)
    same = mesh["weights"] == one["weights"]
    record(
        "loading_memory",
        list(parts.values()),
        seconds=time.monotonic() - began,
        seed=0,
        unit="bytes resident, mapped files included",
        model_bytes=size,
        shards=len(files),
        limit=LIMIT,
        same_weights=same,
        largest_logit=max(map(abs, logits[1])),
        largest_logit_difference=difference,
    )
    good = mesh["peak_over_model"] <= LIMIT and same and difference <= TOLERANCE
    sys.exit(0 if good else "NOT as expected")


def run(part: str, folder: Path, devices: int) -> str:
    """One part in a fresh process with that many host devices; what it printed."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        "-m",
        "experiments.scale.loading_memory",
        "--part",
        part,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def write(folder: Path) -> None:
    """A random model of 0.51 billion parameters."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from hagd_jax.models.config import DecoderConfig
    from hagd_jax.models.decoder import param_specs
    from hagd_jax.models.model import LanguageModel
    from hagd_jax.models.saving import save

    config = DecoderConfig(
        family="llama", vocab_size=32000, n_layers=8, d_model=2048, n_heads=16, n_kv_heads=8,
        d_mlp=5632, max_positions=2048, norm="rms", positions="rotary", activation="silu",
        gated_mlp=True, qkv_bias=False, attn_out_bias=False, mlp_bias=False, dtype="bfloat16",
    )  # fmt: skip
    params = {
        # Norm scales about one, so that the logits are not small.
        leaf: leaf.endswith("scale")
        + 0.02 * jax.random.normal(jax.random.key(i), spec.shape, jnp.bfloat16)
        for i, (leaf, spec) in enumerate(param_specs(config).items())
    }
    save(LanguageModel(unflatten_dict(params, sep="/"), config), folder, max_shard_bytes=4e8)


def measure(folder: Path, mesh_description: str) -> dict[str, Any]:
    """Load once, watching the memory; then the weights' digest and some logits."""
    import jax
    import numpy as np
    from flax.traverse_util import flatten_dict

    from hagd_jax.models.loading import load
    from hagd_jax.models.model import forward
    from hagd_jax.parallel import make_mesh

    mesh = make_mesh(mesh_description) if mesh_description else None
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    baseline, start = resident(), time.time()
    with Watch() as watch:
        model = jax.block_until_ready(load(folder, mesh=mesh))
    seconds, after, high = time.time() - start, resident(), resident("VmHWM")
    leaves = flatten_dict(model.params, sep="/")
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(np.asarray(leaves[name]).view(np.uint16).data)
    exact = model.replace(config=model.config.replace(dtype="float32"))
    tokens = np.random.default_rng(0).integers(model.config.vocab_size, size=(2, 8))
    logits = forward(exact, tokens).logits[:, -1, :500]
    return {
        "mesh": mesh_description or "none",
        "devices": jax.device_count(),
        "baseline": baseline,
        "peak_sampled": watch.peak,
        "peak": max(watch.peak, high),
        "after": after,
        "load_seconds": round(seconds, 2),
        "weights": digest.hexdigest(),
        "logits": np.asarray(logits, np.float64).ravel().tolist(),
    }


class Watch:
    """The most memory that was resident within a `with` block."""

    def __enter__(self) -> Watch:
        self.peak = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        """Sample until told to stop; it runs in a thread of its own."""
        while not self.done.wait(0.002):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, resident())


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory, mapped files included: now, or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
