"""Eight host devices for every test, set before JAX starts."""

import os

# Excess precision lets XLA keep bfloat16 chains in float32, so exact comparisons would differ.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_allow_excess_precision=false"
)
os.environ["JAX_PLATFORMS"] = "cpu"
