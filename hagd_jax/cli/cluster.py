"""How the processes of one run find each other."""

from __future__ import annotations

import dataclasses

from hagd_jax import parallel


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How several processes find each other; on TPU pods `--cluster.join` is enough.

    Attributes:
        join: Start `jax.distributed` before anything else.
        coordinator: host:port of the first process (CPU and GPU clusters).
        processes: How many processes there are.
        process: Which of them this is, from 0.
    """

    join: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def start(self) -> None:
        """Join, if anything says so; before JAX looks for its devices."""
        if self != Cluster():
            parallel.start(self.coordinator, self.processes, self.process)
