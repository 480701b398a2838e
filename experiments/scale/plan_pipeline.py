"""Does the composed step fit a TPU slice? Llama-2-7B and 70B, asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_pipeline

Compiled is `pipeline.step` as it runs: the transcoder's update, the graph of 1,024 features and all
heads, its coarsening, the meta-learner's scores, and the masks' update, which one of them acts
being data; the state is donated. Analytic FLOPs are those of each phase. A quarter of an hour on
two CPU cores; no weights, no TPU. Writes results/plan_pipeline.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp

from experiments.common.record import record
from experiments.scale.plan_transcoder import abstract_state
from hagd_jax import meta, models, parallel, pipeline
from hagd_jax.models import DecoderConfig
from hagd_jax.search import MaskConfig
from hagd_jax.tasks import Prompts
from hagd_jax.transcoders import TrainConfig

SLICES = {
    "llama-2-7b": (("v5e:8x8", "data=4,model=16"), ("v5e:8x8", "data=2,model=32")),
    "llama-2-70b": (("v5p:4x4x4", "data=2,model=32"), ("v5p:4x4x8", "data=4,model=32")),
}
TRAIN = TrainConfig(
    features="8x", k=64, dtype="bfloat16", batch_size=16, accumulate=4, tokens=10**8
)
TOKENS, PROMPTS, LENGTH = (16, 512), 8, 64
CONFIG = pipeline.StepConfig(
    nodes=4096, train=TRAIN, train_steps=1000, candidates=1024,
    masks=MaskConfig(steps=300, batch_size=PROMPTS),
)  # fmt: skip


def plan_step(c: DecoderConfig, topology: str, description: str) -> parallel.Plan:
    """Compile the step for a slice."""
    mesh = parallel.topology_mesh(topology, description)
    model = models.abstract(c, mesh=mesh)

    def like(shape: tuple[int, ...], dtype: Any = jnp.int32) -> Any:
        axes = ("batch",) + (None,) * (len(shape) - 1)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.sharding(mesh, axes, shape))

    one = like((PROMPTS,))
    prompts = Prompts(like((PROMPTS, LENGTH)), like((PROMPTS, LENGTH)), one, one, one, one)
    batch = pipeline.StepBatch(like(TOKENS), like(TOKENS, jnp.float32), prompts)
    state, whole = state_of(c, mesh), parallel.sharding(mesh, (), ())
    learner = jax.eval_shape(lambda: meta.init(meta.LearnerConfig(), jax.random.key(0)))
    learner = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), learner
    )
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    inputs = state, model, batch, None, learner
    return parallel.plan(
        pipeline.step.__wrapped__, inputs, topology=topology, mesh=mesh,
        out_shardings=(places, None), donate_argnums=(0,),
    )  # fmt: skip


def state_of(c: DecoderConfig, mesh: jax.sharding.Mesh) -> pipeline.State:
    """The state as shapes: the transcoder as it is trained, everything else on every chip."""
    without = dataclasses.replace(CONFIG, train=None, train_steps=0)
    narrow = models.abstract(c.replace(d_mlp=TRAIN.transcoder(c).n_features))
    rest = jax.eval_shape(lambda: pipeline.init(narrow, without))
    whole = parallel.sharding(mesh, (), ())
    rest = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), rest)
    return rest.replace(transcoder=abstract_state(TRAIN.transcoder(c), mesh), config=CONFIG)


def flops(c: DecoderConfig) -> dict[str, float]:
    """Of one step of each phase: 2 for a product and its sum, attention scores left out."""
    weights = sum(spec.size for spec in jax.tree.leaves(models.abstract(c).params))
    tokens, width = TOKENS[0] * TOKENS[1], TRAIN.transcoder(c).n_features
    encoder = 2 * tokens * c.n_layers * c.d_model * width
    places, chosen = PROMPTS * LENGTH, CONFIG.candidates
    heads, forward = c.n_layers * c.n_heads, 2 * weights * PROMPTS * LENGTH
    features = 2 * PROMPTS * LENGTH * c.n_layers * c.d_model * width
    pairs = 2 * chosen**2 * (c.d_model + places)
    with_heads = 2 * chosen * heads * places * (c.d_head + c.d_model)
    between = 2 * heads**2 * places * c.d_model
    return {
        # Encoder and decoder, forward and twice backward.
        "train": 2 * weights * tokens + 6 * encoder,
        "attribute": (2 + 4 * len(CONFIG.path)) * forward + pairs + with_heads + between
        + 3 * features * len(CONFIG.path),
        "search": 5 * forward + 6 * features,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SLICES), choices=list(SLICES))
    began, rows = time.monotonic(), []
    for name in parser.parse_args().models:
        c = models.preset(name).replace(dtype="bfloat16")
        for topology, mesh in SLICES[name]:
            found = plan_step(c, topology, mesh)
            print(name, found, flush=True)
            rows.append({"model": name} | dataclasses.asdict(found)
                        | {"total": found.total, "fits": found.fits}
                        | {f"flops_{k}": v for k, v in flops(c).items()})  # fmt: skip
            if found.fits:
                break
    record("plan_pipeline", rows, seconds=time.monotonic() - began, packages=("libtpu",),
           unit="bytes a chip; FLOPs a step, all chips", tokens=TOKENS,
           prompts=[PROMPTS, LENGTH], candidates=CONFIG.candidates)  # fmt: skip


if __name__ == "__main__":
    main()
