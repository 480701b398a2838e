"""Models whose circuits are known."""

from hagd_jax.causal.ground_truth.case import Case, as_task, scrambled
from hagd_jax.causal.ground_truth.compiled import (
    Compiled,
    Program,
    compile_program,
    compiled_prompts,
)
from hagd_jax.causal.ground_truth.hand_built import hand_built
from hagd_jax.causal.ground_truth.necessary import necessary_edges, true_edges
from hagd_jax.causal.ground_truth.programs import PROGRAMS
from hagd_jax.causal.ground_truth.structure import program_edges

__all__ = [
    "PROGRAMS",
    "Case",
    "Compiled",
    "Program",
    "as_task",
    "compile_program",
    "compiled_prompts",
    "hand_built",
    "necessary_edges",
    "program_edges",
    "scrambled",
    "true_edges",
]
