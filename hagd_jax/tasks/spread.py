"""Which of all possible prompts a split gets: different ones, evenly of every template and word."""

from __future__ import annotations

import collections
import heapq
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hagd_jax.errors import InputError
from hagd_jax.tasks.definition import Text

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

# Of a template so many candidates are looked at for each prompt that it can get, and of LEAST
# prompts at least.
LOOK, LEAST = 6, 32
# A split begins with so many templates, or all that it has; more prompts have more templates, and
# each of those has at least EACH prompts, as means and partners are those of a template.
FEWEST, EACH = 8, 8


class Candidate(NamedTuple):
    """A candidate is a prompt that a split could have.

    Attributes:
        text: The prompt.
        uses: What it is made of, such as its subject: the split uses all of these alike.
    """

    text: Text
    uses: tuple[Hashable, ...]


def first_templates(templates: Sequence[str], size: int) -> tuple[str, ...]:
    """Return the templates that the prompts of a split are made of.

    Args:
        templates: All that the split has.
        size: How many prompts it gets.

    Returns:
        The first eight, and one more for every eight prompts beyond 64.

    Example:
        >>> len(first_templates("abcdefghijklm", 64)), len(first_templates("abcdefghijklm", 80))
        (8, 10)
    """
    return tuple(templates[: max(FEWEST, size // EACH)])


def suited(templates: Sequence[str]) -> int:
    """Return how many prompts give each template of the discover split its share, at least 64.

    Example:
        >>> suited("abcde"), suited("abcdefghijklm")
        (64, 104)
    """
    return EACH * max(FEWEST, len(templates))


def looked(size: int, templates: Sequence[str]) -> int:
    """Return how many candidates of each template are enough for a split.

    Args:
        size: How many prompts it gets.
        templates: From `first_templates`.

    Example:
        >>> looked(1024, "abcd"), looked(64, "abcd")
        (1536, 192)
    """
    return LOOK * max(-(-size // len(templates)), LEAST)


def spread(
    name: str,
    tokenizer: Tokenizer,
    split: str,
    size: int,
    candidates: Mapping[str, Sequence[Candidate]],
) -> list[Text]:
    """Choose different prompts for a split, balanced over templates and words.

    No prompt comes twice. Templates take turns, and within a template the words that were used
    least come first. All prompts of a template have the same number of tokens, so that they make
    one group for mean and resample ablations, as long as there are enough of one length.

    Args:
        name: Of the task.
        tokenizer: Of the model.
        split: Which.
        size: How many prompts.
        candidates: By template, in random order.

    Returns:
        The prompts.

    Raises:
        InputError: If there are not as many different ones.
    """
    pools = {template: _different(own) for template, own in candidates.items()}
    there = sum(map(len, pools.values()))
    require_enough(name, split, size, there)
    pools = {
        template: _of_one_length(tokenizer, own, -(-size // len(pools)))
        for template, own in pools.items()
    }
    missing = size - sum(map(len, pools.values()))
    if missing > 0:  # some templates have fewer prompts than their share: others make up for them
        pools = {template: _different(own) for template, own in candidates.items()}
    return _taking_turns(pools, size)


def require_enough(name: str, split: str, size: int, most: int) -> None:
    """Refuse a split that is larger than the number of prompts that its words can make.

    Args:
        name: Of the task.
        split: Which.
        size: Prompts asked for.
        most: Different prompts that there are.

    Raises:
        InputError: If they are fewer.
    """
    if size > most:
        raise InputError(
            f"size of the {split} split of {name}",
            got=size,
            expected=f"at most {most}, from the words that are one token",
            mend="Ask for fewer prompts, or use a model whose tokenizer keeps such words whole.",
        )


def _different(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of each prompt."""
    first: dict[str, Candidate] = {}
    for one in candidates:
        first.setdefault(one.text.clean, one)
    return list(first.values())


def _of_one_length(
    tokenizer: Tokenizer, candidates: Sequence[Candidate], enough: int
) -> list[Candidate]:
    """Those of the commonest length in tokens; of the next ones too, until there are enough."""
    some = candidates[: LOOK * max(enough, LEAST)]
    lengths = [len(tokenizer.encode(one.text.clean, end=False)) for one in some]
    kept: list[Candidate] = []
    for length, _ in collections.Counter(lengths).most_common():
        if len(kept) >= enough:
            break
        kept += [one for one, own in zip(some, lengths, strict=True) if own == length]
    return kept


def _taking_turns(pools: Mapping[str, Sequence[Candidate]], size: int) -> list[Text]:
    """Templates in turn, the least used words first."""
    used: collections.Counter[Hashable] = collections.Counter()
    worn = lambda one: sum(used[word] for word in one.uses)  # noqa: E731
    heaps = [[(0, i, one) for i, one in enumerate(own)] for own in pools.values()]
    chosen: list[Text] = []
    while len(chosen) < size:
        for heap in heaps:
            while heap and heap[0][0] < worn(heap[0][2]):  # it was used since it was put there
                _, i, one = heap[0]
                heapq.heapreplace(heap, (worn(one), i, one))
            if heap and len(chosen) < size:
                _, _, one = heapq.heappop(heap)
                chosen.append(one.text)
                used.update(one.uses)
    return chosen
