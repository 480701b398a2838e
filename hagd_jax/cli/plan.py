"""Run `hagd plan`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from rich.markup import escape

from hagd_jax import models, parallel
from hagd_jax.cli.output import show


@dataclasses.dataclass(frozen=True)
class PlanMemory:
    """Plan the memory of a forward pass on each chip of a TPU slice; no TPU is needed.

    Attributes:
        model: Preset of the model, e.g. llama-70b.
        topology: TPU slice, e.g. v5e:8x8.
        mesh: Mesh over the slice's chips, e.g. data=8,model=8.
        batch: Prompts per batch; more prompts take more memory.
        length: Tokens per prompt; longer prompts take more memory.
        capture: Sites whose activations are kept; more sites take more memory.
    """

    model: str
    topology: str
    mesh: str
    batch: int = 8
    length: int = 2048
    capture: tuple[str, ...] = ("resid_post", "head_out", "mlp_out")


def run_plan(command: PlanMemory, line: str = "", stop: object = None) -> parallel.Plan:
    """Run `hagd plan`.

    Args:
        command: The parsed arguments.
        line: Command line; unused.
        stop: Unused, since nothing is saved.

    Returns:
        The plan, which was also printed.
    """
    mesh = parallel.topology_mesh(command.topology, command.mesh)
    model = models.abstract(models.preset(command.model).replace(dtype="bfloat16"), mesh=mesh)
    shape = (command.batch, command.length)
    placed = parallel.sharding(mesh, ("batch", "length"), shape, name="tokens")
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placed)
    plan = parallel.plan(
        lambda model, tokens: models.forward(model, tokens, capture=command.capture),
        (model, tokens),
        topology=command.topology,
        mesh=mesh,
    )
    show(escape(str(plan)))
    return plan
