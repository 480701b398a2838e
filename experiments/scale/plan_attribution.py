"""Does an attribution graph of Llama-2-70B fit a TPU v5p slice? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_attribution

The prompt has 2,048 tokens, and the transcoder 65,536 TopK features per layer, 128 of them active;
7,500 features become nodes. The script compiles the programs that `attribute` runs: the forward
pass that is frozen, the gathering of source vectors, and the adjacency rows of a batch of targets,
which run about 120 times. Attention patterns and features are sharded over `model`, targets over
`data`. The host also keeps the strongest 2,048 edges of every node.

Takes some minutes on two CPU cores; no weights, no TPU. Writes results/plan_attribution.json.
"""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp

from experiments.common.plans import Program, Slices, abstract_array, account
from experiments.common.processes import on_cpu
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, parallel, transcoders
from hagd_jax.graphs import AttributionConfig
from hagd_jax.graphs.frozen import Frozen, run_sites
from hagd_jax.graphs.memory import memory_of
from hagd_jax.graphs.prompt import run_pass
from hagd_jax.graphs.rows import Targets, rows
from hagd_jax.graphs.sources import Sources, gathered, source_sites
from hagd_jax.graphs.stored_rows import Columns
from hagd_jax.units.features import Features


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for planning the attribution graph of a large model.

    Attributes:
        model: Preset of the model.
        slices: TPU slices and their meshes, tried in order until one fits.
        length: Length of the prompt, in tokens.
        features: Features per layer, as a multiple of the width of the residual stream.
        active: Active features per layer and token.
        attribution: Settings of the graph.
    """

    model: str = "llama-2-70b"
    slices: Slices = (
        ("v5p:4x4x2", "data=1,model=32"),
        ("v5p:4x4x4", "data=2,model=32"),
        ("v5p:4x4x8", "data=4,model=32"),
    )
    length: int = 2048
    features: int = 8
    active: int = 128
    attribution: AttributionConfig = AttributionConfig(
        max_feature_nodes=7500, batch_size=64, edges_per_node=2048
    )


def main(config: Config) -> None:
    """Compile the programs for each slice in turn, until one fits."""
    on_cpu()
    began, table = time.monotonic(), []
    decoder = models.preset(config.model).replace(dtype="bfloat16")
    for topology, description in config.slices:
        mesh = parallel.topology_mesh(topology, description)
        made = programs(decoder, config, mesh)
        plans = {name: program.plan(topology, mesh) for name, program in made.items()}
        for name, found in plans.items():
            print(name, found, flush=True)
            table.append({"program": name} | account(found))
        if all(found.fits for found in plans.values()):
            break
    columns = Columns(decoder.n_layers, config.length, config.active)
    host = memory_of(
        decoder, columns, decoder.n_layers, config.attribution, features=columns.features
    )
    record(
        config.results / "plan_attribution.json", table, seconds=time.monotonic() - began,
        packages=("libtpu",), unit="bytes a chip", model=f"{config.model}, bfloat16",
        tokens=config.length, settings=dataclasses.asdict(config.attribution),
        host_bytes=host.host,
    )  # fmt: skip


def programs(
    decoder: models.DecoderConfig, config: Config, mesh: jax.sharding.Mesh
) -> dict[str, Program]:
    """Return the frozen pass, the gathering of sources, and the rows of a batch of targets."""
    made = functools.partial(abstract_array, mesh)
    model, nodes = models.abstract(decoder, mesh=mesh), features(decoder, config, mesh)
    layers, width, length = decoder.n_layers, decoder.d_model, config.length
    stream = ("layers", None, "length", "trace_embed")
    trace = {site: made((layers, 1, length, width), stream, jnp.bfloat16)
             for site in source_sites(nodes)}  # fmt: skip
    tokens, counts = made((1, length), (None, None), jnp.int32), made((length,), (None,), jnp.bool_)
    slots, shape = ("layers", "length", "features"), (layers, length, config.active)
    found = Sources(
        activation=made(shape, slots),
        index=made(shape, slots, jnp.int32),
        decoders=made((*shape, width), (*slots, None), jnp.bfloat16),
        error=made((layers, length, width), ("layers", "length", "trace_embed")),
        embedding=made((length, width), (None, None)),
        senders=tuple(range(layers)),
        receivers=tuple(range(layers)),
    )
    gains = made((layers, length), (None, None))
    pattern = made((layers, decoder.n_heads, length, length), ("layers", "heads", None, None))
    held = Frozen(pattern, gains, gains, gains, gains, made((length,), (None,)))
    size = config.attribution.batch_size
    whole = made((size,), (None,), jnp.int32)
    targets = Targets(made((size, width), ("batch", None)), whole, whole)
    sites = run_sites(source_sites(nodes))
    return {
        "pass": Program(lambda m, t: run_pass(m, t, length - 1, sites), (model, tokens)),
        "gather": Program(
            lambda *a: gathered(*a, slots=config.active), (model, nodes, tokens, trace, counts)
        ),
        "rows": Program(rows, (model, found, held, targets)),
    }


def features(decoder: models.DecoderConfig, config: Config, mesh: jax.sharding.Mesh) -> Features:
    """Return the features of a transcoder with abstract weights in bfloat16."""
    shape = transcoders.TranscoderConfig(
        n_layers=decoder.n_layers, d_model=decoder.d_model, k=config.active, dtype="bfloat16",
        n_features=config.features * decoder.d_model,
    )  # fmt: skip
    weights = transcoders.abstract(shape, mesh=mesh)
    narrow = {k: jax.ShapeDtypeStruct(v.shape, jnp.bfloat16, sharding=v.sharding)
              for k, v in weights.params.items()}  # fmt: skip
    return Features(decoder, "", weights.replace(params=narrow))


if __name__ == "__main__":
    run(main, Config, __doc__)
