"""`hagd plan`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from hagd_jax import models, parallel


@dataclasses.dataclass(frozen=True)
class PlanMemory:
    """Say how much memory a forward pass would take on each chip of a TPU slice, without one.

    Attributes:
        model: A preset, e.g. llama-70b.
        topology: The slice, e.g. v5e:8x8.
        mesh: Its mesh, e.g. data=8,model=8.
        batch: Prompts.
        length: Tokens in each.
        capture: Sites to keep.
    """

    model: str
    topology: str
    mesh: str
    batch: int = 8
    length: int = 2048
    capture: tuple[str, ...] = ("resid_post", "head_out", "mlp_out")


def run_plan(command: PlanMemory, line: str = "") -> parallel.Plan:
    """`hagd plan`.

    Args:
        command: The parsed arguments.
        line: What the user typed; not needed here.

    Returns:
        The account that was printed.
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
    print(plan)
    return plan
