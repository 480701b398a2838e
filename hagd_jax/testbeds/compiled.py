"""RASP programs compiled to transformers: models whose computation is known, as it was written.

The compiler is Tracr (Lindner et al., 2023, arXiv:2301.05062; the package `tracr-pypi`). Its
models have no norms and read and write a labelled basis, one direction for every value of every
variable, so who reads what from whom stands in the weights. A model is returned only if it says
what its program says on every input of every length up to the program's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.models import LanguageModel, Tokenizer
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.testbeds.blank import written
from hagd_jax.testbeds.crafting import BOS, Crafted, craft, run, tracr

_MOST_INPUTS = 20_000
# Steps of MLPs, in turn until the model is right. Beyond the last, float32 rounds the steps away.
EXACTNESS = (100.0, 1000.0, 10_000.0)
# How far outputs may be from the program's: a share of the distance to the next value.
_OFF = 0.05


class Program(NamedTuple):
    """A program is a RASP expression with its input vocabulary.

    Attributes:
        name: Of the program.
        make: Returns the RASP expression; called with the compiler's `rasp` and `lib` modules.
        vocabulary: The input tokens.
        length: Tokens of the longest input; every length from 1 to it is claimed.
        causal: Whether attention sees earlier tokens alone.
    """

    name: str
    make: Callable[[Any, Any], Any]
    vocabulary: tuple[Any, ...]
    length: int
    causal: bool = False


class Compiled(NamedTuple):
    """A compiled program is a model with the meaning of its directions.

    Attributes:
        program: It.
        model: Tokens are the vocabulary and BOS, then output values that are no input tokens; the
            logits at a position say which value the program has there. Values of numerical
            programs compete by their distance: logit_c = 2 c y − c², the largest is the nearest.
        labels: (D,) what each direction of the stream stands for.
        values: All values that outputs can have, as tokens.
        tables: Length → all inputs of it, (N, 1 + length) tokens with BOS first, and what the
            program says at each position, as tokens, −1 for nothing.
        exactness: How steep the steps of its MLPs are, see `craft`.
    """

    program: Program
    model: LanguageModel
    labels: tuple[str, ...]
    values: tuple[int, ...]
    tables: Mapping[int, tuple[np.ndarray, np.ndarray]]
    exactness: float

    __repr__ = one_line


def compile_program(program: Program) -> Compiled:
    """Compile a program into our decoder, and verify it on every input.

    Every input of every length from 1 to the program's is run through the model and compared with
    what the program itself says: the output direction of a numerical program is the value to within
    5% of the distance to the next value, that of a categorical one is 1 for the value and 0 for
    others to within 5%.

    Args:
        program: The program.

    Returns:
        The model and what its directions mean.

    Raises:
        MissingDependencyError: If the compiler is not installed.
        InputError: If it is no program, if it has too many inputs to look at all, if it does not
            compile, or if the compiled model says something else on some input.

    Example:
        >>> from hagd_jax.testbeds import PROGRAMS
        >>> compile_program(PROGRAMS["first"]).model.config.n_layers
        1
    """
    _require(program)
    t = tracr()
    expression, said = _said(program, t.rasp, t.lib)
    seen = _values(said)
    words = [*program.vocabulary, BOS]
    numerical = not t.rasp.is_categorical(expression)
    extra = [value for value in seen if numerical or value not in words]
    vocabulary = [*words, *extra]
    place = {value: len(words) + i for i, value in enumerate(extra)}
    if not numerical:
        place = {value: vocabulary.index(value) for value in seen}
    tables = {n: _table(program, rows, place) for n, rows in said.items()}
    wrong = 0
    for exactness in EXACTNESS:
        crafted = craft(
            expression, words, len(vocabulary), program.length,
            causal=program.causal, exactness=exactness,
        )  # fmt: skip
        _unembed(crafted, expression.label, vocabulary, extra if numerical else None)
        wrong = sum(_wrong(crafted, *table, extra, numerical) for table in tables.values())
        if not wrong:
            break
    else:
        count = sum(int((answers >= 0).sum()) for _, answers in tables.values())
        raise InputError(
            f"program {program.name}",
            got=f"a compiled model that is wrong on {wrong} of {count} outputs",
            expected="the program's output everywhere",
            mend="Use shorter inputs or fewer values: float32 cannot tell these apart.",
        )
    model = LanguageModel(
        written(crafted.params),
        crafted.config,
        tokenizer=Tokenizer.words([_word(value) for value in vocabulary]),
        name=f"tracr-{program.name}",
    )
    values = tuple(place[value] for value in seen)
    return Compiled(program, model, crafted.labels, values, tables, exactness)


def compiled_prompts(
    compiled: Compiled, length: int | None = None, *, position: int | None = None, seed: int = 0
) -> Prompts:
    """Make prompts of every input of one length at every position that has a value.

    Args:
        compiled: The program.
        length: Tokens of an input, BOS not counted; the longest by default. These models may read
            both ways, and would read padding.
        position: Ask there alone, 1 for the first token after BOS; everywhere by default.
        seed: Of the counterfactuals: other inputs, whose values there are the distractors where
            they differ.

    Returns:
        The prompts, input by input.

    Raises:
        InputError: If the program was not compiled for this length, or says nothing there.

    Example:
        >>> from hagd_jax.testbeds import PROGRAMS
        >>> found = compile_program(PROGRAMS["first"])
        >>> len(compiled_prompts(found, 3)), len(compiled_prompts(found, 3, position=1))
        (81, 27)
    """
    require_is("compiled", compiled, Compiled)
    program, seed = compiled.program, require_index("seed", seed)
    length = program.length if length is None else require_index("length", length)
    if length not in compiled.tables:
        raise InputError("length", got=length, expected=f"from 1 to {program.length}")
    tokens, found = compiled.tables[length]
    if position is not None:
        if require_index("position", position) not in range(1, length + 1):
            raise InputError("position", got=position, expected=f"from 1 to {length}")
        found = np.where(np.arange(length + 1) == position, found, -1)
    rows, positions = np.nonzero(found >= 0)
    if not len(rows):
        where = "anywhere" if position is None else f"at position {position}"
        raise InputError(
            f"prompts of program {program.name}",
            got=f"no output {where} on inputs of length {length}",
            expected="some",
            mend="Choose another length or position.",
        )
    rng = np.random.default_rng(seed)
    others = (rows + rng.integers(1, max(len(tokens), 2), len(rows))) % len(tokens)
    right, wrong = found[rows, positions], found[others, positions]
    values = np.array(compiled.values)
    spare = values[(values != right[:, None]).argmax(1)]
    wrong = np.where((wrong < 0) | (wrong == right), spare, wrong)
    return make_prompts(
        tokens[rows].tolist(),
        tokens[others].tolist(),
        right,
        wrong,
        vocab_size=compiled.model.config.vocab_size,
        position=positions.tolist(),
    )


def _require(program: Any) -> None:
    if not isinstance(program, Program):
        raise InputError(
            "program", got=repr(program)[:80], expected="a `Program`",
            mend='Those that are built in are in testbeds.PROGRAMS, such as PROGRAMS["reverse"].',
        )  # fmt: skip
    plain = isinstance(program.length, int) and not isinstance(program.length, bool)
    if not plain or program.length < 1:
        raise InputError(
            f"length of program {program.name}",
            got=repr(program.length),
            expected="a whole number, 1 or more",
        )
    words = program.vocabulary
    if not words or len(set(words)) < len(words) or BOS in words:
        raise InputError(
            f"vocabulary of program {program.name}", got=repr(words),
            expected=f"one or more different words, {BOS!r} not among them",
        )  # fmt: skip
    count = sum(len(words) ** n for n in range(1, program.length + 1))
    if count > _MOST_INPUTS:
        raise InputError(
            f"program {program.name}",
            got=f"{count} inputs",
            expected=f"at most {_MOST_INPUTS}, as all of them are tried",
            mend="Use shorter inputs or fewer words.",
        )


def _said(program: Program, rasp: Any, lib: Any) -> tuple[Any, dict[int, list[list[Any]]]]:
    """The expression, and length → what it says on all inputs of it."""
    try:
        expression = program.make(rasp, lib)
        if not isinstance(expression, rasp.SOp):
            raise TypeError(f"it makes {expression!r}, which is no sequence")
        said = {
            n: [expression(list(row)) for row in itertools.product(program.vocabulary, repeat=n)]
            for n in range(1, program.length + 1)
        }
    # A program is somebody's code: anything may go wrong in it.
    except Exception as error:
        raise InputError(
            f"program {program.name}",
            got=f"{type(error).__name__}: {error}",
            expected=f"one that runs on every input of {program.vocabulary}",
        ) from error
    return expression, said


def _values(said: Mapping[int, list[list[Any]]]) -> list[Any]:
    """What a program can say, over all inputs of all lengths."""
    seen = {value: None for rows in said.values() for row in rows for value in row}
    found = [value for value in seen if value is not None]
    numbers = all(isinstance(value, int | float) for value in found)
    return sorted(found) if numbers else sorted(found, key=str)


def _table(
    program: Program, rows: list[list[Any]], place: Mapping[Any, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of one length as tokens, and the program's outputs."""
    length = len(rows[0])
    count = len(program.vocabulary)
    inputs = np.array(list(itertools.product(range(count), repeat=length)))
    said = [[-1, *(-1 if value is None else place[value] for value in row)] for row in rows]
    return np.concatenate([np.full((len(inputs), 1), count), inputs], 1), np.array(said)


def _unembed(
    crafted: Crafted, label: str, vocabulary: list[Any], numbers: list[Any] | None
) -> None:
    """Fill in the unembedding: values as numbers, or one direction for each of them."""
    kernel, bias = crafted.params["unembed/kernel"], crafted.params["unembed/bias"]
    if numbers is None:
        columns = np.array([f"{label}:{value}" for value in vocabulary])
        kernel[:] = np.array(crafted.labels)[:, None] == columns
        return
    # An input token is never the answer.
    words = len(vocabulary) - len(numbers)
    bias[:] = -np.array([*[1e4] * words, *np.square(numbers)])
    scale = np.array([*[0.0] * words, *(2 * value for value in numbers)])
    kernel[:] = (np.array(crafted.labels) == label)[:, None] * scale


def _wrong(
    crafted: Crafted, tokens: np.ndarray, answers: np.ndarray, extra: list[Any], numerical: bool
) -> int:
    """Outputs that are not the program's."""
    logits = run(crafted.config, crafted.params, tokens).logits
    if numerical:
        values = np.array(extra, np.float64)
        gap = np.diff(values).min() if len(values) > 1 else 1.0
        # logit_c + c² = 2 c y, of the largest c.
        largest = int(np.abs(values).argmax())
        c = values[largest]
        y = (logits[..., len(logits[0, 0]) - len(values) + largest] + c * c) / (2 * c or 1.0)
        right = values[np.maximum(answers - (logits.shape[-1] - len(values)), 0)]
        bad = ~(np.abs(y - right) <= _OFF * gap)
    else:
        truth = answers[..., None] == np.arange(logits.shape[-1])
        bad = ~(np.abs(logits - truth) <= _OFF).all(-1)
    return int((bad & (answers >= 0)).sum())


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
