"""The CPU's own code for products with active rows, compiled when it is first asked for."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

import jax

from hagd_jax.errors import CheckpointError
from hagd_jax.files import draft_of

LOG = logging.getLogger("hagd_jax")
SOURCE = Path(__file__).with_name("rows.cc")
NAMES = ("topk", "combine", "dot", "spread")
# Sums may be reassociated, so that they vectorise; NaN and infinity keep their meaning.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w"),
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-ffp-contract=fast"),
)


@functools.cache
def available() -> bool:
    """Tell whether the functions of `rows.cc` can be called through `jax.ffi` in this process.

    The first call compiles them (some seconds) with `$CXX`, `g++` or `clang++` and keeps the
    library in the user's cache folder. Without a compiler, or with HAGD_NATIVE=0, everything
    runs through XLA alone, with the same results to rounding; the logger `hagd_jax` says why.

    Returns:
        True if they are registered.
    """
    if os.environ.get("HAGD_NATIVE", "1") == "0":
        return False
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return _without("there is no C++ compiler: install g++ or clang++, or set CXX")
    try:
        library = ctypes.CDLL(str(_build(compiler)))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return _without(f"{compiler} failed: {said[-1] if said else error}")
    except subprocess.SubprocessError as error:
        return _without(f"{compiler} failed: {error}")
    except (OSError, CheckpointError) as error:
        return _without(f"{error}; set XDG_CACHE_HOME to a folder that can be written")
    for name in NAMES:
        handler = jax.ffi.pycapsule(getattr(library, f"hagd_{name}"))
        jax.ffi.register_ffi_target(f"hagd_{name}", handler, platform="cpu")
    return True


def _without(reason: str) -> bool:
    LOG.warning("features are computed densely, which takes longer: %s", reason)
    return False


def _build(compiler: str) -> Path:
    """The shared library for this source, compiler, jaxlib and processor; made if absent."""
    include = jax.ffi.include_dir()
    parts = (
        SOURCE.read_text(),
        compiler,
        *FLAGS,
        importlib.metadata.version("jaxlib"),
        platform.machine(),
        _cpu(),
    )
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = _cache() / f"rows-{digest}.so"
    if not library.exists():
        # Several processes may build at once: each sees a whole library or none.
        with draft_of(library) as draft:
            command = [compiler, *FLAGS, f"-I{include}", str(SOURCE), "-o", str(draft)]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    return library


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hagd_jax"


def _cpu() -> str:
    """What `-march=native` depends on: a cache folder may be shared by different machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith("flags")), "")


@functools.cache
def keep_memory() -> bool:
    """Keep the memory that this process frees, so that the next step can reuse it.

    XLA on CPU allocates a step's temporaries anew each time. glibc hands such large blocks back
    to the kernel at once, and clearing fresh pages then costs more than a transcoder's backward
    pass (0.46 s against 0.15 s for SmolLM2). Does nothing with another C library.

    Call it before JAX touches a device: a thread that has allocated something goes on as it did.
    The `hagd` command does. Nothing else in the package does, since it changes how the whole
    process allocates; a script that trains on CPU may want to.

    Returns:
        Whether it was set.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1))
    taken = [mallopt(option, value) for option, value in settings]
    return all(taken)


def return_memory() -> bool:
    """Return the memory that `keep_memory` kept, between stages of different block sizes.

    Returns:
        Whether anything was handed back; not with another C library.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False
