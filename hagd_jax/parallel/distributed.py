"""Several processes as one program, and batches that each of them brings its part of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hagd_jax.errors import ConfigError, InputError, MeshError, require_number
from hagd_jax.parallel.rules import RULES, require_mesh, sharding


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_devices: int | Sequence[int] | None = None,
) -> None:
    """Join the processes of a cluster; call it before anything touches a device.

    On a TPU pod, and under a scheduler JAX knows (Slurm, Open MPI, Kubernetes), call it without
    arguments on every worker. On a machine that is none of these it then does nothing, so the
    same script runs on a laptop. A CPU or GPU cluster gives the first three arguments. A second
    call does nothing.

    Args:
        coordinator: `host:port` of process 0.
        num_processes: How many processes there are.
        process_id: Which of them this is, from 0.
        local_devices: How many devices this process drives, or which (their ids on this
            machine); default all. On CPU, where devices are virtual, that many are made.

    Raises:
        ConfigError: If only some of the first three are given, or they contradict each other,
            or JAX has already used a device.
    """
    if jax.distributed.is_initialized():
        return
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given) or (missing and local_devices is not None):
        raise ConfigError(
            "distributed start",
            got=f"no {', '.join(missing)}",
            expected="coordinator, num_processes and process_id together, or no argument at all",
        )
    if coordinator is None or num_processes is None or process_id is None:
        _initialize_detected()
        return
    _check_cluster(coordinator, num_processes, process_id)
    _initialize(coordinator, num_processes, process_id, _device_ids(local_devices))


def is_main() -> bool:
    """Tell whether this process is the one that prints and writes reports.

    Example:
        >>> is_main()
        True
    """
    return jax.process_index() == 0


def sync(name: str) -> None:
    """Wait until every process has come to the same point; nothing for a single process.

    Args:
        name: Of the point, for the error if processes meet at different ones.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(value: bool) -> bool:
    """Broadcast the first process's value to every process; all of them must call it.

    Decisions that each process takes from its own clock or disk may differ, and processes that
    then go different ways wait for each other forever.

    Args:
        value: What this process would say.

    Returns:
        The first process's value.

    Example:
        >>> agree(True)
        True
    """
    if jax.process_count() == 1:
        return bool(value)
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(bool(value))))


def to_global(mesh: Mesh | None, batch: Any) -> Any:
    """Make global arrays, split over batch, from the part of the batch that each process holds.

    Args:
        mesh: The mesh over the devices of all processes; None leaves arrays on one device.
        batch: Pytree of host arrays, each (batch of this process, ...). Processes whose devices
            hold the same part of the batch must bring the same rows.

    Returns:
        The same pytree of `jax.Array`s, each (batch of all processes, ...).

    Raises:
        InputError: If an array has no batch axis.
        MeshError: If the rows cannot be split evenly over this process's part of the mesh.

    Example:
        >>> from hagd_jax.parallel import make_mesh
        >>> to_global(make_mesh("data=1"), {"tokens": np.zeros((4, 2))})["tokens"].shape
        (4, 2)
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, batch)

    require_mesh(mesh)

    def place(path: tuple[Any, ...], local: Any) -> jax.Array:
        local = np.asarray(local)
        name = "batch" + jax.tree_util.keystr(path)
        if local.ndim == 0:
            raise InputError(name, got="a scalar", expected="an array whose first axis is batch")
        parts = _local_parts(mesh)
        if local.shape[0] % parts:
            raise MeshError(
                name,
                got=f"{local.shape[0]} rows in this process",
                expected=f"a multiple of {parts}",
                mend=f"This process holds {parts} parts of the mesh {dict(mesh.shape)}.",
            )
        spec = sharding(mesh, ("batch",) + (None,) * (local.ndim - 1))
        return jax.make_array_from_process_local_data(spec, local)

    return jax.tree_util.tree_map_with_path(place, batch)


def _local_parts(mesh: Mesh) -> int:
    """How many different parts of the batch the devices of this process hold."""
    mine = np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)
    places = np.argwhere(mine)
    axes = [mesh.axis_names.index(a) for a in RULES["batch"].mesh_axes if a in mesh.axis_names]
    return len({tuple(place) for place in places[:, axes].tolist()})


def _initialize_detected() -> None:
    try:
        _initialize(None, None, None, None)
    except ValueError as error:
        # JAX found no cluster around it, which is how it says "one process".
        if "coordinator_address" not in str(error):
            raise


def _initialize(
    coordinator: str | None, n: int | None, process_id: int | None, ids: list[int] | None
) -> None:
    try:
        if coordinator is not None:
            # These two settings concern the CPU backend, which has no collectives without one.
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        if ids is not None:
            jax.config.update("jax_num_cpu_devices", len(ids))
        jax.distributed.initialize(coordinator, n, process_id, ids)
    except RuntimeError as error:
        # JAX says "must be called before" of the call, "before backends" of the settings.
        if "before" not in str(error):
            raise
        raise ConfigError(
            "distributed start",
            got="a call after JAX had used its devices",
            mend="Call start() first in the program.",
        ) from error


def _check_cluster(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = str(coordinator).rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:9]) < 65536):
        raise ConfigError(
            "coordinator", got=repr(coordinator), expected="host:port, e.g. 10.0.0.1:1234"
        )
    require_number("num_processes", num_processes, least=1, whole=True)
    require_number("process_id", process_id, least=0, below=num_processes, whole=True)


def _device_ids(local_devices: int | Sequence[int] | None) -> list[int] | None:
    if local_devices is None:
        return None
    many = not isinstance(local_devices, int | str)
    ids: list[Any] = [local_devices] if isinstance(local_devices, int | str) else [*local_devices]
    for id in ids:
        require_number("local_devices", id, least=0 if many else 1, whole=True)
    if not ids or len(set(ids)) < len(ids):
        raise ConfigError(
            "local_devices", got=local_devices, expected="a positive number, or different ids"
        )
    return ids if many else list(range(ids[0]))
