"""How long does an 80-layer model take to compile?

    python -m experiments.scale.compile_time  # two minutes on two cores

Compiles the forward pass and the gradient of the Llama-70B configuration (shapes only, nothing is
allocated) for this machine's CPU: plain, with an intervention of five parts, and with
rematerialisation. Targets: forward ≤ 5 s, gradient ≤ 10 s. Then the same sizes with the options of
each other family, windows and all, mixtures with as many neurons in all their experts together:
each at most 1.3 times as long as Llama's. The families take turns, and the shortest of some times
counts, in processor time: what else runs here weighs less. Writes results/compile_time.json.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import rich

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models
from hagd_jax.interventions import add, chain, freeze, replace
from hagd_jax.models.support import OPTIONS
from hagd_jax.units import Nodes, Space, mask_nodes

SHAPE = (2, 32)  # prompts, tokens
RATIO = 1.3
# A preset of each family, whose options are compiled at the sizes of the model that is named.
FAMILIES = {
    "llama": "llama-70b",
    "mistral": "mistral-7b-v0.1",
    "qwen2": "qwen2.5-7b",
    "qwen3": "qwen3-8b",
    "gemma2": "gemma-2-27b",
    "gemma3": "gemma-3-27b",
    "mixtral": "mixtral-8x7b",
    "qwen3_moe": "qwen3-30b-a3b",
}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring the compile time of a large model.

    Attributes:
        model: Preset of the model that is compiled.
        layers: Number of blocks; the preset's if 0.
        width: Width of the residual stream; the preset's if 0. The MLP has four times as many
            neurons.
        repeats: Times that each family is compiled.
    """

    model: str = "llama-70b"
    layers: int = 0
    width: int = 0
    repeats: int = 3

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


def of_family(decoder: models.DecoderConfig, preset: str) -> models.DecoderConfig:
    """Return the options of a preset at the sizes of a model, with short windows."""
    own = models.preset(preset)
    beside = ("qkv_bias", "activation", "tied", "experts_per_token", "normalise_routing")
    chosen = {name: getattr(own, name) for name in (*OPTIONS, *beside)}
    if own.window:
        own_windows = (own.windows * decoder.n_layers)[: decoder.n_layers]
        layers = tuple(i for i, window in enumerate(own_windows) if window)
        chosen |= {"window": SHAPE[1] // 2, "window_layers": layers}
    return decoder.replace(**chosen, rope_scaling=own.rope_scaling)


def family_rows(decoder: models.DecoderConfig, repeats: int) -> list[dict[str, Any]]:
    """Shortest processor times of compiling every family, and how they compare with Llama's."""
    configs = {name: of_family(decoder, preset) for name, preset in FAMILIES.items()}
    # OLMo 2 has no preset: norms after the sublayer alone, and of all heads at once.
    configs["olmo2"] = decoder.replace(norm_placement="after", qk_norm="all")
    times: dict[str, list[list[float]]] = {name: [] for name in configs}
    for repeat in range(repeats):
        for name, config in configs.items():
            if repeat:
                jax.clear_caches()
            times[name].append(compile_both(config))
    best = {name: [min(x) for x in zip(*found, strict=True)] for name, found in times.items()}
    return [
        {
            "family": name,
            "layers": decoder.n_layers,
            "forward_s": forward,
            "gradient_s": gradient,
            "forward_ratio": round(forward / best["llama"][0], 2),
            "gradient_ratio": round(gradient / best["llama"][1], 2),
        }
        for name, (forward, gradient) in best.items()
    ]


def compile_both(config: models.DecoderConfig) -> list[float]:
    """Time of the forward pass and of its gradient."""
    model = models.abstract(config)

    def forward(params: Any, tokens: jax.Array) -> jax.Array:
        return models.forward(model.replace(params=params), tokens).logits

    tokens = jax.ShapeDtypeStruct(SHAPE, jnp.int32)
    gradient = jax.grad(lambda params, tokens: forward(params, tokens).sum())
    each = (forward, gradient)
    return [seconds(function, model.params, tokens, clock=time.process_time) for function in each]


def seconds(function: Callable, *args: object, clock: Callable = time.monotonic) -> float:
    """Return the seconds that lowering and compiling a function take."""
    began = clock()
    jax.jit(function).lower(*args).compile()
    return round(clock() - began, 2)


def main(config: Config) -> None:
    """Time the compilation with and without interventions, then of every family, and record it."""
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
    families = family_rows(decoder, config.repeats)
    rich.print(*families, sep="\n")
    targets = {"forward_s": 5, "gradient_s": 10, "ratio": RATIO}
    record(
        config.results / "compile_time.json", rows, seconds=time.monotonic() - began,
        targets=targets, families=families,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
