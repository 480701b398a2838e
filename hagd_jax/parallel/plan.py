"""How much memory a program would take on each chip of a TPU slice, without the TPU.

The program is compiled ahead of time for a described topology, by the compiler that a TPU machine
would use (libtpu, from `pip install "hagd-jax[tpu]"`), and its own account is read off.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError, MeshError, MissingDependencyError
from hagd_jax.parallel.mesh import describe, make_mesh

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation describes one type of TPU chip.

    Attributes:
        memory: Bytes a program may use on one chip. These are what the compiler of libtpu 0.0.42
            itself allows ("exceeds available HBM (15.75G)"), a little under the data sheets'
            16, 32 and 32 GB; https://cloud.google.com/tpu/docs/v5e and its neighbours.
        dims: Dimensions of its interconnect.
        most: Chips in a pod, from the same pages.
    """

    memory: int
    dims: int
    most: int


GENERATIONS = {
    "v4": Generation(int(30.75 * GIB), dims=3, most=4096),
    "v5e": Generation(int(15.75 * GIB), dims=2, most=256),
    "v5p": Generation(int(95.74 * GIB), dims=3, most=8960),
    "v6e": Generation(int(31.25 * GIB), dims=2, most=256),
}
_EXAMPLES = "v5e:2x2, v5e:8x8, v6e:4x4, v4:2x2x4 or v5p:4x4x4"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan is the memory of one compiled program on one chip, in bytes.

    Attributes:
        topology: Slice it was compiled for.
        mesh: Description of the mesh over that slice.
        arguments: What it is called with: weights, batch.
        outputs: What it returns, such as captured values.
        temporaries: Scratch space at its peak.
        code: The program itself.
        aliased: Outputs that reuse the memory of donated arguments.
        memory: What a program may use.
        compile_seconds: Time to trace, lower and compile.
        problem: The compiler's words if it gave up for lack of memory; the sizes only it knows
            (all but `arguments`) are 0 then.
    """

    topology: str
    mesh: str
    arguments: int
    outputs: int
    temporaries: int
    code: int
    aliased: int
    memory: int
    compile_seconds: float
    problem: str = ""

    __repr__ = one_line

    @property
    def total(self) -> int:
        """Return the peak memory, everything counted once."""
        return self.arguments + self.outputs + self.temporaries + self.code - self.aliased

    @property
    def fits(self) -> bool:
        """Tell whether the chip has enough memory."""
        return not self.problem and self.total <= self.memory

    def table(self) -> str:
        """Format the memory by kind, one line each."""
        rows = {"arguments": self.arguments}
        if not self.problem:
            rows |= {"outputs": self.outputs, "temporaries": self.temporaries, "code": self.code}
        if self.aliased:
            rows["reused"] = -self.aliased
        rows["at least" if self.problem else "total"] = self.total
        rows["memory"] = self.memory
        lines = [f"{name:<12}{_readable(size):>12}" for name, size in rows.items()]
        lines[-1] += ": fits" if self.fits else ": does not fit"
        head = (
            f"{self.topology}, mesh {self.mesh}, a chip (compiled in {self.compile_seconds:.1f} s)"
        )
        return "\n".join([head, *lines, *([self.problem] if self.problem else [])])

    def __str__(self) -> str:
        return self.table()


def topology_mesh(topology: str, mesh: str) -> Mesh:
    """Make a mesh over the chips of a TPU slice that need not exist here.

    Arrays cannot be put on it, only described: `jax.ShapeDtypeStruct(..., sharding=...)`.

    Args:
        topology: Generation and shape, e.g. `"v5e:8x8"` or `"v5p:4x4x4"`.
        mesh: As for `make_mesh`, e.g. `"data=8,model=8"`; every chip must be used.

    Returns:
        The mesh.

    Raises:
        ConfigError: If there is no such topology.
        MeshError: If the mesh does not use exactly these chips.
        MissingDependencyError: If libtpu is not installed.
    """
    generation, sides = _parse(topology)
    _require_libtpu()
    # Hosts hold 2×2 chips, fewer in slices too narrow for that. v4 shows a chip's two cores as
    # two devices unless asked for one, which is what JAX shows on a real v4.
    bounds = (*(2 if side % 2 == 0 else 1 for side in sides[:2]), 1)
    options: dict[str, Any] = {"chips_per_host_bounds": bounds}
    if generation == "v4":
        options["chip_config_name"] = "megacore"
    try:
        described = topologies.get_topology_desc(topology, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise _unknown(topology, str(error).splitlines()[0]) from error
    made = make_mesh(mesh, described.devices)
    if made is None or made.size != len(described.devices):
        raise MeshError(
            "mesh", got=repr(mesh), expected=f"one that uses all {math.prod(sides)} chips"
        )
    return made


def plan(
    fn: Callable[..., Any], args: Sequence[Any], *, topology: str, mesh: Mesh, **jit_options: Any
) -> Plan:
    """Compile `fn(*args)` for a TPU slice and account for its memory.

    Args:
        fn: The function, jitted or not.
        args: Its arguments, with `jax.ShapeDtypeStruct`s in place of arrays, sharded over `mesh`.
        topology: The slice, as given to `topology_mesh`.
        mesh: From `topology_mesh`.
        jit_options: For `jax.jit`: `out_shardings`, `donate_argnums`, `static_argnums` …

    Returns:
        The account; one that says so if the program does not fit.

    Raises:
        ConfigError: If there is no such topology.
        MeshError: If `mesh` or an argument's sharding is not of this topology.
        MissingDependencyError: If libtpu is not installed.
    """
    generation, sides = _parse(topology)
    _require_libtpu()
    _check_on_mesh(args, mesh, math.prod(sides), topology)
    began = time.perf_counter()
    problem, stats = "", None
    try:
        stats = jax.jit(fn, **jit_options).lower(*args).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        problem = "\n".join(str(error).splitlines()[:40])
    return Plan(
        topology=topology,
        mesh=describe(mesh),
        arguments=stats.argument_size_in_bytes if stats else _bytes_per_chip(args),
        outputs=stats.output_size_in_bytes if stats else 0,
        temporaries=stats.temp_size_in_bytes if stats else 0,
        code=stats.generated_code_size_in_bytes if stats else 0,
        aliased=stats.alias_size_in_bytes if stats else 0,
        memory=GENERATIONS[generation].memory,
        compile_seconds=time.perf_counter() - began,
        problem=problem,
    )


def _readable(size: int) -> str:
    """A number of bytes in the largest unit that leaves a digit before the point."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"


def _parse(topology: str) -> tuple[str, tuple[int, ...]]:
    """Read `"v5e:8x8"` into its generation and sides."""
    found = re.fullmatch(r"(\w+):(\d{1,4}(?:x\d{1,4}){1,2})", topology, re.ASCII)
    if not found or found[1] not in GENERATIONS:
        raise _unknown(topology, f"generations are {', '.join(GENERATIONS)}")
    sides = tuple(int(side) for side in found[2].split("x"))
    known = GENERATIONS[found[1]]
    if len(sides) != known.dims:
        raise _unknown(topology, f"{found[1]} slices have {known.dims} sides")
    if not 0 < math.prod(sides) <= known.most:
        raise _unknown(topology, f"a {found[1]} pod has {known.most} chips")
    return found[1], sides


def _unknown(topology: str, why: str) -> ConfigError:
    return ConfigError(
        "topology", got=repr(topology), expected=f"one such as {_EXAMPLES}", mend=f"({why}.)"
    )


def _require_libtpu() -> None:
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise MissingDependencyError(
            "planning for a TPU needs its compiler, libtpu",
            mend='Install it with: pip install "hagd-jax[tpu]" (no TPU is needed).',
        )
    # JAX sets this on machines without a TPU. There, libtpu would ask the network who it is, and
    # complain at length: on a TPU machine these stay untouched.
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")


def _check_on_mesh(args: Any, mesh: Mesh, n_chips: int, topology: str) -> None:
    wrong = f"one from topology_mesh({topology!r}, ...)"
    if mesh.size != n_chips or mesh.devices.flat[0].platform != "tpu":
        raise MeshError("mesh", got=describe(mesh), expected=wrong)
    for path, leaf in jax.tree_util.tree_flatten_with_path(args)[0]:
        placed = getattr(leaf, "sharding", None)
        if isinstance(placed, NamedSharding) and placed.mesh != mesh:
            raise MeshError(
                f"args{jax.tree_util.keystr(path)}",
                got=f"a sharding on {placed.mesh}",
                expected=wrong,
            )


def _bytes_per_chip(args: Any) -> int:
    def one(leaf: Any) -> int:
        placed = getattr(leaf, "sharding", None)
        shape = placed.shard_shape(leaf.shape) if placed is not None else leaf.shape
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(one(leaf) for leaf in jax.tree.leaves(args) if hasattr(leaf, "dtype"))
