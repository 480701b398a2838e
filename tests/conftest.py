"""Eight host devices for every test, set before JAX starts; quick and few compiled programs."""

import gc
import os
from pathlib import Path

import pytest

# Excess precision lets XLA keep bfloat16 chains in float32, so exact comparisons would differ.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_allow_excess_precision=false"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time of these tests is compiling, which is less where LLVM does not optimise.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Linux lets a process map 65,530 pieces of memory; every compiled program takes some of them, and
# beyond that the compiler crashes.
MOST_MAPS = 40_000

import jax  # noqa: E402

# What one worker compiled, or an earlier run, is not compiled again. Processes that tests start,
# and kill, are left out.
jax.config.update(
    "jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def optimised():
    """Programs as users have them: in others, reading a site may change the last bits."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs once there are many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
