"""Tasks by name."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable

from hagd_jax.errors import InputError, require_is, require_number
from hagd_jax.models.model import LanguageModel
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks import (
    agreement,
    benchmarks,
    greater_than,
    ioi,
    modular,
    pronouns,
    relations,
    word_arithmetic,
)
from hagd_jax.tasks.algorithm import Algorithm
from hagd_jax.tasks.algorithms import ALGORITHMS, recognise
from hagd_jax.tasks.definition import Sizes, Task
from hagd_jax.tasks.modular import OPERATIONS
from hagd_jax.tasks.relations import RELATIONS


def _tokenizer(model: LanguageModel, name: str) -> Tokenizer:
    if model.tokenizer is None:
        raise InputError(
            f"task {name}",
            got=f"model {model.name} without a tokenizer",
            expected="a model with one",
            mend="Put tokenizer.json beside its weights, or build a Task of your own.",
        )
    return model.tokenizer


Maker = Callable[[LanguageModel, Sizes | None, int], Task]


def _language(name: str, make: Callable[..., Task]) -> Maker:
    return lambda model, sizes, seed: make(_tokenizer(model, name), sizes=sizes, seed=seed)


def _modular(operation: str) -> Maker:
    def make(model: LanguageModel, sizes: Sizes | None, seed: int) -> Task:
        return modular.task(modular.modulus(model, operation), operation, sizes=sizes, seed=seed)

    return make


def _algorithm(name: str) -> Maker:
    return lambda model, sizes, seed: recognise(name, model).task(sizes=sizes, seed=seed)


_TASKS: dict[str, Maker] = {
    "agreement": _language("agreement", agreement.task),
    **{name: _language(name, functools.partial(relations.task, name)) for name in RELATIONS},
    "greater_than": _language("greater_than", greater_than.task),
    "ioi": _language("ioi", ioi.task),
    "pronouns": _language("pronouns", pronouns.task),
    "word_arithmetic": _language("word_arithmetic", word_arithmetic.task),
    **{name: _modular(operation) for operation, (name, *_) in OPERATIONS.items()},
    **{name: _algorithm(name) for name in ALGORITHMS},
}


BENCHMARKS = benchmarks.NAMES


def small_algorithm(name: str, *, p: int = 53) -> Algorithm | None:
    """Return the algorithm that a small model learns for a task, of the usual size.

    Args:
        name: One of `names()`.
        p: The modulus, of modular arithmetic.

    Returns:
        The algorithm; None if the task is for models of language.
    """
    require_is("name", name, str)
    require_number("p", p, least=2, whole=True)
    for operation, (own, *_) in OPERATIONS.items():
        if name == own:
            return modular.algorithm(p, operation)
    return ALGORITHMS[name]() if name in ALGORITHMS else None


def algorithm_of(name: str, model: LanguageModel) -> Algorithm | None:
    """Find the algorithm that a small model computes for a task, if the task has one.

    Args:
        name: One of `names()`.
        model: From `train_small`.

    Returns:
        The algorithm; None if the task is for models of language.

    Raises:
        InputError: If the model computes something else.
    """
    for operation, (own, *_) in OPERATIONS.items():
        if name == own:
            return modular.algorithm(modular.modulus(model, operation), operation)
    return recognise(name, model) if name in ALGORITHMS else None


def names() -> tuple[str, ...]:
    """List the names of all tasks.

    Example:
        >>> names()[:3]
        ('agreement', 'capitals', 'languages')
    """
    return (*_TASKS, *BENCHMARKS)


def find(name: str) -> str:
    """Find a task's name; hyphens count as underscores.

    Args:
        name: As a user typed it. Benchmarks may name a file: `winogrande:dev.jsonl`.

    Returns:
        One of `names()`, with its file if there is one.

    Raises:
        InputError: If there is no such task; the message names the closest ones.

    Example:
        >>> find("modular-addition")
        'modular_addition'
    """
    typed, colon, source = str(name).partition(":")
    plain = typed.lower().replace("-", "_")
    if plain in _TASKS and not colon:
        return plain
    if plain in BENCHMARKS:
        return f"{plain}:{source}" if source else plain
    close = difflib.get_close_matches(plain, names(), cutoff=0.4)
    raise InputError(
        "task",
        got=repr(name),
        expected=f"one of {', '.join(names())}",
        mend=f"Did you mean {' or '.join(close)}?" if close else None,
    )


def task(name: str, model: LanguageModel, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make a task by name, in the tokens of a model.

    Args:
        name: One of `names()`; benchmarks name a file, such as `blimp:FILE`.
        model: Whose tokenizer (or, for modular addition, vocabulary) the prompts are for.
        sizes: Prompts in each split; those of `Sizes()` if None.
        seed: Of the draw. Templates, words and pairs of a split do not depend on it.

    Returns:
        The task.

    Raises:
        InputError: If there is no such task, or the model's vocabulary cannot express it.
    """
    found, _, source = find(name).partition(":")
    require_is("model", model, LanguageModel)
    if found in BENCHMARKS:
        words = _tokenizer(model, found)
        return benchmarks.task(found, words, source, sizes=sizes, seed=seed)
    return _TASKS[found](model, sizes, seed)
