"""The whole method, composed."""

from hagd_jax.pipeline.composed import circuits, init, step
from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.pipeline.driver import run_steps
from hagd_jax.pipeline.extract import Result, extract, run_until, score
from hagd_jax.pipeline.run_folder import RunFolder, open_run
from hagd_jax.pipeline.stages import STAGES, Stage
from hagd_jax.pipeline.step_parts import State, StepBatch, dictionary
from hagd_jax.pipeline.step_plan import StepConfig, plan

__all__ = [
    "STAGES",
    "ExtractConfig",
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
    "open_run",
    "plan",
    "run_steps",
    "run_until",
    "score",
    "step",
]
