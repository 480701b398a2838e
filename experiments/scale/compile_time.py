"""How long does an 80-layer model take to compile?

    python -m experiments.scale.compile_time  # under a minute on two cores

Compiles the forward pass and the gradient of the Llama-70B configuration for this machine's CPU
(shapes only, nothing is allocated): plain, with a chain of five interventions, and with
rematerialisation. Targets: forward ≤ 5 s, gradient ≤ 10 s. Writes results/compile_time.json.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models
from hagd_jax.interventions import add, chain, freeze, replace
from hagd_jax.units import Nodes, Space, mask_nodes

SHAPE = (2, 32)  # prompts, tokens


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring the compile time of a large model.

    Attributes:
        model: Preset of the model that is compiled.
        layers: Number of blocks; the preset's if 0.
        width: Width of the residual stream; the preset's if 0. The MLP has four times as many
            neurons.
    """

    model: str = "llama-70b"
    layers: int = 0
    width: int = 0

    def decoder(self) -> models.DecoderConfig:
        """Return the configuration of the model."""
        config = models.preset(self.model).replace(dtype="bfloat16")
        if self.layers:
            config = config.replace(n_layers=self.layers)
        if self.width:
            config = config.replace(d_model=self.width, d_mlp=4 * self.width)
        return config


def chain_of_five(config: models.DecoderConfig) -> models.Intervention:
    """Return a chain of five interventions: a freeze, a node mask, and three edits."""
    layers, width = config.n_layers, config.d_model
    wide = jnp.zeros((layers, 1, 1, 1), config.dtype)
    nodes = {"head_out": wide[..., None], "neuron": wide}
    scales = jnp.ones((layers, *SHAPE, 1))
    return chain(
        freeze({"norm1_scale": scales, "norm2_scale": scales}),
        mask_nodes(Nodes.full(Space(layers, config.n_heads, config.d_mlp), 1.0), nodes),
        add("resid_post", jnp.zeros(width), layer=layers // 20),
        add("mlp_out", jnp.zeros(width), layer=layers // 2),
        replace("attn_out", jnp.zeros(width), layer=layers - 1),
    )


def seconds(function: Callable, *args: object) -> float:
    """Return the seconds that lowering and compiling a function take."""
    began = time.monotonic()
    jax.jit(function).lower(*args).compile()
    return round(time.monotonic() - began, 2)


def main(config: Config) -> None:
    """Time the compilation with and without interventions, and record it."""
    began, decoder = time.monotonic(), config.decoder()
    model = models.abstract(decoder)

    def forward(params: Any, tokens: jax.Array, iv: Any, remat: bool = False) -> jax.Array:
        return models.forward(model.replace(params=params), tokens, iv, remat=remat).logits

    def gradient(params: Any, tokens: jax.Array, iv: Any, remat: bool) -> Any:
        return jax.grad(lambda p: forward(p, tokens, iv, remat).sum())(params)

    tokens = jax.ShapeDtypeStruct(SHAPE, jnp.int32)
    rows = []
    for name, intervention in (
        ("none", models.Identity()),
        ("chain of five", chain_of_five(decoder)),
    ):
        args = model.params, tokens, intervention
        rows.append(
            {
                "intervention": name,
                "layers": decoder.n_layers,
                "forward_s": seconds(forward, *args),
                "gradient_s": seconds(functools.partial(gradient, remat=False), *args),
                "gradient_remat_s": seconds(functools.partial(gradient, remat=True), *args),
            }
        )
    targets = {"forward_s": 5, "gradient_s": 10}
    record(
        config.results / "compile_time.json", rows, seconds=time.monotonic() - began,
        targets=targets,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
