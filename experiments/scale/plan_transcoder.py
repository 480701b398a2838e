"""What is the smallest TPU v5p slice on which Llama-2-70B's transcoder trains? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_transcoder

A cross-layer transcoder of all 80 layers, window 4, 8 x 8192 = 65,536 features a layer, 128 of them
active: 252 billion parameters. The whole step is compiled as `train` runs it: the model's forward
in bfloat16, activations of all layers, gradients, clipping, Adam in float32; the state is donated.
Features are split over `model`, tokens and the other side of the weights over `data`.

Takes some minutes on two CPU cores; no weights, no TPU. Writes results/plan_transcoder.json.
"""

from __future__ import annotations

import dataclasses
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp

from experiments.common.record import record
from hagd_jax import models, parallel
from hagd_jax.transcoders import TrainConfig, abstract, training
from hagd_jax.transcoders.training import optimizer
from hagd_jax.transcoders.training.normalise import Normalisation

MODEL = "llama-2-70b"
SLICES = (("v5p:4x4x2", "data=1,model=32"), ("v5p:4x4x4", "data=1,model=64"),
          ("v5p:4x4x8", "data=2,model=64"))  # fmt: skip
TRAIN = TrainConfig(
    features="8x", k=128, window=4, dtype="bfloat16", batch_size=8, accumulate=4, tokens=10**9
)
LENGTH = 1024


def main() -> None:
    began = time.monotonic()
    config = models.preset(MODEL).replace(dtype="bfloat16")
    shape = TRAIN.transcoder(config)
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract(shape).params))
    print(f"{count / 1e9:.1f} billion parameters")
    rows = []
    for topology, mesh in SLICES:
        plan = plan_step(config, topology, mesh)
        print(plan, flush=True)
        rows.append(dataclasses.asdict(plan) | {"total": plan.total, "fits": plan.fits})
        if plan.fits:
            break
    record(
        "plan_transcoder",
        rows,
        seconds=time.monotonic() - began,
        packages=("libtpu",),
        unit="bytes a chip",
        model=f"{MODEL}, bfloat16",
        parameters=count,
        tokens=[TRAIN.batch_size, LENGTH],
        parts=TRAIN.accumulate,
    )


def plan_step(config: models.DecoderConfig, topology: str, description: str) -> parallel.Plan:
    """Compile the training step for a slice."""
    mesh = parallel.topology_mesh(topology, description)
    model = models.abstract(config, mesh=mesh)
    shape = (TRAIN.batch_size, LENGTH)
    place = parallel.sharding(mesh, ("batch", "length"), shape, name="tokens")
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    weight = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
    transcoder, steps = TRAIN.transcoder(config), TRAIN.steps(LENGTH)
    state = abstract_state(transcoder, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return parallel.plan(
        lambda state, model, tokens, weight: training.step(
            state, model, tokens, weight, config=transcoder, train=TRAIN, steps=steps
        ),
        (state, model, tokens, weight),
        topology=topology,
        mesh=mesh,
        out_shardings=(places, None),
        donate_argnums=(0,),
    )


def abstract_state(config: object, mesh: jax.sharding.Mesh) -> training.TrainState:
    """A `TrainState` of shapes, its moments laid out as their parameters are."""
    params = abstract(config, mesh=mesh).params

    def rest(params: object) -> training.TrainState:
        stats = Normalisation.identity(config)
        count = (config.n_layers, config.n_features)
        return training.TrainState(
            params, optimizer.init(params), stats, jnp.int32(0),
            jax.random.key(0), jnp.zeros(count, jnp.int32), jnp.zeros(config.n_layers),
        )  # fmt: skip

    whole = parallel.sharding(mesh, (), ())

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        names = [getattr(key, "key", None) for key in path]
        like = next((params[name] for name in names if name in params), None)
        sharding = whole if like is None else like.sharding
        if "unfired" in jax.tree_util.keystr(path):
            sharding = parallel.sharding(mesh, ("layers", "features"), leaf.shape, name="unfired")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(rest, params))


if __name__ == "__main__":
    main()
