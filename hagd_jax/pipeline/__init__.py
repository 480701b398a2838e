"""The whole method: one list of stages, and what runs it."""

from hagd_jax.pipeline.composed import circuits, init, step
from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.pipeline.context import Context, Left, Stage
from hagd_jax.pipeline.driver import run_steps
from hagd_jax.pipeline.extract import Result, extract, open_extraction, run_until
from hagd_jax.pipeline.features import measured, trained
from hagd_jax.pipeline.opening import open_run
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.staged import run_staged
from hagd_jax.pipeline.stages import NAMES, STAGES, require_stage
from hagd_jax.pipeline.step_parts import State, StepBatch, dictionary
from hagd_jax.pipeline.step_plan import StepConfig, plan

__all__ = [
    "NAMES",
    "STAGES",
    "Context",
    "ExtractConfig",
    "Left",
    "Result",
    "RunFolder",
    "Stage",
    "State",
    "StepBatch",
    "StepConfig",
    "circuits",
    "dictionary",
    "extract",
    "init",
    "measured",
    "open_extraction",
    "open_run",
    "plan",
    "require_stage",
    "run_staged",
    "run_steps",
    "run_until",
    "step",
    "trained",
]
