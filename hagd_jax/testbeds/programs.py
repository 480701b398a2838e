"""The programs that the judge is tested on."""

from __future__ import annotations

from typing import Any

from hagd_jax.testbeds.compiled import Program

_LETTERS = ("a", "b", "c")


def _select_first(rasp: Any, lib: Any) -> Any:
    first = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 0)
    return rasp.Aggregate(first, rasp.tokens, default=None).named("first")


def _palindrome(rasp: Any, lib: Any) -> Any:
    mirrored = lib.make_reverse(rasp.tokens)
    same = rasp.SequenceMap(lambda x, y: int(x == y), mirrored, rasp.tokens)
    return same.named("mirrored")


def _twice(rasp: Any, lib: Any) -> Any:
    return rasp.Map(lambda count: int(count == 2), lib.make_hist()).named("twice")


def _after_a(rasp: Any, lib: Any) -> Any:
    before = lib.shift_by(1, rasp.tokens)
    is_a = rasp.Map(lambda token: int(token == "a"), before)
    return is_a.named("after_a")


def _vowel(rasp: Any, lib: Any) -> Any:
    return rasp.Map(lambda token: int(token in "aeiou"), rasp.tokens).named("vowel")


def _parity_of_place(rasp: Any, lib: Any) -> Any:
    odd = rasp.Map(lambda index: index % 2, rasp.indices)
    return rasp.SequenceMap(lambda place, token: f"{token}{place}", odd, rasp.tokens).named("place")


def _same_as_before(rasp: Any, lib: Any) -> Any:
    before = lib.shift_by(1, rasp.tokens)
    return rasp.SequenceMap(lambda x, y: int(x == y), before, rasp.tokens).named("repeated")


_ALL = (
    Program("reverse", lambda rasp, lib: lib.make_reverse(rasp.tokens), _LETTERS, 4),
    Program(
        "sort",
        lambda rasp, lib: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1),
        (1, 2, 3),
        4,
    ),
    Program("sort_freq", lambda rasp, lib: lib.make_sort_freq(4), _LETTERS, 4),
    Program("hist", lambda rasp, lib: lib.make_hist(), _LETTERS, 4),
    Program("length", lambda rasp, lib: lib.make_length(), _LETTERS, 4),
    Program(
        "xproportion", lambda rasp, lib: lib.make_frac_prevs(rasp.tokens == "x"), ("w", "x", "y"), 4
    ),
    Program(
        "pair_balance",
        lambda rasp, lib: lib.make_pair_balance(rasp.tokens, "(", ")"),
        ("(", ")"),
        5,
    ),
    Program("shuffle_dyck", lambda rasp, lib: lib.make_shuffle_dyck(["()"]), ("(", ")"), 6),
    Program("shuffle_dyck2", lambda rasp, lib: lib.make_shuffle_dyck2(), ("(", ")", "{", "}"), 4),
    Program("count_a", lambda rasp, lib: lib.make_count(rasp.tokens, "a"), _LETTERS, 4),
    Program("count_less_freq", lambda rasp, lib: lib.make_count_less_freq(2), _LETTERS, 4),
    Program("shift", lambda rasp, lib: lib.shift_by(1, rasp.tokens), _LETTERS, 4),
    Program("shift_two", lambda rasp, lib: lib.shift_by(2, rasp.tokens), _LETTERS, 4),
    Program("detect_ab", lambda rasp, lib: lib.detect_pattern(rasp.tokens, "ab"), _LETTERS, 4),
    Program("first", _select_first, _LETTERS, 4),
    Program("mirrored", _palindrome, _LETTERS, 4),
    Program("twice", _twice, _LETTERS, 4),
    Program("after_a", _after_a, _LETTERS, 4),
    Program("vowel", _vowel, ("a", "b", "e"), 3),
    Program("place", _parity_of_place, _LETTERS, 4),
    Program("repeated", _same_as_before, _LETTERS, 4),
)
PROGRAMS = {program.name: program for program in _ALL}


def _pair(rasp: Any, lib: Any) -> Any:
    before = lib.shift_by(1, rasp.tokens)
    return rasp.SequenceMap(lambda x, y: f"{x}{y}", before, rasp.tokens).named("pair")


def _with_first(rasp: Any, lib: Any) -> Any:
    first = _select_first(rasp, lib)
    return rasp.SequenceMap(lambda x, y: f"{x}{y}", first, rasp.tokens).named("with_first")


def _mirrored_pair(rasp: Any, lib: Any) -> Any:
    mirrored = lib.make_reverse(rasp.tokens)
    return rasp.SequenceMap(lambda x, y: f"{x}{y}", mirrored, rasp.tokens).named("mirrored_pair")


def _twice_shifted(rasp: Any, lib: Any) -> Any:
    return lib.shift_by(1, lib.shift_by(2, rasp.tokens)).named("twice_shifted")


def _next(rasp: Any, lib: Any) -> Any:
    after = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query + 1)
    return rasp.Aggregate(after, rasp.tokens, default=None).named("next")


def _last(rasp: Any, lib: Any) -> Any:
    last = rasp.Select(rasp.indices, lib.make_length() - 1, rasp.Comparison.EQ)
    return rasp.Aggregate(last, rasp.tokens).named("last")


def _changed(rasp: Any, lib: Any) -> Any:
    before = lib.shift_by(1, rasp.tokens)
    return rasp.SequenceMap(lambda x, y: x ^ y, before, rasp.tokens).named("changed")


def _share_of_a(rasp: Any, lib: Any) -> Any:
    return lib.make_frac_prevs(rasp.tokens == "a")


_TWO, _FOUR, _BITS = ("a", "b"), ("a", "b", "c", "d"), (0, 1)
# What the judge is judged with: a hundred inputs or more of one length, five tokens or seven; every
# unit carries a good share of the outputs.
BOARD = (
    *(PROGRAMS[name]._replace(length=5) for name in ("hist", "count_a", "shift_two", "first")),
    *(PROGRAMS[name]._replace(length=5) for name in ("reverse", "xproportion")),
    PROGRAMS["pair_balance"]._replace(length=7),
    *(
        PROGRAMS[name]._replace(name=f"{name} of four", vocabulary=_FOUR, length=5)
        for name in ("hist", "count_a", "reverse", "shift")
    ),
    *(
        PROGRAMS[name]._replace(name=f"{name} of two", vocabulary=_TWO, length=7)
        for name in ("mirrored", "repeated", "after_a")
    ),
    Program("pair", _pair, _TWO, 7),
    Program("with_first", _with_first, _TWO, 7),
    Program("mirrored_pair", _mirrored_pair, _TWO, 7),
    Program("changed", _changed, _BITS, 7),
    Program("twice_shifted", _twice_shifted, _LETTERS, 5),
    Program("next", _next, _LETTERS, 5),
    Program("last", _last, _LETTERS, 5),
    Program("share_of_a", _share_of_a, _LETTERS, 5),
)
