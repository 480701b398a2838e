"""Which prompts a circuit is judged on: distinct ones that it was not found by looking at."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import Behaviour
from hagd_jax.causal.reference import LEAST, others_of, sources_of
from hagd_jax.errors import InputError
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, as_read, prompt_digests


@dataclasses.dataclass(frozen=True)
class Judged:
    """Judged prompts are the prompts that a verdict rests on.

    Rows that are the same prompt, such as copies, or one prompt with its answer read at several
    positions, are one prompt: their measures are averaged, and every count and test is over
    distinct prompts.

    Attributes:
        prompts: R rows that are run.
        prompt: (R,) the number of the distinct prompt that each row is of.
        reference: Prompts that reference values come from.
        clusters: (N,) templates of the distinct prompts; None if there is a single template.
        decides: Whether the circuit has not seen them.
        aside: Sentences: what was set aside, and why.
    """

    prompts: Prompts
    prompt: np.ndarray
    reference: Prompts
    clusters: np.ndarray | None
    decides: bool
    aside: tuple[str, ...]

    __repr__ = one_line

    def __len__(self) -> int:
        return int(self.prompt.max()) + 1

    def averaged(self, found: Behaviour) -> Behaviour:
        """Average rows (K, R) to distinct prompts (K, N)."""
        count = np.bincount(self.prompt)

        def mean(rows: np.ndarray) -> np.ndarray:
            if len(count) == len(self.prompt) and (self.prompt == np.arange(len(count))).all():
                return np.asarray(rows, np.float64)
            several = np.asarray(rows, np.float64)
            return np.stack([np.bincount(self.prompt, row) for row in several]) / count

        return Behaviour(*map(mean, found))

    @property
    def others(self) -> int:
        """Return the least number of prompts that a reference is taken from."""
        return others_of(self.prompts, self.reference)


def judged_prompts(task: Task, split: str, seen: Seen, *, causal: bool) -> Judged:
    """Choose the prompts that a circuit is judged on.

    Args:
        task: The behaviour.
        split: Name of the split.
        seen: What the circuit was chosen by looking at.
        causal: The model reads nothing behind the position of the answer, so that prompts which
            differ only there are one prompt.

    Returns:
        The prompts of the split that are not in `seen`; all of them, deciding nothing, if they all
        are, or if what the circuit has seen is not known.

    Raises:
        InputError: If the task has no such split.
    """
    if split not in task.splits:
        raise InputError(
            f"task {task.name!r}",
            got=repr(split),
            expected=f"one of its splits, {sorted(task.splits)}",
        )
    whole, texts = task.splits[split], task.texts[split]
    prompts = as_read(whole) if causal else whole
    keys = np.array(prompt_digests(prompts))
    known = _has_seen(seen, task, split, whole) | seen.has(prompts)
    kept = np.flatnonzero(~known) if not known.all() else np.arange(len(prompts))
    aside = [*_history(seen)]
    distinct = len(set(keys.tolist()))
    if known.all():
        aside.append(
            f"all {distinct} prompts of the {split} split, since the circuit has seen them"
        )
    elif known.any():
        gone = len(set(keys[known].tolist()))
        aside.append(f"{gone} of {distinct} prompts, since the circuit has seen them")
    copies = len(kept) - len(set(keys[kept].tolist()))
    if copies:
        aside.append(
            f"{copies} rows that repeat a prompt: their measures are averaged with its own"
        )
    kept = _without_copies(prompts, keys, kept)
    _, first, number = np.unique(keys[kept], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # numbered as they come
    templates = [texts[int(row)].template for row in kept[np.sort(first)]]
    clusters = np.unique(templates, return_inverse=True)[1] if len(set(templates)) > 1 else None
    found = task.splits.get("discover", prompts)
    found = as_read(found) if causal else found
    chosen = jax.tree.map(lambda x: np.asarray(x)[kept], prompts)
    reference = found if others_of(chosen, found) >= LEAST - 1 else chosen
    return Judged(
        chosen, order[number], reference, clusters, not known.all() and not _history(seen),
        tuple(aside),
    )  # fmt: skip


def reference_words(judged: Judged) -> str:
    """Describe in a sentence where reference values come from."""
    source = np.bincount(sources_of(judged.prompts, judged.reference), minlength=4)[1:]
    where = (
        "reference prompts of the same template and length",
        "other judged prompts of the same template and length",
        f"all other reference prompts, as their own template and length has fewer than {LEAST}",
    )
    parts = [f"for {n} rows from {words}" for n, words in zip(source, where, strict=True) if n]
    return f"ablation values come {', '.join(parts)}, and never from the prompt itself"


def _has_seen(seen: Seen, task: Task, split: str, prompts: Prompts) -> np.ndarray:
    """(N,) which prompts a circuit has seen; a split that was named was seen as a whole."""
    named = split in seen.splits and (not seen.tasks or task.name in seen.tasks)
    return np.full(len(prompts), True) if named else seen.has(prompts)


def _history(seen: Seen) -> tuple[str, ...]:
    """Why what a circuit has seen cannot be trusted to be all."""
    if not seen.known:
        return ("everything, since what the circuit was found by looking at is not known",)
    return ()


def _without_copies(prompts: Prompts, keys: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Rows of which no earlier one is the same in all that is measured."""
    leaves = [np.asarray(x).reshape(len(prompts), -1) for x in jax.tree.leaves(prompts)]
    first: dict[bytes, int] = {}
    for row in kept.tolist():
        # Padding may differ between copies: digests stand for the clean side.
        rest = [x[row].tobytes() for x in leaves[1:]]
        first.setdefault(str(keys[row]).encode() + b"".join(rest), row)
    return np.array(sorted(first.values()), int)
