"""Run parts of an experiment in fresh processes, which have their own memory and devices."""

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
        arguments: Command-line arguments of the module.
        devices: Host devices of the process; the same as in this process if None.

    Returns:
        The standard output of the module.

    Raises:
        CalledProcessError: If the module fails.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    more = {} if devices is None else host_devices(devices)
    done = subprocess.run(
        command, env=environment(more), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a module in a fresh process, without waiting for it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)], env=environment({})
    )


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with `more`, and with this repository on PYTHONPATH."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict(more)


def host_devices(count: int) -> dict[str, str]:
    """Return environment variables that make JAX simulate `count` devices on the CPU."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def compiled_once(folder: Path) -> dict[str, str]:
    """Return environment variables that keep compiled programs in a folder for later processes."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def simulate_devices(count: int) -> None:
    """Make JAX simulate CPU devices, unless XLA_FLAGS already does; call before JAX starts."""
    if "device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def on_cpu() -> None:
    """Restrict JAX to the CPU; call before JAX starts."""
    jax.config.update("jax_platforms", "cpu")


def few_programs(most: int = 40_000) -> None:
    """Clear JAX's caches of compiled programs once the process has many memory maps.

    Linux allows a process 65,530 maps, and every compiled program takes some.

    Args:
        most: Number of maps above which the caches are cleared.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > most:
        jax.clear_caches()
        gc.collect()
