"""Device meshes and what lives on them: layout rules, processes, checkpoints, memory plans."""

from __future__ import annotations

from hagd_jax.parallel.checkpoint import Checkpoints, restore, save
from hagd_jax.parallel.checksum import checksum, checksum_of_parts
from hagd_jax.parallel.distributed import agree, is_main, start, sync, to_global
from hagd_jax.parallel.mesh import describe, make_mesh, parse_mesh
from hagd_jax.parallel.pace import Pace
from hagd_jax.parallel.plan import Plan, plan, topology_mesh
from hagd_jax.parallel.rules import RULES, Rule, batch_parts, constrain, replicate, sharding

__all__ = [
    "RULES",
    "Checkpoints",
    "Pace",
    "Plan",
    "Rule",
    "agree",
    "batch_parts",
    "checksum",
    "checksum_of_parts",
    "constrain",
    "describe",
    "is_main",
    "make_mesh",
    "parse_mesh",
    "plan",
    "replicate",
    "restore",
    "save",
    "sharding",
    "start",
    "sync",
    "to_global",
    "topology_mesh",
]
