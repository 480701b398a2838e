"""Eight host devices for every test, set before JAX starts; quick and few compiled programs."""

import gc
import os
from pathlib import Path

import jaxlib.version
import pytest

# Excess precision lets XLA keep bfloat16 chains in float32, so exact comparisons would differ.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_allow_excess_precision=false"]
# Most of the time of these tests is compiling. It is half as long where LLVM does not optimise, and
# half of that with the older of XLA's two emitters of fused operations, as long as XLA has it. But
# where bits are compared, programs must be as users have them: see tests/test_as_users.py.
if not os.environ.get("HAGD_TESTS_AS_USERS"):
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if jaxlib.version.__version_info__ < (0, 11):
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
os.environ["JAX_PLATFORMS"] = "cpu"
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


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs once there are many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
