"""What is known of a unit beside its nodes and its score."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_index, require_is, require_list

# Characters of a role: a table has room for it.
MOST = 40
_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class About:
    """A description says what a unit does, what it is needed for, and how sure its choice is.

    Attributes:
        role: What a tested rule calls the unit, such as `induction`; `unnamed` where none holds.
        necessity: Share of the metric's change between the prompts and their counterfactuals that
            is lost when the unit alone takes its counterfactual values; negative if that helps.
        radius: Certified radius: so many of the prompts may change before the unit leaves the
            core of what is discovered from random parts of them. None if nothing is certified.

    Raises:
        InputError: If the role is no short printable text, the necessity is not finite, or the
            radius is negative.

    Example:
        >>> About("induction", 0.25, 3)
        About(role='induction', necessity=0.25, radius=3)
    """

    role: str
    necessity: float
    radius: int | None = None

    def __post_init__(self):
        role, lost = self.role, self.necessity
        good = isinstance(role, str) and role.isprintable() and 0 < len(role.strip()) <= MOST
        if not good:
            expected = f"printable text of at most {MOST} characters"
            raise InputError("role of a unit", got=quoted(role), expected=expected)
        require_is("necessity of a unit", lost, int, float, np.integer, np.floating)
        # A file may not say true either.
        if isinstance(lost, bool):
            raise InputError("necessity of a unit", got=quoted(lost), expected="a number")
        # A file may hold an integer that no float is as large as.
        if (isinstance(lost, int) and abs(lost) > _LARGEST) or not math.isfinite(lost):
            raise InputError("necessity of a unit", got=quoted(lost), expected="a finite number")
        object.__setattr__(self, "necessity", float(lost))
        if self.radius is not None:
            radius = require_index("radius of a unit", self.radius, _LARGEST)
            object.__setattr__(self, "radius", radius)


def rows_of(values: Any, units: int) -> tuple[About, ...]:
    """Read the descriptions of all units of a circuit.

    Args:
        values: One for each unit, in the order of `Circuit.units`.
        units: Number of units.

    Raises:
        InputError: If one is something else, or their number is another.
    """
    rows = tuple(require_list("about", values, "an `About` for each unit"))
    for row in rows:
        require_is("about", row, About)
    if len(rows) != units:
        raise InputError("about", got=f"{len(rows)} descriptions",
                         expected=f"{units}, one for each unit")  # fmt: skip
    return rows


def about_record(rows: Iterable[About]) -> list[list[Any]]:
    """Describe descriptions as a file has them: role, necessity and radius of each unit.

    Example:
        >>> about_record([About("unnamed", 0.5)])
        [['unnamed', 0.5, None]]
    """
    return [[row.role, row.necessity, row.radius] for row in rows]
