"""Models whose circuits are known."""

from hagd_jax.testbeds.case import Case, as_task
from hagd_jax.testbeds.compiled import Compiled, Program, compile_program, compiled_prompts
from hagd_jax.testbeds.guise import hidden_in, scrambled
from hagd_jax.testbeds.hand_built import hand_built
from hagd_jax.testbeds.known import compiled_case, known_cases, known_names
from hagd_jax.testbeds.necessary import necessary_edges, true_edges
from hagd_jax.testbeds.programs import PROGRAMS
from hagd_jax.testbeds.proven import ProvenProgram, prove, random_programs
from hagd_jax.testbeds.random_program import random_program
from hagd_jax.testbeds.role_models import role_case
from hagd_jax.testbeds.role_plan import RoleCase
from hagd_jax.testbeds.role_programs import role_program
from hagd_jax.testbeds.skipping import SkipShare, skip_share
from hagd_jax.testbeds.small_cache import small_model
from hagd_jax.testbeds.small_training import (
    MOST_EXAMPLES,
    SmallTrainConfig,
    train_modular,
    train_small,
)
from hagd_jax.testbeds.structure import program_edges, program_nodes
from hagd_jax.testbeds.two_hop import TwoHop, TwoHopConfig, two_hop

__all__ = [
    "MOST_EXAMPLES",
    "PROGRAMS",
    "Case",
    "Compiled",
    "Program",
    "ProvenProgram",
    "RoleCase",
    "SkipShare",
    "SmallTrainConfig",
    "TwoHop",
    "TwoHopConfig",
    "as_task",
    "compile_program",
    "compiled_case",
    "compiled_prompts",
    "hand_built",
    "hidden_in",
    "known_cases",
    "known_names",
    "necessary_edges",
    "program_edges",
    "program_nodes",
    "prove",
    "random_program",
    "random_programs",
    "role_case",
    "role_program",
    "scrambled",
    "skip_share",
    "small_model",
    "train_modular",
    "train_small",
    "true_edges",
    "two_hop",
]
