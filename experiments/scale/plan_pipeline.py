"""Does the composed step fit a TPU slice? Llama-2-7B and 70B, asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_pipeline

The script compiles the fused executor's step as it runs over neurons: scores, the graph of 1,024
neurons and all heads, its coarsening, the meta-learner's scores, the masks' update, repair and
selection. An input of the program chooses which of these runs, and the state is donated. The
training of a transcoder is planned by plan_transcoder. Analytic FLOPs are given for each phase.
Takes a quarter of an hour on two CPU cores; no weights, no TPU. Writes results/plan_pipeline.json.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments.common.plans import Program, Slices, abstract_array, account, layout, replicated
from experiments.common.processes import on_cpu
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import meta, models, parallel, pipeline
from hagd_jax.models import DecoderConfig
from hagd_jax.pipeline.fused.step import step_arrays
from hagd_jax.search import MaskConfig
from hagd_jax.tasks import Prompts
from hagd_jax.transcoders import TrainConfig

SLICES: dict[str, Slices] = {
    "llama-2-7b": (("v5e:8x8", "data=4,model=16"), ("v5e:8x8", "data=2,model=32")),
    "llama-2-70b": (("v5p:4x4x4", "data=2,model=32"), ("v5p:4x4x8", "data=4,model=32")),
}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for planning the composed step of large models.

    Attributes:
        models: Presets of the models.
        train: Training of the transcoder.
        tokens: Sequences per training step, and tokens per sequence.
        prompts: Prompts per step, and tokens per prompt.
        nodes: Size of the circuit, in nodes.
        candidates: Neurons in the attribution graph; larger values use more memory.
        mask_steps: Training steps of the masks, the last phase.
    """

    models: tuple[str, ...] = tuple(SLICES)
    train: TrainConfig = TrainConfig(
        features="8x", k=64, dtype="bfloat16", batch_size=16, accumulate=4, tokens=10**8
    )
    tokens: tuple[int, int] = (16, 512)
    prompts: tuple[int, int] = (8, 64)
    nodes: int = 4096
    candidates: int = 1024
    mask_steps: int = 300

    @property
    def extraction(self) -> pipeline.ExtractConfig:
        """Return the configuration of the extraction whose step is planned."""
        return pipeline.ExtractConfig(
            nodes=str(self.nodes), search="masks", executor="fused", prior="learner",
            candidates=self.candidates,
            masks=MaskConfig(steps=self.mask_steps, batch_size=self.prompts[0]),
        )  # fmt: skip


def program(c: DecoderConfig, config: Config, mesh: jax.sharding.Mesh) -> Program:
    """Return the step as a program whose state is donated."""

    def batched(shape: tuple[int, ...], dtype: Any = jnp.int32) -> Any:
        return abstract_array(mesh, shape, ("batch",) + (None,) * (len(shape) - 1), dtype)

    one = batched(config.prompts[:1])
    prompts = Prompts(batched(config.prompts), batched(config.prompts), one, one, one, one)
    state = replicated(
        mesh, jax.eval_shape(lambda: pipeline.init(models.abstract(c), config.extraction))
    )
    number, pair = (
        abstract_array(mesh, (), (), jnp.int32),
        abstract_array(mesh, (2,), (None,), jnp.float32),
    )
    levels = len(state.clusters) + 1
    batch = pipeline.StepBatch(
        part=number, prompts=prompts, weight=batched(config.prompts[:1], jnp.float32), split=number,
        totals=pair, shares=pair, size=abstract_array(mesh, (), (), jnp.float32),
        opened=abstract_array(mesh, (levels,), (None,), jnp.bool_),
    )  # fmt: skip
    learner = jax.eval_shape(lambda: meta.init(meta.LearnerConfig(), jax.random.key(0)))
    args = state, models.abstract(c, mesh=mesh), batch, None, replicated(mesh, learner)
    return Program(step_arrays, args, layout(state))


def flops(c: DecoderConfig, config: Config) -> dict[str, float]:
    """Return the FLOPs of one step of each phase.

    A multiply-add counts as 2 FLOPs; attention scores are left out.
    """
    weights = sum(spec.size for spec in jax.tree.leaves(models.abstract(c).params))
    tokens, width = config.tokens[0] * config.tokens[1], config.train.transcoder(c).n_features
    encoder = 2 * tokens * c.n_layers * c.d_model * width
    places, chosen, path = (
        config.prompts[0] * config.prompts[1],
        config.candidates,
        config.extraction.graph_steps,
    )
    heads, forward = c.n_layers * c.n_heads, 2 * weights * places
    features = 2 * places * c.n_layers * c.d_model * width
    pairs = 2 * chosen**2 * (c.d_model + places)
    with_heads = 2 * chosen * heads * places * (c.d_head + c.d_model)
    between = 2 * heads**2 * places * c.d_model
    return {
        # Encoder and decoder, forward and twice backward.
        "train": 2 * weights * tokens + 6 * encoder,
        "attribute": (2 + 4 * len(path)) * forward + pairs + with_heads + between
        + 3 * features * len(path),
        "search": 5 * forward + 6 * features,
    }  # fmt: skip


def main(config: Config) -> None:
    """Compile the step of each model for its slices in turn, until one fits."""
    on_cpu()
    began, rows = time.monotonic(), []
    for name in config.models:
        c = models.preset(name).replace(dtype="bfloat16")
        for topology, description in SLICES[name]:
            mesh = parallel.topology_mesh(topology, description)
            found = program(c, config, mesh).plan(topology, mesh)
            print(name, found, flush=True)
            counts = {f"flops_{phase}": count for phase, count in flops(c, config).items()}
            rows.append({"model": name} | account(found) | counts)
            if found.fits:
                break
    record(
        config.results / "plan_pipeline.json", rows, seconds=time.monotonic() - began,
        packages=("libtpu",), unit="bytes a chip; FLOPs a step, all chips", tokens=config.tokens,
        prompts=config.prompts, candidates=config.candidates,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
