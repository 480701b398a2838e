"""Flags that let the processes of one run find each other."""

from __future__ import annotations

import dataclasses

from hagd_jax import parallel


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Cluster holds the flags that join processes into a run; TPU pods only need `--cluster.join`.

    Attributes:
        join: Join the other processes of the run with `jax.distributed`.
        coordinator: host:port of the first process (CPU and GPU clusters only).
        processes: Number of processes in the run.
        process: Index of this process, from 0.
    """

    join: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def start(self) -> None:
        """Join the cluster if any flag is set; must run before JAX initialises its devices."""
        if self != Cluster():
            parallel.start(self.coordinator, self.processes, self.process)
