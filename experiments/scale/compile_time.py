"""How long does an 80-layer model take to compile?

    python -m experiments.scale.compile_time  # under a minute on two cores

Compiles the forward pass and the gradient of the Llama-70B configuration (shapes only, nothing is
allocated) for this machine's CPU: plain, with an intervention of five parts, and with
rematerialisation. Targets: forward ≤ 5 s, gradient ≤ 10 s. Writes results/compile_time.json.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.common.record import record
from hagd_jax import models
from hagd_jax.interventions import add, chain, freeze, replace
from hagd_jax.units import Nodes, Space, mask_nodes

SHAPE = (2, 32)  # prompts, tokens


def five(config: models.DecoderConfig) -> models.Intervention:
    """Freeze, mask, and three edits, as shapes."""
    layers, width = config.n_layers, config.d_model
    wide = jnp.zeros((layers, 1, 1, 1), config.dtype)
    nodes = {"head_out": wide[..., None], "neuron": wide}
    scales = jnp.ones((layers, *SHAPE, 1))
    return chain(
        freeze({"norm1_scale": scales, "norm2_scale": scales}),
        mask_nodes(Nodes.full(Space(layers, config.n_heads, config.d_mlp), 1.0), nodes),
        add("resid_post", jnp.zeros(width), layer=3),
        add("mlp_out", jnp.zeros(width), layer=40),
        replace("attn_out", jnp.zeros(width), layer=79),
    )


def seconds(function: Callable, *args: object) -> float:
    began = time.monotonic()
    jax.jit(function).lower(*args).compile()
    return round(time.monotonic() - began, 2)


def main() -> None:
    began = time.monotonic()
    config = models.preset("llama-70b").replace(dtype="bfloat16")
    model = models.abstract(config)

    def forward(params: object, tokens: jax.Array, iv: object, remat: bool = False) -> jax.Array:
        return models.forward(model.replace(params=params), tokens, iv, remat=remat).logits

    def gradient(params: object, tokens: jax.Array, iv: object, remat: bool) -> object:
        return jax.grad(lambda p: forward(p, tokens, iv, remat).sum())(params)

    tokens = jax.ShapeDtypeStruct(SHAPE, jnp.int32)
    rows = []
    for name, intervention in (("none", models.Identity()), ("chain of five", five(config))):
        args = model.params, tokens, intervention
        rows.append(
            {
                "intervention": name,
                "layers": config.n_layers,
                "forward_s": seconds(forward, *args),
                "gradient_s": seconds(functools.partial(gradient, remat=False), *args),
                "gradient_remat_s": seconds(functools.partial(gradient, remat=True), *args),
            }
        )
    targets = {"forward_s": 5, "gradient_s": 10}
    record("compile_time", rows, seconds=time.monotonic() - began, targets=targets)


if __name__ == "__main__":
    main()
