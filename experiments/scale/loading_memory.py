"""How much host memory does loading take, and does the mesh compute what one device computes?

    python -m experiments.scale.loading_memory

Takes about a minute and a half on two CPU cores, 3 GB of memory, 1.1 GB of disk. Expected: peak
over baseline at most 1.25 times the model's bytes on the mesh; the same weights on the mesh as on
one device, bit for bit, and logits within 1e-4 (computed in float32). Writes
results/loading_memory.json.

`save` writes a Llama-like model of 1.02 GB in bfloat16, in three shards. Fresh processes load it on
8 host devices (data=2, model=4) and on one. Meanwhile a thread samples the resident memory,
including pages mapped from files, 500 times a second; at the end the kernel's own high-water mark
is read too. On host devices the placed weights themselves are in host memory, so 1.0 is the
minimum.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.common.processes import own_process
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.models import DecoderConfig, LanguageModel, forward, load, save
from hagd_jax.models.decoder import param_specs
from hagd_jax.parallel import make_mesh

LIMIT = 1.25
TOLERANCE = 1e-4
MESHES = {"mesh": ("data=2,model=4", 8), "one_device": ("", 1)}
Part = Literal["write", "mesh", "one_device"]


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring host memory while a model is loaded.

    Attributes:
        layers: Number of transformer blocks.
        width: Width of the residual stream; the model has 16 heads.
        mlp: MLP neurons per layer.
        vocabulary: Size of the vocabulary, in tokens.
        apart: Run each part in a separate process, so that memory is measured for it alone.
        part: Run only this part in this process, print its result and end; used internally.
        folder: Folder of the model that a part reads or writes.
    """

    layers: int = 8
    width: int = 2048
    mlp: int = 5632
    vocabulary: int = 32000
    apart: bool = True
    part: Part | None = None
    folder: Path = Path("model")

    def decoder(self) -> DecoderConfig:
        """Return the configuration of the model."""
        return DecoderConfig(
            family="llama", vocab_size=self.vocabulary, n_layers=self.layers, d_model=self.width,
            n_heads=16, n_kv_heads=8, d_mlp=self.mlp, max_positions=2048, norm="rms",
            positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
            attn_out_bias=False, mlp_bias=False, dtype="bfloat16",
        )  # fmt: skip


def main(config: Config) -> None:
    """Run every part, and compare the results."""
    if config.part is not None:
        return print(run_here(config.part, config))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        config = dataclasses.replace(config, folder=Path(temporary, "model"))
        run_part("write", config, devices=1)
        files = sorted(config.folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        parts = {
            part: json.loads(run_part(part, config, devices=n)) for part, (_, n) in MESHES.items()
        }
    row, good = compared(parts["mesh"], parts["one_device"], size)
    record(
        config.results / "loading_memory.json", list(parts.values()),
        seconds=time.monotonic() - began, seed=0, unit="bytes resident, mapped files included",
        model_bytes=size, shards=len(files), limit=LIMIT, **row,
    )  # fmt: skip
    if not good:
        sys.exit("NOT as expected")


def compared(mesh: dict, one: dict, size: int) -> tuple[dict[str, Any], bool]:
    """Compare the two ways of loading, and return whether the results are as expected."""
    logits = [part.pop("logits") for part in (mesh, one)]
    difference = max(abs(a - b) for a, b in zip(*logits, strict=True))
    for part in (mesh, one):
        part["peak_over_model"] = round((part["peak"] - part["baseline"]) / size, 4)
    same = mesh["weights"] == one["weights"]
    good = mesh["peak_over_model"] <= LIMIT and same and difference <= TOLERANCE
    return {
        "same_weights": same,
        "largest_logit": max(map(abs, logits[1])),
        "largest_logit_difference": difference,
    }, good


def run_part(part: str, config: Config, devices: int) -> str:
    """Run one part, in a process with `devices` host devices if `apart`; return its output."""
    if not config.apart:
        return run_here(part, config)
    sizes = {name: getattr(config, name) for name in ("layers", "width", "mlp", "vocabulary")}
    more = [text for name, value in sizes.items() for text in (f"--{name}", value)]
    said = own_process(
        "experiments.scale.loading_memory", "--part", part, "--folder", config.folder, *more,
        devices=devices,
    )  # fmt: skip
    return said.splitlines()[-1]


def run_here(part: str, config: Config) -> str:
    """Run one part in this process, and return its result as JSON."""
    if part == "write":
        write(config)
        return ""
    return json.dumps(measure(config.folder, MESHES[part][0]))


def write(config: Config) -> None:
    """Save a random model in three shards; by default it has 0.51 billion parameters."""
    params = {
        # Norm scales are near one, so that the logits are not small.
        leaf: leaf.endswith("scale")
        + 0.02 * jax.random.normal(jax.random.key(i), spec.shape, jnp.bfloat16)
        for i, (leaf, spec) in enumerate(param_specs(config.decoder()).items())
    }
    shard = 0.4 * sum(2 * leaf.size for leaf in params.values())
    model = LanguageModel(unflatten_dict(params, sep="/"), config.decoder())
    save(model, config.folder, max_shard_bytes=int(shard))


def measure(folder: Path, mesh_description: str) -> dict[str, Any]:
    """Load the model and sample memory; also return the weights' digest and some logits."""
    mesh = make_mesh(mesh_description) if mesh_description else None
    jax.block_until_ready(jnp.zeros(1) + 1)
    baseline, start = resident(), time.time()
    with Watch() as watch:
        model = jax.block_until_ready(load(folder, mesh=mesh))
    seconds, after, high = time.time() - start, resident(), resident("VmHWM")
    leaves = flatten_dict(model.params, sep="/")
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(np.asarray(leaves[name]).view(np.uint16).tobytes())
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
    """Watch is a context manager that records the peak resident memory of its block."""

    def __enter__(self) -> Watch:
        self.peak = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        """Sample the resident memory until the block ends; runs in a thread."""
        while not self.done.wait(0.002):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, resident())


def resident(field: str = "VmRSS") -> int:
    """Return this process's resident bytes, mapped files included; their peak with VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    run(main, Config, __doc__)
