"""Circuits planted in models, as many as one likes: a few kinds, each with its own numbers.

Heads look for letters anywhere in a prompt; neurons compute with what is there. All prompts have
six tokens, BOS and "?" among them, so models that are hidden in one configuration
(`testbeds.guise.hidden_in`) share their compiled programs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.testbeds.board import BOS, Board
from hagd_jax.testbeds.case import Case, Row, balanced, letters, make_case, units
from hagd_jax.testbeds.two_hop import FUNCTIONS

_NOISE = ("x", "y", "z")
_SURE = 4.0


def formula(*functions: str) -> Case:
    """Plant a chain of functions of letters: M₁ = f₁(a?, b?), M₂ = f₂(M₁, c?), …; is the last true?

    One head looks for each letter; a neuron for every row on which a function is true writes its
    value, each function in a layer of its own.

    Args:
        functions: Names in `testbeds.two_hop.FUNCTIONS`, one to three of them.

    Returns:
        The case.

    Raises:
        InputError: If there is no such function, or more than three.

    Example:
        >>> sorted(node.kind for node in formula("x and y", "x or y").truth["mean"])[:3]
        ['head', 'head', 'head']
    """
    unknown = [name for name in functions if name not in FUNCTIONS]
    if unknown or not 1 <= len(functions) <= 3:
        raise InputError("functions", got=functions, expected=f"1 to 3 of {sorted(FUNCTIONS)}")
    hops = len(functions)
    asked = "abcd"[: hops + 1]
    names = [f"{letter}?" for letter in asked] + [f"M{i}" for i in range(1, hops)] + ["Y"]
    board = Board((BOS, *asked, *_NOISE, "?", "yes", "no"), names, hops, 3, 5, 6)
    carries: list[str] = []
    for i, letter in enumerate(asked):
        # The two letters of the first function in layer 0, each other one where it is read.
        layer, head = max(0, i - 1), min(i, 2)
        board.look(layer, head, letter, {f"{letter}?": 1})
        carries.append(f"head {layer}.{head}")
    for hop, name in enumerate(functions):
        inputs = ("a?" if hop == 0 else f"M{hop}", f"{asked[hop + 1]}?")
        last = hop == hops - 1
        true = [row for row, value in enumerate(FUNCTIONS[name]) if value]
        for i, row in enumerate(true):
            x, y = divmod(row, 2)
            reads = dict(zip(inputs, (2 * x - 1, 2 * y - 1), strict=True))
            board.neuron(hop, i, reads, 1 - x - y, {"Y": 2} if last else {f"M{hop + 1}": 1})
            carries.append(f"neuron {hop}.{i}")
    board.neuron(hops - 1, 4, {}, 1, {"Y": -1})
    board.say("yes", {"Y": _SURE})

    def there(row: Row) -> tuple[int, ...]:
        return tuple(int(letter in row) for letter in asked)

    def rule(row: Row) -> bool:
        value, *others = there(row)
        for name, other in zip(functions, others, strict=True):
            value = FUNCTIONS[name][2 * value + other]
        return bool(value)

    return make_case(
        "formula " + ", ".join(functions),
        board,
        balanced(letters((*asked, *_NOISE), 4), there),
        lambda row: "yes" if rule(row) else "no",
        units(*carries),
        units(f"neuron {hops - 1}.4"),
        "Each function reads the one before, so every unit counts for some inputs alone.",
    )


def counting(*table: int) -> Case:
    """Plant a function of the number of ones, 0 to 3: a head counts, neurons bend the count.

    Args:
        table: Its value for 0, 1, 2 and 3 ones, 0 for no and 1 for yes.

    Returns:
        The case.

    Raises:
        InputError: If these are not four of 0 and 1, or all the same.
    """
    if len(table) != 4 or set(table) != {0, 1}:
        raise InputError("table", got=table, expected="four of 0 and 1, both of them")
    board = Board((BOS, "1", *_NOISE, "?", "yes", "no"), ("N", "Y"), 1, 3, 5, 6)
    # BOS and "?" are looked at as well.
    board.count(0, 0, "1", {"N": 6})
    bends = _bend(board, 0, "N", table)
    rows = [row for row in letters(("1", *_NOISE), 4) if row.count("1") < 4]
    return make_case(
        "counting " + "".join(map(str, table)),
        board,
        balanced(rows, lambda row: row.count("1")),
        lambda row: "yes" if table[row.count("1")] else "no",
        units("head 0.0", *bends),
        units("neuron 0.4"),
        "The answer turns at whole numbers, where a neuron's threshold is.",
    )


def adding(first: Sequence[int], second: Sequence[int], table: Sequence[int]) -> Case:
    """Plant two heads that fetch a number each; neurons answer by the sum.

    Args:
        first: The numbers of the first four keys.
        second: Those of four others.
        table: The answer for each sum from 0, 0 for no and 1 for yes.

    Returns:
        The case.

    Raises:
        InputError: If a sum has no answer in the table.
    """
    if len(table) <= max(first) + max(second):
        raise InputError(
            "table",
            got=f"answers of {len(table)} sums",
            expected=f"0 to {max(first) + max(second)}",
        )
    keys = tuple(f"a{i}" for i in range(4)), tuple(f"b{i}" for i in range(4))
    numbers = dict(zip([*keys[0], *keys[1]], [*first, *second], strict=True))
    board = Board((BOS, *keys[0], *keys[1], "x", "y", "?", "yes", "no"), ("N", "Y"), 1, 3, 6, 6)
    for head, own in enumerate(keys):
        board.fetch(0, head, {key: (numbers[key], 0) for key in own}, {"N": 1}, {})
    bends = _bend(board, 0, "N", table)
    rows = _with_noise(itertools.product(*keys))
    total = lambda row: sum(numbers.get(word, 0) for word in row)  # noqa: E731
    return make_case(
        f"adding {first} {second} {table}",
        board,
        balanced(rows, total),
        lambda row: "yes" if table[total(row)] else "no",
        units("head 0.0", "head 0.1", *bends),
        units("neuron 0.4"),
        "Neither number decides alone.",
    )


def subtracting(first: Sequence[int], second: Sequence[int]) -> Case:
    """Plant two heads that fetch a number each; the answer is their difference.

    Args:
        first: The numbers of the first four keys, from 0 to 3.
        second: Those of four others.

    Returns:
        The case.
    """
    keys = tuple(f"a{i}" for i in range(4)), tuple(f"b{i}" for i in range(4))
    numbers = dict(zip([*keys[0], *keys[1]], [*first, *second], strict=True))
    differences = range(-3, 4)
    words = (BOS, *keys[0], *keys[1], "x", "y", "?", *(f"{d:+d}" for d in differences))
    board = Board(words, ("D",), 1, 3, 4, 6)
    for head, own in enumerate(keys):
        board.fetch(0, head, {key: (numbers[key], 0) for key in own}, {"D": 1 - 2 * head}, {})
    for d in differences:
        # 2 d D − d² is largest where d is nearest to D.
        board.say(f"{d:+d}", {"D": 2 * _SURE * d, "one": -_SURE * d * d})
    signs = {"a": 1, "b": -1}
    rule = lambda row: sum(signs[word[0]] * numbers[word] for word in row if word in numbers)  # noqa: E731
    return make_case(
        f"subtracting {first} {second}",
        board,
        balanced(_with_noise(itertools.product(*keys)), rule),
        lambda row: f"{rule(row):+d}",
        units("head 0.0", "head 0.1"),
        units(),
        "Two units alone, which hold each other in check.",
    )


def switching(first: bool, second: bool) -> Case:
    """Plant two circuits, one for the letter a and one for b, between which a sign chooses.

    Args:
        first: Whether an a means yes, or no, under "1".
        second: Whether a b does under "2".

    Returns:
        The case.
    """
    words = (BOS, "1", "2", "a", "b", *_NOISE, "?", "yes", "no")
    board = Board(words, ("A", "B", "T1", "T2", "Y"), 2, 3, 4, 6)
    for head, (token, write) in enumerate((("1", "T1"), ("2", "T2"))):
        board.look(0, head, token, {write: 1})
    for head, (token, write) in enumerate((("a", "A"), ("b", "B"))):
        board.look(1, head, token, {write: 1})
    for i, (read, sign, means) in enumerate((("A", "T1", first), ("B", "T2", second))):
        reads, bias = ({read: 1, sign: 1}, -1) if means else ({read: -1, sign: 1}, 0)
        board.neuron(1, i, reads, bias, {"Y": 2})
    board.neuron(1, 2, {}, 1, {"Y": -1})
    board.say("yes", {"Y": _SURE})
    rows = [row for sign in "12" for row in letters(("a", "b", *_NOISE), 3, first=sign)]

    def rule(row: Row) -> bool:
        letter, means = ("a", first) if row[0] == "1" else ("b", second)
        return (letter in row) == means

    return make_case(
        f"switching {first} {second}",
        board,
        balanced(rows, lambda row: (row[0], "a" in row, "b" in row)),
        lambda row: "yes" if rule(row) else "no",
        units("head 0.0", "head 0.1", "head 1.0", "head 1.1", "neuron 1.0", "neuron 1.1"),
        units("neuron 1.2"),
        "Every letter is seen on all prompts, and counts on half of them.",
    )


def turning(p: int, times: int) -> Case:
    """Plant (times · (a + b)) modulo p by adding angles as `hand_built.rotation` does.

    Args:
        p: The modulus.
        times: What sums are multiplied by; coprime to p.

    Returns:
        The case.
    """
    firsts, seconds = (tuple(f"{letter}{i}" for i in range(p)) for letter in "ab")
    sums = [str(i) for i in range(p)]
    words = (BOS, *firsts, *seconds, "x", "y", "?", *sums)
    board = Board(words, ("cosA", "sinA", "cosB", "sinB", "C", "S"), 1, 3, 5, 6, gated=True)
    circle = [(math.cos(2 * math.pi * i / p), math.sin(2 * math.pi * i / p)) for i in range(p)]
    board.fetch(0, 0, dict(zip(firsts, circle, strict=True)), {"cosA": 1}, {"sinA": 1})
    back = {"cosB": 1, "C": -1, "S": -1}, {"sinB": 1, "C": 1, "S": -1}
    board.fetch(0, 1, dict(zip(seconds, circle, strict=True)), *back)
    products = (("cosA", "cosB", "C", 1), ("sinA", "sinB", "C", -1),
                ("sinA", "cosB", "S", 1), ("cosA", "sinB", "S", 1))  # fmt: skip
    for i, (gate, read, write, sign) in enumerate(products):
        board.product(0, i, gate, read, {write: sign})
    for i in range(p):
        cos, sin = circle[i]
        board.say(sums[times * i % p], {"C": 10 * cos, "S": 10 * sin})
    number = lambda row: sum(int(word[1:]) for word in row if word[0] in "ab")  # noqa: E731
    return make_case(
        f"turning {p} {times}",
        board,
        balanced(_with_noise(itertools.product(firsts, seconds)), number),
        lambda row: str(times * number(row) % p),
        units("head 0.0", "head 0.1", *(f"neuron 0.{i}" for i in range(4))),
        units(),
        "Every unit works by multiplying with another.",
    )


def _with_noise(pairs: Iterable[tuple[str, str]]) -> list[Row]:
    """Every pair with two letters of noise, in four orders, and "?" at the end."""
    rows = []
    for (a, b), one, other in itertools.product(pairs, "xy", "xy"):
        rows += [(a, one, b, other, "?"), (one, a, b, other, "?")]
        rows += [(b, one, a, other, "?"), (one, b, other, a, "?")]
    return rows


def _bend(board: Board, layer: int, read: str, table: Sequence[int]) -> list[str]:
    """Neurons that say 2 · table[n] − 1 of a whole number n, the last one the constant."""
    steps = np.diff(table)
    bends = np.diff(steps, prepend=0)
    used = []
    for i in np.flatnonzero(bends).tolist():
        board.neuron(layer, i, {read: 1}, -i, {"Y": 2 * int(bends[i])})
        used.append(f"neuron {layer}.{i}")
    board.neuron(layer, 4, {}, 1, {"Y": 2 * table[0] - 1})
    board.say("yes", {"Y": _SURE})
    return used
