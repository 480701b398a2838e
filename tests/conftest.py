"""Eight host devices for every test, set before JAX starts; quickly compiled; slow files first.

Property tests draw the same examples each time, so that what passes once passes everywhere;
`pytest --hypothesis-profile explore` draws others.
"""

import gc
import os
from pathlib import Path

import hypothesis
import jaxlib.version
import pytest

# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("same")

# Excess precision lets XLA keep bfloat16 chains in float32, so exact comparisons would differ.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_allow_excess_precision=false"]
# Most of the time of these tests is compiling. It is half as long where LLVM does not optimise, and
# half of that with the older of XLA's two emitters of fused operations. A program of one piece is
# quicker to compile and takes fewer pieces of memory. A flag that XLA no longer has would end the
# process. But where bits are compared, programs must be as users have them: see
# tests/test_as_users.py.
if not os.environ.get("HAGD_TESTS_AS_USERS"):
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if jaxlib.version.__version_info__ < (0, 11):
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
        FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
os.environ["JAX_PLATFORMS"] = "cpu"
# Linux lets a process map 65,530 pieces of memory; every compiled program takes some of them, and
# beyond that the compiler crashes.
MOST_MAPS = 40_000
# Files that take longest, the longest first: a worker that took one of them up at the end would
# work on while the other has nothing to do.
SLOW = (
    "test_readme.py",
    "pipeline/test_executors.py",
    "test_as_users.py",
    "experiments/test_circuits.py",
    "pipeline/test_extract.py",
    "experiments/test_scale.py",
    "experiments/test_judge_and_faults.py",
    "tasks/test_modular.py",
    "test_docstrings.py",
)

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


def pytest_configure(config):
    """Have xdist keep the order below, where it would begin with the files of most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Bring the slow files to the front; others stay in the order they are found in."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path, len(SLOW)))
