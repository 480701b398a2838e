"""Benchmarks from files in their published layouts: what they ask, what is left out and why.

`winogrande:FILE` and `hellaswag:FILE` choose between texts, `blimp:FILE` between words or
sentences; `sva:FILE`, `lre:FILE` and `eap:FILE` ask for the next word of a prompt that has a
counterfactual. The file is always the user's own: a circuit's file names a task, and never a path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_is
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.benchmarks.blimp import blimp, scored_sentences
from hagd_jax.tasks.benchmarks.choosing import READERS, choosing_task, scored_items
from hagd_jax.tasks.benchmarks.eap import eap
from hagd_jax.tasks.benchmarks.items import Scored
from hagd_jax.tasks.benchmarks.lre import lre
from hagd_jax.tasks.benchmarks.rows import Skipped
from hagd_jax.tasks.benchmarks.sva import sva
from hagd_jax.tasks.definition import Sizes, Task, read_draw

__all__ = ["NAMES", "READERS", "Scored", "Skipped", "scored_rows", "task"]

_FORMS: dict[str, Callable[[Tokenizer, str | Path, Sizes, int], Task]] = {
    "blimp": blimp, "sva": sva, "lre": lre, "eap": eap,
}  # fmt: skip
NAMES = (*READERS, *_FORMS)


def task(
    name: str,
    tokenizer: Tokenizer,
    source: str | Path = "",
    *,
    sizes: Sizes | None = None,
    seed: int = 0,
) -> Task:
    r"""Make a task of a benchmark; rows that do not fit are left out, and `Task.notes` says why.

    Args:
        name: One of `NAMES`.
        tokenizer: Of the model.
        source: A file in the benchmark's own layout. If it is empty, `winogrande` and `hellaswag`
            are read from their validation split on the Hugging Face hub.
        sizes: Prompts in each split. Which split a row may be in depends on the file alone, and
            rows that share what they are about are in the same.
        seed: Of which rows are taken.

    Returns:
        The task. Of `winogrande` and `hellaswag` a prompt is right if the right choice has the best
        score a character (`acc_norm` of lm-evaluation-harness); `Choices.acc` gives the other one.

    Raises:
        InputError: If the file cannot be read, one of its fields is broken, or too few of its rows
            fit.
        MissingDependencyError: If the hub is asked without the package `datasets`.

    Example:
        >>> import json
        >>> row = {"option1": "a", "option2": "b", "answer": "1"}
        >>> rows = [row | {"sentence": f"{letter} a b as _ fell.", "qID": f"{letter}-1"}
        ...         for letter in "cdefghijklmn"]
        >>> written = Path("dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> words = Tokenizer.words([*"abcdefghijklmn", "as", "fell."])
        >>> len(task("winogrande", words, "dev.jsonl", sizes=Sizes(2, 2, 2)).texts["test"])
        2
    """
    if not isinstance(name, str) or name not in NAMES:
        expected = f"one of {', '.join(NAMES)}"
        raise InputError("benchmark", got=repr(name)[:80], expected=expected)
    require_is("tokenizer", tokenizer, Tokenizer)
    if source is not None:
        require_is("source", source, str, Path)
    sizes = read_draw(sizes, seed)
    if name in READERS:
        return choosing_task(name, tokenizer, source or "", sizes, seed)
    if not source:
        raise InputError(f"task {name}", got="no file", expected=f"a file, as in {name}:FILE")
    return _FORMS[name](tokenizer, source, sizes, seed)


def scored_rows(
    name: str, tokenizer: Tokenizer, source: str | Path
) -> tuple[list[Scored], tuple[str, ...]]:
    """Read all rows of a benchmark of choices, for a model's `acc` and `acc_norm`.

    Args:
        name: `winogrande`, `hellaswag` or `blimp`.
        tokenizer: Of the model.
        source: Its file.

    Returns:
        The rows in the order of the file, and a note for each reason to leave some out.

    Raises:
        InputError: If the file cannot be read, or the benchmark does not choose between texts.
    """
    if name in READERS:
        return scored_items(name, tokenizer, source)
    if name != "blimp":
        expected = f"one of {', '.join((*READERS, 'blimp'))}"
        raise InputError("benchmark of choices", got=quoted(name), expected=expected)
    return scored_sentences(tokenizer, source)
