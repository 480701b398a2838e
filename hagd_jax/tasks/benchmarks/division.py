"""Which split each row of a file is in, so that no word with a meaning is in two splits.

A row is known by its keys: the subject of a relation, or the content words of a sentence. Every key
belongs to one split, and a row whose keys belong to several is left out. Keys are placed so that
many rows remain, in the shares of the splits.
"""

from __future__ import annotations

import collections
import math
import re
import zlib
from collections.abc import Mapping, Sequence

from hagd_jax.tasks.definition import SPLITS, Split
from hagd_jax.tasks.duplicates import basic_form
from hagd_jax.tasks.lexicon import CLOSED_CLASS

# The share of the rows that each split gets.
_SHARES = (0.4, 0.2, 0.4)
# A word in more than this share of the rows belongs to the templates of a file: of all words, and
# of those that tell what a row is about.
COMMON, ABOUT = 0.1, 0.25
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_SWEEPS, _STARTS, _MOST_KEYS = 8, 12, 50_000
# Rows that an empty split counts as: so few that none is emptied.
_NONE = 0.01


def content(*texts: str) -> frozenset[str]:
    """List the words with a meaning of some texts, in their basic form.

    Args:
        texts: Sentences.

    Returns:
        The words in small letters, without articles, pronouns, prepositions and auxiliaries.

    Example:
        >>> sorted(content("The keys near the boxes", "The key near the boxes"))
        ['box', 'key']
    """
    words = (word for text in texts for word in _WORD.findall(text.lower()))
    return frozenset(basic_form(w) for w in words if len(w) > 1 and w not in CLOSED_CLASS)


def common(rows: Sequence[frozenset[str]], share: float = COMMON) -> frozenset[str]:
    """List the keys that belong to the templates of a file, since very many rows have them.

    Args:
        rows: The keys of each row.
        share: Share of the rows from which on a key is common.

    Returns:
        The common keys.

    Example:
        >>> sorted(common([frozenset(["decide", name]) for name in "abcdefghijkl"]))
        ['decide']
    """
    counts = collections.Counter(key for row in rows for key in row)
    return frozenset(key for key, n in counts.items() if n > max(share * len(rows), 1))


def own_words(
    rows: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> list[frozenset[str]]:
    """List the keys of rows that are sentences: the words with a meaning that are their own.

    Args:
        rows: For each row the words that say what it is about, if that is known, and its texts:
            these give the keys where the former give none.

    Returns:
        The keys of each row, without common ones; a row that has no others is its own key.

    Example:
        >>> rows = [((), (f"The {name} plan from 1712 to 17",)) for name in ("war", "12")]
        >>> [sorted(keys) for keys in own_words(rows)]
        [['war'], ['The 12 plan from 1712 to 17']]
    """
    about, whole = ([content(*row[i]) for row in rows] for i in (0, 1))
    # A name is in fewer rows than a word such as "man", by which all counterfactuals are made.
    less = common(about, ABOUT), common(whole, COMMON)
    return [
        one - less[0] or other - less[1] or frozenset([" ".join(row[1])])
        for row, one, other in zip(rows, about, whole, strict=True)
    ]


def shared_words(splits: Mapping[str, Sequence[str]], most: int = 12) -> tuple[str, ...]:
    """Say which words with a meaning several splits have.

    Args:
        splits: The texts of each split.
        most: Words that are named at most.

    Returns:
        A note, or none if there are no such words.

    Example:
        >>> shared_words({"discover": ["The key falls"], "test": ["The cup fell", "A cup falls"]})
        ('splits share 1 words with a meaning: falls',)
    """
    seen: dict[str, set[str]] = {}
    said: dict[str, str] = {}
    for split, texts in splits.items():
        for word in dict.fromkeys(w for text in texts for w in _WORD.findall(text.lower())):
            for key in content(word):
                seen.setdefault(key, set()).add(split)
                said.setdefault(key, word)
    words = sorted(said[key] for key, where in seen.items() if len(where) > 1)
    if not words:
        return ()
    more = ", ..." if len(words) > most else ""
    return (f"splits share {len(words)} words with a meaning: {', '.join(words[:most])}{more}",)


def divide(rows: Sequence[frozenset[str]]) -> list[Split | None]:
    """Divide rows among the splits so that no key is in two of them.

    Maximises Σ share_s · log(rows_s) over the places of the keys, one key at a time, from several
    starts that are decided by hashes of the keys. The result depends on the rows alone.

    Args:
        rows: The keys of each row, at least one.

    Returns:
        The split of each row; None for a row whose keys are in several.

    Example:
        >>> divide([frozenset(pair) for pair in ("ab", "a", "cd", "d", "e", "ac")]).count(None) < 2
        True
    """
    if not rows:
        return []
    # The order of rows and their copies change nothing.
    starts = _STARTS if sum(map(len, rows)) <= _MOST_KEYS else 1
    tables = [_Table(rows, start) for start in range(starts)]
    for table in tables:
        table.improve()
    best = max(tables, key=lambda table: table.value(table.kept))
    return [best.split_of(i) for i in range(len(rows))]


class _Table:
    """Where each key is placed, and how many keys of each row are in each split."""

    def __init__(self, rows: Sequence[frozenset[str]], start: int):
        rows = _together(rows)
        self.rows_of: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            for key in sorted(row):
                self.rows_of.setdefault(key, []).append(i)
        self.keys = sorted(self.rows_of, key=lambda key: (-len(self.rows_of[key]), _hash(key, 0)))
        # By their hash, keys start in the shares of the splits.
        self.place = {key: (0, 0, 1, 2, 2)[_hash(key, start) % 5] for key in self.keys}
        self.sizes = [len(row) for row in rows]
        self.counts = [[sum(self.place[key] == s for key in row) for s in range(3)] for row in rows]
        self.kept = [sum(c[s] == n for c, n in self._pairs()) for s in range(3)]

    def _pairs(self) -> list[tuple[list[int], int]]:
        return list(zip(self.counts, self.sizes, strict=True))

    def value(self, kept: Sequence[int]) -> float:
        """What is maximised."""
        return sum(w * math.log(n + _NONE) for w, n in zip(_SHARES, kept, strict=True))

    def improve(self) -> None:
        """Move one key after the other to the split where most remains, until nothing changes."""
        for _ in range(_SWEEPS):
            if not sum([self._moved(key) for key in self.keys]):
                return

    def _moved(self, key: str) -> bool:
        now, mine = self.place[key], self.rows_of[key]
        without = list(self.kept)
        without[now] -= sum(self.counts[i][now] == self.sizes[i] for i in mine)
        found = [(self.value(self.kept), now, self.kept)]
        for other in {0, 1, 2} - {now}:
            kept = list(without)
            kept[other] += sum(self.counts[i][other] == self.sizes[i] - 1 for i in mine)
            found.append((self.value(kept), other, kept))
        best = max(found, key=lambda one: one[0])
        if best[0] <= found[0][0] + 1e-12:
            return False
        _, self.place[key], self.kept = best
        for i in mine:
            self.counts[i][now] -= 1
            self.counts[i][self.place[key]] += 1
        return True

    def split_of(self, row: int) -> Split | None:
        """The split that all keys of a row are in."""
        for place, count in enumerate(self.counts[row]):
            if count == self.sizes[row]:
                return SPLITS[place]
        return None


def _together(rows: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """The rows with one key for those that are always together, as both numbers of a noun are."""
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        for key in row:
            places.setdefault(key, []).append(i)
    same: dict[tuple[int, ...], list[str]] = {}
    for key, where in places.items():
        same.setdefault(tuple(where), []).append(key)
    kept = {min(keys) for keys in same.values()}
    return [row & kept for row in rows]


def _hash(key: str, start: int) -> int:
    return zlib.crc32(f"{start} {key}".encode())
