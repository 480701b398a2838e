"""All models whose circuit is known, in the guise in which the judge is judged on them.

Their circuits come from how they were made: by hand, planted, or from a program's own variables.
Each is hidden among units that do nothing, with heads and neurons moved and the stream turned.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import flax.traverse_util
import numpy as np

from hagd_jax.causal.node import Node
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.models import DecoderConfig
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.testbeds.case import PROMPTS, Case
from hagd_jax.testbeds.compiled import Compiled, Program, compile_program
from hagd_jax.testbeds.crafting import run
from hagd_jax.testbeds.guise import hidden_in, scrambled, sharpened
from hagd_jax.testbeds.hand_built import both, either, parity, rotation, suppressed
from hagd_jax.testbeds.planted import (
    adding,
    counting,
    formula,
    subtracting,
    switching,
    turning,
)
from hagd_jax.testbeds.programs import BOARD
from hagd_jax.testbeds.structure import program_nodes
from hagd_jax.testbeds.two_hop import FUNCTIONS

# The models that cases are hidden in; those with products of two reads, and programs, which read
# both ways, have their own.
HOST = DecoderConfig(
    vocab_size=24, n_layers=4, d_model=64, n_heads=4, d_head=16, d_mlp=56, max_positions=8,
    norm="none", positions="learned", activation="relu", unembed_bias=True, scale_attn=False,
)  # fmt: skip
# Ablations under which what is the same on all prompts need not be in a circuit.
_VARIES = ("mean", "resample", "counterfactual")
_SURE = 8.0
# Each numbers of one kind. Letters of a formula are read in turn, so that these use every function.
_FORMULAS = (
    *itertools.product(("x xor y", "x and y"), sorted(FUNCTIONS)),
    ("x or not y", "x equals y"),
    ("x nand y", "x xor y"),
    ("x xor y", "x equals y", "x xor y"),
    ("x xor y", "x or y", "x xor y"),
    ("x equals y", "x and y", "x xor y"),
    ("x or y", "x xor y", "x equals y"),
)
_TABLES = ((0, 1, 0, 1), (1, 0, 1, 0), (0, 1, 1, 0), (1, 0, 0, 1))
_SUMS = (
    ((0, 1, 1, 2), (0, 1, 0, 1), (0, 1, 0, 1)),
    ((0, 1, 2, 0), (1, 0, 1, 0), (1, 0, 1, 0)),
    ((2, 0, 1, 1), (0, 0, 1, 1), (0, 1, 1, 0)),
    ((0, 0, 1, 1), (0, 2, 0, 2), (1, 0, 0, 1)),
)
_DIFFERENCES = (
    ((0, 1, 2, 3), (0, 1, 2, 3)),
    ((3, 1, 0, 2), (1, 3, 2, 0)),
    ((0, 3, 0, 3), (1, 0, 2, 3)),
)
_TURNS = ((3, 1), (4, 3), (5, 1), (5, 2))
# Not `sorting`, of which a unit only makes what is sure surer, and not `two_tasks`, which says yes
# nearly always.
_BY_HAND: dict[str, Callable[[], Case]] = {
    "either": functools.partial(either, "xyz"),
    "suppressed": functools.partial(suppressed, "xyz"),
    "both": both,
    "parity": parity,
    "rotation": rotation,
}
_SIGNS = tuple(itertools.product((True, False), repeat=2))


def _makers() -> dict[str, Callable[[], Case]]:
    """What makes each case, by its name."""
    part = functools.partial
    return {
        **_BY_HAND,
        **{f"formula {', '.join(names)}": part(formula, *names) for names in _FORMULAS},
        **{f"counting {''.join(map(str, own))}": part(counting, *own) for own in _TABLES},
        **{f"adding {a} {b} {table}": part(adding, a, b, table) for a, b, table in _SUMS},
        **{f"subtracting {a} {b}": part(subtracting, a, b) for a, b in _DIFFERENCES},
        **{f"switching {a} {b}": part(switching, a, b) for a, b in _SIGNS},
        **{f"turning {p} {times}": part(turning, p, times) for p, times in _TURNS},
        **{f"program {program.name}": part(_program, program) for program in BOARD},
    }


def _program(program: Program) -> Case:
    return compiled_case(compile_program(program))


def known_names() -> tuple[str, ...]:
    """List the names of all models whose circuit is known, without making them.

    Example:
        >>> known_names()[0]
        'either'
    """
    return tuple(_makers())


def known_cases(names: Iterable[str] | None = None) -> Iterator[Case]:
    """Make the models whose circuit is known.

    Args:
        names: Some of `known_names()`; all of them if None.

    Returns:
        An iterator over cases, each made when it is asked for; one is the same whichever others
        are asked for.

    Raises:
        InputError: If there is no model of a name.
        MissingDependencyError: If a program is asked for and its compiler is not installed.

    Example:
        >>> [case.name for case in known_cases(["parity", "either"])]
        ['parity', 'either']
    """
    makers = _makers()
    number = {name: i for i, name in enumerate(makers)}
    asked = list(makers) if names is None else require_list("names", names, "names of models")
    for name in asked:
        if not isinstance(name, str) or name not in makers:
            close = difflib.get_close_matches(str(name), makers, cutoff=0.4)
            mend = f"Did you mean {' or '.join(close)}?" if close else None
            raise InputError(
                "known model", got=repr(name)[:80], expected="one of known_names()", mend=mend
            )
    return (_hidden(makers[name](), number[name]) for name in asked)


def _hidden(case: Case, seed: int) -> Case:
    c = case.model.config
    host = dataclasses.replace(HOST, gated_mlp=c.gated_mlp, causal=c.causal)
    return scrambled(hidden_in(case, host, seed), seed)


def compiled_case(compiled: Compiled, length: int | None = None, count: int = PROMPTS) -> Case:
    """Make a case of a compiled program, reading its circuit off its variables.

    A unit carries the program if something can flow from it to the logits along the labelled
    directions of the stream (`program_nodes`), and if what it writes differs between inputs of this
    length: a unit that is the same for all of them stands for a constant, such as their length, and
    every ablation but zero puts that constant in its place.

    Args:
        compiled: The program.
        length: Tokens of an input; the longest by default.
        count: Prompts, drawn from all inputs and the positions at which the program says something.

    Returns:
        The case. Its answers are as sure as logits of 8 make them, or as many for the next number.

    Raises:
        InputError: If no unit differs between inputs.

    Example:
        >>> from hagd_jax.testbeds import PROGRAMS
        >>> case = compiled_case(compile_program(PROGRAMS["first"]))
        >>> sorted(case.truth["mean"])
        [Node(kind='head', layer=0, index=0)]
    """
    require_is("compiled", compiled, Compiled)
    model, program, count = compiled.model, compiled.program, require_index("count", count)
    length = program.length if length is None else require_index("length", length)
    if length not in compiled.tables:
        raise InputError("length", got=length, expected=f"from 1 to {program.length}")
    tokens, found = compiled.tables[length]
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    ran = run(model.config, flat, tokens)
    there = program_nodes(model)
    heads = there.heads & (np.ptp(ran.heads, axis=1).max((1, 3)) > 1e-3)
    neurons = there.features & (np.ptp(ran.neurons, axis=1).max(1) > 1e-3)
    carries = {Node("head", *place) for place in np.argwhere(heads).tolist()}
    carries |= {Node("neuron", *place) for place in np.argwhere(neurons).tolist()}
    if not carries:
        raise InputError(
            f"program {program.name}",
            got=f"the same output on all inputs of length {length}",
            expected="one that depends on the input",
        )
    truth = {ablation: frozenset(carries) for ablation in _VARIES}
    said = np.sort(ran.logits[found >= 0], axis=-1)
    margin = float((said[:, -1] - said[:, -2]).min())
    prompts = _prompts(compiled, tokens, found, count)
    why = "A program, compiled: its circuit is what its variables depend on."
    return sharpened(Case(f"program {program.name}", model, prompts, truth, why), _SURE / margin)


def _prompts(compiled: Compiled, tokens: np.ndarray, found: np.ndarray, count: int) -> Prompts:
    """Different inputs, each asked at one position, answers in turn; counterfactuals differ there.

    An input that is asked at two positions would be one prompt to whoever compares tokens.
    """
    # Where all inputs say the same, nothing is asked.
    varies = np.array([len(set(column[column >= 0])) > 1 for column in found.T])
    rng = np.random.default_rng(len(tokens))
    asked: dict[int, list[tuple[int, int]]] = {}
    for row in rng.permutation(len(tokens)):
        places = np.flatnonzero((found[row] >= 0) & varies)
        if len(places):
            # The position whose answer was asked least.
            answers = [int(found[row, t]) for t in rng.permutation(places)]
            least = min(answers, key=lambda answer: len(asked.get(answer, [])))
            position = int(rng.choice(np.flatnonzero((found[row] == least) & varies)))
            asked.setdefault(least, []).append((int(row), position))
    turns = itertools.zip_longest(*(asked[answer] for answer in sorted(asked)))
    chosen = [place for turn in turns for place in turn if place is not None][:count]
    rows, positions = np.array(chosen, int).reshape(-1, 2).T
    answers = found[rows, positions]
    others = []
    for position, answer in zip(positions, answers, strict=True):
        column = found[:, position]
        others.append(rng.choice(np.flatnonzero((column >= 0) & (column != answer))))
    return make_prompts(
        tokens[rows].tolist(),
        tokens[others].tolist(),
        answers,
        found[others, positions],
        vocab_size=compiled.model.config.vocab_size,
        position=positions.tolist(),
    )
