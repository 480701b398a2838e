"""The whole method: one list of stages, and what runs it."""

from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.pipeline.context import Context, Left, Stage
from hagd_jax.pipeline.describe_config import DescribeConfig
from hagd_jax.pipeline.describing import describe_units
from hagd_jax.pipeline.extract import Result, extract, open_extraction, run_until
from hagd_jax.pipeline.features import measured, trained
from hagd_jax.pipeline.fused.parts import StepBatch
from hagd_jax.pipeline.fused.run import batches, run_fused
from hagd_jax.pipeline.fused.state import State, init
from hagd_jax.pipeline.fused.step import circuit_of, step
from hagd_jax.pipeline.opening import only_writer, open_run
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.staged import run_staged
from hagd_jax.pipeline.stages import NAMES, STAGES, require_stage

__all__ = [
    "NAMES",
    "STAGES",
    "Context",
    "DescribeConfig",
    "ExtractConfig",
    "Left",
    "Result",
    "RunFolder",
    "Stage",
    "State",
    "StepBatch",
    "batches",
    "circuit_of",
    "describe_units",
    "extract",
    "init",
    "measured",
    "only_writer",
    "open_extraction",
    "open_run",
    "require_stage",
    "run_fused",
    "run_staged",
    "run_until",
    "step",
    "trained",
]
