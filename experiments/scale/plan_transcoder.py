"""What is the smallest TPU v5p slice on which Llama-2-70B's transcoder trains? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_transcoder

The transcoder spans all 80 layers with window 4 and has 8 x 8192 = 65,536 features per layer, 128
of them active: 252 billion parameters. The whole step is compiled as `train` runs it: the model's
forward pass in bfloat16, activations of all layers, gradients, clipping and Adam in float32; the
state is donated. Features are sharded over `model`, tokens and the other axis of the weights over
`data`.

Takes some minutes on two CPU cores; no weights, no TPU. Writes results/plan_transcoder.json.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp

from experiments.common.plans import Program, Slices, abstract_state, account, layout
from experiments.common.processes import on_cpu
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, parallel
from hagd_jax.transcoders import TrainConfig, abstract, training


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for planning the training step of a large transcoder.

    Attributes:
        model: Preset of the model whose MLPs are imitated.
        slices: TPU slices and their meshes, tried in order until one fits.
        train: Training configuration.
        length: Tokens per sequence.
    """

    model: str = "llama-2-70b"
    slices: Slices = (
        ("v5p:4x4x2", "data=1,model=32"),
        ("v5p:4x4x4", "data=1,model=64"),
        ("v5p:4x4x8", "data=2,model=64"),
    )
    train: TrainConfig = TrainConfig(
        features="8x", k=128, window=4, dtype="bfloat16", batch_size=8, accumulate=4, tokens=10**9
    )
    length: int = 1024


def main(config: Config) -> None:
    """Compile the step for each slice in turn, until one fits."""
    on_cpu()
    began, train = time.monotonic(), config.train
    decoder = models.preset(config.model).replace(dtype="bfloat16")
    shapes = abstract(train.transcoder(decoder)).params
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    print(f"{count / 1e9:.1f} billion parameters")
    rows = []
    for topology, description in config.slices:
        mesh = parallel.topology_mesh(topology, description)
        plan = program(decoder, config, mesh).plan(topology, mesh)
        print(plan, flush=True)
        rows.append(account(plan))
        if plan.fits:
            break
    record(
        config.results / "plan_transcoder.json", rows, seconds=time.monotonic() - began,
        packages=("libtpu",), unit="bytes a chip", model=f"{config.model}, bfloat16",
        parameters=count, tokens=[train.batch_size, config.length], parts=train.accumulate,
    )  # fmt: skip


def program(decoder: models.DecoderConfig, config: Config, mesh: jax.sharding.Mesh) -> Program:
    """Return the training step as a program whose state is donated."""
    train, shape = config.train, (config.train.batch_size, config.length)
    place = parallel.sharding(mesh, ("batch", "length"), shape, name="tokens")
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    weight = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
    transcoder, steps = train.transcoder(decoder), train.steps(config.length)
    state = abstract_state(transcoder, mesh)

    def step(state: training.TrainState, model: models.LanguageModel, *batch: jax.Array) -> tuple:
        return training.step(state, model, *batch, config=transcoder, train=train, steps=steps)

    args = state, models.abstract(decoder, mesh=mesh), tokens, weight
    return Program(step, args, layout(state))


if __name__ == "__main__":
    run(main, Config, __doc__)
