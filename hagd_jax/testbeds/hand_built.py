"""Models written by hand, with traps that first-order methods fall into, and their true circuits.

A circuit is true under an ablation if the logits of answer and distractor are the model's on every
prompt while everything else is ablated, and if no node can be left out. Units that carry a constant
are needed under zero ablation alone: all other ablations put the same constant in their place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from hagd_jax.testbeds.board import BOS, Board
from hagd_jax.testbeds.case import Case, Row, balanced, letters, make_case, units


def either(noise: str = "x") -> Case:
    """Build an OR of two heads, which tell whether there is an a or a b.

    Args:
        noise: Other letters, x first; with several of them prompts without an a or a b are as
            frequent as those with one.
    """
    words = (BOS, "a", "b", *noise, "?", "yes", "no")
    board = Board(words, ("A", "B", "X", "Y"), 1, 4, 6, 6)
    board.look(0, 0, "a", {"A": 1})
    board.look(0, 1, "b", {"B": 1})
    board.look(0, 2, "x", {"X": 1})  # nobody reads it
    board.neuron(0, 0, {"A": 1, "B": 1}, 0, {"Y": 2})
    board.neuron(0, 1, {"A": 1, "B": 1}, -1, {"Y": -2})
    board.neuron(0, 2, {}, 1, {"Y": -1})  # the threshold
    board.neuron(0, 3, {"X": 1}, 0, {"X": 1})
    board.say("yes", {"Y": 4})
    return make_case(
        "either",
        board,
        _prompts("ab", noise),
        _whether(lambda row: {"a", "b"} & set(row) != set()),
        units("head 0.0", "head 0.1", "neuron 0.0", "neuron 0.1"),
        units("neuron 0.2"),
        "An OR: where both letters are there, the gradient of either head is 0.",
    )


def both() -> Case:
    """Build an AND of two heads, neither of which does anything alone."""
    board = Board((BOS, "a", "b", "x", "?", "yes", "no"), ("A", "B", "X", "Y"), 1, 4, 6, 6)
    board.look(0, 0, "a", {"A": 1})
    board.look(0, 1, "b", {"B": 1})
    board.look(0, 2, "x", {"X": 1})
    board.neuron(0, 0, {"A": 1, "B": 1}, -1, {"Y": 2})
    board.neuron(0, 1, {}, 1, {"Y": -1})
    board.neuron(0, 2, {"X": 1}, 0, {"X": 1})
    board.say("yes", {"Y": 4})
    return make_case(
        "both",
        board,
        letters("abx", 4),
        _whether(lambda row: {"a", "b"} <= set(row)),
        units("head 0.0", "head 0.1", "neuron 0.0"),
        units("neuron 0.1"),
        "An AND: on prompts without either, the gradient of both heads is 0.",
    )


def suppressed(noise: str = "x") -> Case:
    """Build a head that overstates whether there is an a, and one that takes half of it back.

    Args:
        noise: Other letters, x first; with several of them prompts without an a are as frequent.
    """
    board = Board((BOS, "a", *noise, "?", "yes", "no"), ("A", "X", "Y"), 1, 4, 5, 6)
    board.look(0, 0, "a", {"A": 2})
    board.look(0, 1, "a", {"A": -1})
    board.look(0, 2, "x", {"X": 1})
    board.neuron(0, 0, {"A": 1}, 0, {"Y": 2})
    board.neuron(0, 1, {}, 1, {"Y": -1})
    board.neuron(0, 2, {"X": 1}, 0, {"X": 1})
    board.say("yes", {"Y": 4})
    return make_case(
        "suppressed",
        board,
        _prompts("a", noise),
        _whether(lambda row: "a" in row),
        units("head 0.0", "head 0.1", "neuron 0.0"),
        units("neuron 0.1"),
        "The second head works against every right answer, so signed scores leave it out.",
    )


def two_tasks(which: int) -> Case:
    """Build two circuits that share only a sign: under "1" one finds an a, under "2" a b.

    Args:
        which: The task whose prompts are asked, 1 or 2.
    """
    words = (BOS, "1", "2", "a", "b", "?", "yes", "no")
    board = Board(words, ("A", "B", "T1", "T2", "Y"), 2, 3, 4, 7)
    board.look(0, 0, "1", {"T1": 1})
    board.look(0, 1, "2", {"T2": 1})
    board.look(1, 0, "a", {"A": 1})
    board.look(1, 1, "b", {"B": 1})
    board.neuron(1, 0, {"A": 1, "T1": 1}, -1, {"Y": 2})
    board.neuron(1, 1, {"B": 1, "T2": 1}, -1, {"Y": 2})
    board.neuron(1, 2, {}, 1, {"Y": -1})
    board.say("yes", {"Y": 4})
    own = which - 1
    return make_case(
        f"two_tasks_{which}",
        board,
        letters("ab", 4, first=str(which)),
        _whether(lambda row: "ab"[own] in row),
        units(f"head 1.{own}", f"neuron 1.{own}"),
        units(f"head 0.{own}", "neuron 1.2"),
        "The other task's head sees its letter, but its neuron waits for the other task's sign.",
    )


def parity(bits: int = 5) -> Case:
    """Build the parity of ones: one head counts, neurons bend the count to and fro.

    Args:
        bits: Of a prompt.
    """
    board = Board((BOS, "0", "1", "?", "yes", "no"), ("N", "Y"), 1, 2, bits + 3, bits + 2)
    # BOS and "?" are looked at as well: a share of 1 / (bits + 2) for each one.
    board.count(0, 0, "1", {"N": bits + 2})
    board.neuron(0, 0, {"N": 1}, 0, {"Y": 2})
    for turn in range(1, bits):
        board.neuron(0, turn, {"N": 1}, -turn, {"Y": 4 * (-1) ** turn})
    board.neuron(0, bits, {}, 1, {"Y": -1})
    board.say("yes", {"Y": 4})
    return make_case(
        "parity",
        board,
        letters("01", bits),
        _whether(lambda row: row.count("1") % 2 == 1),
        units("head 0.0", *(f"neuron 0.{turn}" for turn in range(bits))),
        units(f"neuron 0.{bits}"),
        "A zigzag of the count: neurons of rising thresholds turn it around at every whole number.",
    )


def rotation(p: int = 5) -> Case:
    """Build addition modulo p: angles add when cosines and sines are multiplied.

    Heads fetch cos and sin of 2πa/p and 2πb/p. A gated neuron is relu(x + 1) · y = xy + y for
    cosines and sines, and the second head takes the y back; so the stream holds
    cos(α + β) = cos α cos β − sin α sin β, and sin(α + β).

    Args:
        p: The modulus.
    """
    firsts, seconds = ([f"{letter}{i}" for i in range(p)] for letter in "ab")
    sums = [str(i) for i in range(p)]
    names = ("cosA", "sinA", "cosB", "sinB", "C", "S", "X")
    words = (BOS, *firsts, *seconds, "=", *sums)
    board = Board(words, names, 1, 4, 7, 4, gated=True)
    circle = [(math.cos(2 * math.pi * i / p), math.sin(2 * math.pi * i / p)) for i in range(p)]
    board.fetch(0, 0, dict(zip(firsts, circle, strict=True)), {"cosA": 1}, {"sinA": 1})
    back = {"cosB": 1, "C": -1, "S": -1}, {"sinB": 1, "C": 1, "S": -1}
    board.fetch(0, 1, dict(zip(seconds, circle, strict=True)), *back)
    board.fetch(0, 2, dict(zip(firsts, circle, strict=True)), {"X": 1}, {})  # nobody reads it
    products = (("cosA", "cosB", "C", 1), ("sinA", "sinB", "C", -1),
                ("sinA", "cosB", "S", 1), ("cosA", "sinB", "S", 1))  # fmt: skip
    for i, (gate, read, write, sign) in enumerate(products):
        board.product(0, i, gate, read, {write: sign})
    board.product(0, 4, "X", "X", {"X": 1})
    for word, (cos, sin) in zip(sums, circle, strict=True):
        board.say(word, {"C": 10 * cos, "S": 10 * sin})
    rows = [(a, b, "=") for a, b in itertools.product(firsts, seconds)]
    return make_case(
        "rotation",
        board,
        rows,
        lambda row: str((int(row[0][1:]) + int(row[1][1:])) % p),
        units("head 0.0", "head 0.1", *(f"neuron 0.{i}" for i in range(4))),
        units(),
        "Every unit works by multiplying with another: alone none moves the right answer.",
    )


def sorting(length: int = 3) -> Case:
    """Build a sorter of digits 1 to 3 by counting: are there j + 1 digits as small as v?

    Args:
        length: Digits of a prompt.
    """
    digits, places = ("1", "2", "3"), [f"#{j}" for j in range(length)]
    board = Board((BOS, *digits, *places), ("N1", "N2", "N3", "S0", "S1"), 1, 4, 7, length + 2)
    for head, digit in enumerate(digits):
        # BOS and the place are looked at as well.
        board.count(0, head, digit, {f"N{digit}": length + 2})
    rank = {place: -j for j, place in enumerate(places)}
    for i, seen in enumerate((("N1",), ("N1", "N2"))):
        # 1 if more than j digits are as small, 0 otherwise: a ramp that is cut off.
        for turn in range(2):
            board.neuron(0, 2 * i + turn, dict.fromkeys(seen, 1) | rank, -turn,
                         {f"S{i}": 1 - 2 * turn})  # fmt: skip
    board.neuron(0, 4, {"N3": 1}, 0, {"N3": 1})
    board.say("1", {"S0": 8})
    board.say("2", {"S1": 8, "S0": -8})
    board.say("3", {"S1": -8, "one": 8})
    rows = [(*row, place) for row in itertools.product(digits, repeat=length) for place in places]
    return make_case(
        "sorting",
        board,
        rows,
        lambda row: sorted(row[:-1])[int(row[-1][1:])],
        units("head 0.0", "head 0.1", *(f"neuron 0.{i}" for i in range(4))),
        units(),
        "Two ramps of opposite sign make each step, and cancel wherever both are past it.",
    )


def hand_built() -> list[Case]:
    """Make all hand-written cases.

    Example:
        >>> [case.name for case in hand_built()][:3]
        ['either', 'both', 'suppressed']
    """
    cases = either, both, suppressed, parity, rotation, sorting
    return [*(make() for make in cases), two_tasks(1), two_tasks(2)]


def _prompts(asked: str, noise: str) -> list[Row]:
    """All prompts of four letters; if there is much noise, some, each set of letters in turn."""
    rows = letters((*asked, *noise), 4)
    if len(noise) == 1:
        return rows
    return balanced(rows, lambda row: tuple(letter in row for letter in asked))


def _whether(rule: Callable[[tuple[str, ...]], bool]) -> Callable[[tuple[str, ...]], str]:
    """A rule that answers yes or no."""
    return lambda row: "yes" if rule(row) else "no"
