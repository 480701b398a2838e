"""Eight host devices for every test, set before JAX starts."""

import os

# Excess precision lets XLA keep bfloat16 chains in float32, so exact comparisons would differ.
# Most of the time of these tests is compiling; without LLVM's expensive passes it is less. (Without
# any optimisation it would be less still, but then reading a site changes the last bits.)
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_allow_excess_precision=false"
    " --xla_llvm_disable_expensive_passes=true"
)
os.environ["JAX_PLATFORMS"] = "cpu"
