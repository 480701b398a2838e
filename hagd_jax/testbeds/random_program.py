"""Random RASP programs: sentences of a small grammar, drawn from a seed.

A value is a row of small whole numbers, one for each token:

    value  := tokens | map(value) | combine(value, value) | move(value) | width | share
    move   := value at the token before, two before, the first, or the one that tokens point to
    width  := how many tokens have a value that is equal to, less than, ... this token's other value
    share  := whether most of the selected tokens have some value

Each is defined on inputs of every length, so that a program says something everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from hagd_jax.errors import require_index
from hagd_jax.testbeds.compiled import Program

# Sizes of the vocabulary, and length: 81 or 256 inputs of the longest length.
_WORDS, _LENGTH = (3, 4), 4
Value = Any
_MAPS: tuple[Callable[[int, int], int], ...] = (
    lambda x, c: int(x == c),
    lambda x, c: int(x >= c),
    lambda x, c: (x + c) % 2,
    lambda x, c: abs(x - c),
)
_PAIRS: tuple[Callable[[int, int], int], ...] = (
    lambda x, y: int(x == y),
    lambda x, y: int(x < y),
    lambda x, y: (x + y) % 2,
    lambda x, y: min(x, y),
    lambda x, y: max(x, y),
    lambda x, y: abs(x - y),
    lambda x, y: 3 * min(x, 3) + min(y, 2),
)
_PREDICATES: tuple[Callable[[int, int], bool], ...] = (
    lambda key, query: key == query,
    lambda key, query: key < query,
    lambda key, query: key <= query,
    lambda key, query: key > query,
    lambda key, query: key != query,
)
_MOVES: tuple[Callable[[int, int], bool], ...] = (
    lambda key, query: key == max(query - 1, 0),
    lambda key, query: key == max(query - 2, 0),
    lambda key, query: key == 0,
)


def random_program(seed: int, *, depth: int = 3) -> Program:
    """Draw a program from the grammar; the same seed gives the same program.

    Many of them are degenerate: their output may not depend on the input, or parts of it may do
    nothing. `random_programs` drops these.

    Args:
        seed: Seed of the draw.
        depth: Largest number of operations on the way from the tokens to the output, 1 to 4.

    Returns:
        The program; its vocabulary consists of the numbers from 0.

    Raises:
        InputError: If the seed is no whole number, or there is no such depth.

    Example:
        >>> program = random_program(3)
        >>> program.name, program.vocabulary, program.length
        ('random 3', (0, 1, 2, 3), 4)
    """
    seed, depth = require_index("seed", seed), 1 + require_index("depth - 1", depth - 1, 4)
    words = int(np.random.default_rng(seed).choice(_WORDS))
    make = functools.partial(_drawn, seed, depth, words)
    return Program(f"random {seed}", make, tuple(range(words)), _LENGTH)


def _drawn(seed: int, depth: int, words: int, rasp: Any, lib: Any) -> Value:
    """The expression of a seed."""
    return _Draw(rasp, np.random.default_rng([seed, depth]), words).value(depth, root=True)


class _Draw:
    """A draw makes expressions, each with a name of its own."""

    def __init__(self, rasp: Any, rng: np.random.Generator, words: int) -> None:
        self.rasp, self.rng, self.words, self.names = rasp, rng, words, 0

    def value(self, depth: int, *, root: bool = False) -> Value:
        """A value that depends on the tokens through at most `depth` operations."""
        if not depth or (not root and self.rng.random() < 0.15):
            return self.rasp.tokens
        kinds = (self._map, self._pair, self._move, self._width, self._share)
        kind = kinds[self.rng.choice(len(kinds), p=(0.15, 0.3, 0.2, 0.2, 0.15))]
        self.names += 1
        name = f"{kind.__name__[1:]}{self.names}"
        return kind(depth - 1).named(name)

    def _one_of(self, choices: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
        return choices[self.rng.integers(len(choices))]

    def _map(self, depth: int) -> Value:
        return self._mapped(self.value(depth))

    def _mapped(self, value: Value) -> Value:
        function, c = self._one_of(_MAPS), int(self.rng.integers(1, self.words))
        return self.rasp.Map(lambda x: function(x, c), value)

    def _pair(self, depth: int) -> Value:
        one, other = self.value(depth), self.value(depth)
        if one is other:  # both are the tokens
            other = self.rasp.indices
        return self.rasp.SequenceMap(self._one_of(_PAIRS), one, other)

    def _move(self, depth: int) -> Value:
        rasp, value = self.rasp, self.value(depth)
        if self.rng.random() < 0.3:
            place = rasp.SequenceMap(min, rasp.tokens, rasp.indices)
            self.names += 1
            place = place.named(f"place{self.names}")
            found = rasp.Select(rasp.indices, place, rasp.Comparison.EQ)
        else:
            found = rasp.Select(rasp.indices, rasp.indices, self._one_of(_MOVES))
        return rasp.Aggregate(found, value, default=None)

    def _selected(self, depth: int) -> Any:
        """The tokens that stand earlier, or those whose value compares with this token's."""
        rasp = self.rasp
        if self.rng.random() < 0.25:
            return rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
        keys, queries = self.value(depth), self.value(depth if self.rng.random() < 0.5 else 0)
        return rasp.Select(keys, queries, self._one_of(_PREDICATES))

    def _width(self, depth: int) -> Value:
        rasp = self.rasp
        keys, queries = self.value(depth), self.value(depth if self.rng.random() < 0.5 else 0)
        return rasp.SelectorWidth(rasp.Select(keys, queries, self._one_of(_PREDICATES)))

    def _share(self, depth: int) -> Value:
        rasp = self.rasp
        self.names += 1
        flag = rasp.numerical(self._mapped_flag(self.value(depth)).named(f"flag{self.names}"))
        mean = rasp.numerical(rasp.Aggregate(self._selected(depth), flag, default=0))
        self.names += 1
        return rasp.categorical(
            rasp.Map(lambda share: int(share > 0.4), mean.named(f"mean{self.names}"))
        )

    def _mapped_flag(self, value: Value) -> Value:
        c = int(self.rng.integers(1, self.words))
        return self.rasp.Map(lambda x: int(x == c), value)
