"""Does an attribution graph of Llama-2-70B fit a TPU v5p slice? Asked without a TPU.

    pip install "hagd-jax[tpu]"
    python -m experiments.scale.plan_attribution

The prompt has 2,048 tokens, the transcoder 65,536 TopK features a layer, 128 of them active; 7,500
features become nodes. Compiled are the programs that `attribute` runs: the pass that is held, the
gathering of what writes, and rows of a batch of targets, which is run some 120 times. Patterns and
features are split over `model`, targets over `data`. Beside them the host keeps the strongest 2,048
edges of every node.

Takes some minutes on two CPU cores; no weights, no TPU. Writes results/plan_attribution.json.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp

from experiments.common.record import record
from hagd_jax import models, parallel, transcoders
from hagd_jax.graphs import AttributionConfig
from hagd_jax.graphs.frozen import Frozen, run_sites
from hagd_jax.graphs.memory import memory_of
from hagd_jax.graphs.prompt import run_pass
from hagd_jax.graphs.rows import Targets, rows
from hagd_jax.graphs.sources import Sources, gathered, source_sites
from hagd_jax.graphs.stored_rows import Columns
from hagd_jax.units.features import Features

MODEL = "llama-2-70b"
SLICES = (("v5p:4x4x2", "data=1,model=32"), ("v5p:4x4x4", "data=2,model=32"),
          ("v5p:4x4x8", "data=4,model=32"))  # fmt: skip
LENGTH, ACTIVE = 2048, 128
CONFIG = AttributionConfig(max_feature_nodes=7500, batch_size=64, edges_per_node=2048)


def main() -> None:
    began, table = time.monotonic(), []
    config = models.preset(MODEL).replace(dtype="bfloat16")
    for topology, mesh in SLICES:
        plans = plan(config, topology, mesh)
        for name, found in plans.items():
            print(name, found, flush=True)
            table.append(
                {"program": name} | dataclasses.asdict(found)
                | {"total": found.total, "fits": found.fits}
            )  # fmt: skip
        if all(found.fits for found in plans.values()):
            break
    columns = Columns(config.n_layers, LENGTH, ACTIVE)
    host = memory_of(config, columns, config.n_layers, CONFIG, features=columns.features)
    record(
        "plan_attribution", table, seconds=time.monotonic() - began, packages=("libtpu",),
        unit="bytes a chip", model=f"{MODEL}, bfloat16", tokens=LENGTH,
        settings=dataclasses.asdict(CONFIG), host_bytes=host.host,
    )  # fmt: skip


def plan(config: models.DecoderConfig, topology: str, description: str) -> dict[str, Any]:
    """The three programs, for a slice."""
    mesh = parallel.topology_mesh(topology, description)
    model = models.abstract(config, mesh=mesh)
    shape = transcoders.TranscoderConfig(
        n_layers=config.n_layers, d_model=config.d_model, n_features=8 * config.d_model, k=ACTIVE,
        dtype="bfloat16",
    )  # fmt: skip
    weights = transcoders.abstract(shape, mesh=mesh)
    narrow = {k: jax.ShapeDtypeStruct(v.shape, jnp.bfloat16, sharding=v.sharding)
              for k, v in weights.params.items()}  # fmt: skip
    nodes = Features(config, "", weights.replace(params=narrow))

    def like(shape: tuple[int, ...], axes: tuple, dtype: Any = jnp.float32) -> Any:
        place = parallel.sharding(mesh, axes, shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    layers, width = config.n_layers, config.d_model
    stream = ("layers", None, "length", "trace_embed")
    trace = {site: like((layers, 1, LENGTH, width), stream, jnp.bfloat16)
             for site in source_sites(nodes)}  # fmt: skip
    tokens, counts = like((1, LENGTH), (None, None), jnp.int32), like((LENGTH,), (None,), jnp.bool_)
    slots = ("layers", "length", "features")
    found = Sources(
        activation=like((layers, LENGTH, ACTIVE), slots),
        index=like((layers, LENGTH, ACTIVE), slots, jnp.int32),
        decoders=like((layers, LENGTH, ACTIVE, width), (*slots, None), jnp.bfloat16),
        error=like((layers, LENGTH, width), ("layers", "length", "trace_embed")),
        embedding=like((LENGTH, width), (None, None)),
        senders=tuple(range(layers)),
        receivers=tuple(range(layers)),
    )
    gains = like((layers, LENGTH), (None, None))
    pattern = like((layers, config.n_heads, LENGTH, LENGTH), ("layers", "heads", None, None))
    held = Frozen(pattern, gains, gains, like((LENGTH,), (None,)))
    size = CONFIG.batch_size
    whole = like((size,), (None,), jnp.int32)
    targets = Targets(like((size, width), ("batch", None)), whole, whole)
    sites = run_sites(source_sites(nodes))
    programs = {
        "pass": (lambda m, t: run_pass(m, t, LENGTH - 1, sites), (model, tokens)),
        "gather": (lambda *a: gathered(*a, slots=ACTIVE), (model, nodes, tokens, trace, counts)),
        "rows": (rows, (model, found, held, targets)),
    }
    return {
        name: parallel.plan(program, args, topology=topology, mesh=mesh)
        for name, (program, args) in programs.items()
    }


if __name__ == "__main__":
    main()
