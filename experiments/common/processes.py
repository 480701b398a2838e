"""Parts of an experiment in fresh processes: memory and devices of their own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from experiments.common.script import ROOT


def own_process(module: str, *arguments: object, devices: int | None = None) -> str:
    """Run a module in a fresh process, and return what it printed.

    Args:
        module: Dotted name, such as `experiments.scale.complexity`.
        arguments: Its command line.
        devices: Host devices of the process; those of this one if None.

    Returns:
        Its standard output.

    Raises:
        CalledProcessError: If it fails.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    more = {} if devices is None else host_devices(devices)
    done = subprocess.run(
        command, env=environment(more), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a module in a fresh process, and do not wait for it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)], env=environment({})
    )


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, in which `experiments` and `hagd_jax` are importable."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict(more)


def host_devices(count: int) -> dict[str, str]:
    """Variables that make a process simulate devices on the CPU."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def simulate_devices(count: int) -> None:
    """Make JAX split this process's CPU, unless XLA_FLAGS does already; before JAX starts."""
    if "device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def on_cpu() -> None:
    """Keep JAX from looking for accelerators; before it starts."""
    jax.config.update("jax_platforms", "cpu")


def few_programs(most: int = 40_000) -> None:
    """Forget compiled programs once they take many pieces of memory, of which there are 65,530.

    Args:
        most: Pieces that are kept.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > most:
        jax.clear_caches()
        gc.collect()
