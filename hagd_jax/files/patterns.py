"""Regular expressions from outside, whose engines backtrack: which ones end in bounded time.

A pattern whose repetitions are nested, or follow each other, can take a time that is exponential,
or a high power, of a text's length; options and alternatives in a row double it each. Those of
published tokenizers do neither: they are branches of characters and classes, each with two
unbounded repetitions and a few options at most. So at each place of a text an engine tries at most
a few times the square of the length that follows: over a whole text, a few times its cube.
"""

from __future__ import annotations

import dataclasses
import re

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, HagdError

# GPT-4o's has 500 characters; some list hundreds of scripts and signs.
_LONGEST = 8192
# Unbounded repetitions in a branch.
_MOST = 2
_LARGEST = 1000
# Ways in which a branch can match at one place; a repetition of any length counts as some of them.
_WAYS = 4096
_UNBOUNDED = 16
_ATOM = r"\\[pPN]\{[^}]*\}|\\x\{[^}]*\}|\\."
_TOKEN = re.compile(
    rf"(?P<atom>{_ATOM})|(?P<flags>\(\?(?:[im]+(?:-[im]+)?|-[im]+)\))"
    r"|(?P<open>\((?:\?(?:[im]*(?:-[im]+)?:|=|!|<=|<!|>))?)"
    r"|(?P<close>\))|(?P<or>\|)"
    r"|(?P<times>[*+?]|\{\d*,?\d*\})|(?P<class>\[)|(?P<other>.)",
    re.DOTALL,
)


@dataclasses.dataclass
class _Group:
    """What is known of an open group.

    Attributes:
        here: Unbounded repetitions in the branch that is read.
        most: The most in a branch so far.
        fixed: Whether all that it matches has one length, so that a repetition of it is safe.
        ways: In how many ways the branch that is read can match.
        others: In how many the branches before it can.
        last: In how many the last part can, which a repetition would repeat.
        implied: Whether flags opened it, which hold to the end of the group around them.
    """

    here: int = 0
    most: int = 0
    fixed: bool = True
    ways: int = 1
    others: int = 0
    last: int = 1
    implied: bool = False

    def count(self, ways: int) -> None:
        """Count a part that can match in some ways."""
        self.ways, self.last = self.ways * ways, ways

    def branch(self) -> None:
        """End a branch."""
        self.most, self.here = max(self.most, self.here), 0
        self.others, self.ways, self.last = self.others + self.ways, 1, 1
        self.fixed = False

    def problem(self) -> str:
        """What takes too long in the branch that is read."""
        if self.here > _MOST:
            return f"more than {_MOST} unbounded repetitions in a row"
        if self.ways * _UNBOUNDED**self.here > _WAYS:
            return "too many options, alternatives or repetitions in a row"
        return ""


def require_pattern(
    pattern: str, where: str = "pattern", error: type[HagdError] = CheckpointError
) -> None:
    """Refuse a regular expression that may take much longer than the square of a text's length.

    Args:
        pattern: In Oniguruma's syntax, as the tokenizers library has it.
        where: What it is, for the message.
        error: The class of error to raise.

    Raises:
        HagdError: Of the given class, if it is one, or uses what cannot be bounded here, such as
            references to what was matched.

    Example:
        >>> require_pattern("[a-z]+| ?[0-9]{1,3}")
    """
    if problem := _problem(pattern):
        expected = "a pattern of bounded time, as published tokenizers have"
        raise error(f"{where} {quoted(pattern)}", got=problem, expected=expected)


def _problem(pattern: str) -> str:
    """What may take long in a pattern; nothing if it is harmless, or none that any engine takes."""
    if len(pattern) > _LONGEST:
        return f"{len(pattern):,} characters"
    groups, last, at = [_Group()], None, 0
    closed = _Group()
    while at < len(pattern):
        if pattern[at] == "[":
            at, kind, text = _class_end(pattern, at), "atom", ""
        else:
            found = _TOKEN.match(pattern, at)
            assert found is not None  # any character is one
            at, kind, text = found.end(), str(found.lastgroup), found[0]
        if kind == "open":
            if (text == "(" and pattern[at : at + 1] == "?") or pattern[at : at + 1] == "*":
                return "a kind of group that is not known"
            groups.append(_Group())
        elif kind == "flags":
            # "a(?i)b|c" is "a(?i:b|c)".
            groups.append(_Group(implied=True))
        elif kind == "close":
            if problem := _end_implied(groups):
                return problem
            if len(groups) == 1:
                return "a parenthesis that nothing opens"
            closed = _close(groups)
        elif kind == "or":
            groups[-1].branch()
        elif kind == "times":
            if problem := _repeated(text, last, groups[-1], closed):
                return problem
        elif re.match(r"\\[1-9kg]", text):
            return "a reference to what was matched"
        else:
            groups[-1].last = 1
        if problem := groups[-1].problem():
            return problem
        last = kind if kind != "times" or last != "times" else "twice"
    return _end_implied(groups)


def _close(groups: list[_Group]) -> _Group:
    """End the innermost group, and count it in the one around it."""
    closed = groups.pop()
    closed.most = max(closed.most, closed.here)
    groups[-1].here += closed.most
    groups[-1].fixed &= closed.fixed
    groups[-1].count(closed.others + closed.ways)
    return closed


def _end_implied(groups: list[_Group]) -> str:
    """End the groups that flags opened; what takes too long in the one around them."""
    while groups[-1].implied:
        _close(groups)
        if problem := groups[-1].problem():
            return problem
    return ""


def _repeated(text: str, last: str | None, group: _Group, closed: _Group) -> str:
    """What may take long in a repetition of what was read last; counts it in its group."""
    if last in ("times", "twice"):
        # What follows a repetition makes it lazy, or possessive.
        return "" if last == "times" and text in "?+" else "a repeated repetition"
    if last == "close" and text != "?" and not closed.fixed:
        return "a repeated group"
    numbers = [int(number) for number in re.findall(r"\d+", text) if len(number) < 9]
    if len(numbers) < len(re.findall(r"\d+", text)) or max(numbers, default=0) > _LARGEST:
        return f"the repetition {quoted(text)}"
    least, comma, most = text.strip("{}").partition(",")
    lengths = int(most) - int(least or 0) + 1 if comma and most else 1
    long = text in "*+" or text.endswith(",}") or lengths > _UNBOUNDED
    group.here += long
    if text == "?":
        # Beside the ways in which what is repeated matches, it may be left out.
        group.ways = group.ways // group.last * (group.last + 1)
    elif not long:
        group.ways *= max(lengths, 1)
    group.fixed &= bool(re.fullmatch(r"\{\d+\}", text))
    return ""


def _class_end(pattern: str, at: int) -> int:
    """Where a class of characters ends, which may hold others."""
    depth = 0
    while at < len(pattern):
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 2 if pattern[at] == "\\" else 1
        if not depth:
            break
    return at
