"""What circuits consist of, nodes or edges, as one row of numbers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hagd_jax.brief import brief
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import read_array
from hagd_jax.search.top import highest
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import (
    Components,
    Edges,
    Nodes,
    Parts,
    Scores,
    Selection,
    Source,
    Space,
    as_dictionary,
)
from hagd_jax.units.checks import require_mask
from hagd_jax.units.rows import count, flat, unflat

# What a search begins at, and what repair begins at.
Given = Nodes | Edges | Scores | Selection


def read(parts: Parts, given: Given, what: str = "scores") -> tuple[np.ndarray, Seen]:
    """Read a row of scores or of a circuit, and the data that decided it.

    Args:
        parts: What circuits consist of.
        given: Scores or a circuit. Values without a history have an unknown one.
        what: Its name in error messages.

    Returns:
        (N,) values on the host, and what decided them.

    Raises:
        InputError: If it is of other parts, or holds a number that is not finite.
    """
    own: Any = given
    seen = Seen.unknown()
    if isinstance(given, Scores | Selection):
        own, seen = given.values if isinstance(given, Scores) else given.mask, given.seen
    kind = Edges if isinstance(parts, Components) else Nodes
    if not isinstance(own, kind):
        raise InputError(
            what, got=type(own).__name__, expected=f"`{kind.__name__}`, or `Scores` of them",
            mend="Edges need `dictionary=components(model)`.",
        )  # fmt: skip
    found, space = (_space(x) for x in (own, parts.space))
    row = flat(parts, own) if found == space else np.empty(0)
    if len(row) != count(parts):
        raise InputError(what, got=f"values of {found}", expected=f"those of {space}",
                         mend="Score the same model with the same dictionary.")  # fmt: skip
    if not np.isfinite(np.asarray(row, np.float32)).all():
        raise InputError(what, got="some that are not finite", expected="numbers")
    return row, seen


def read_circuit(parts: Parts, given: Given) -> tuple[np.ndarray, Seen]:
    """Read a circuit, and the data that decided it.

    Args:
        parts: What circuits consist of.
        given: A mask of them. One without a history has an unknown one.

    Returns:
        (N,) booleans on the host, and what decided them.

    Raises:
        InputError: If it is no mask, such as scores, or one of other parts.
    """
    mask = given.mask if isinstance(given, Selection) else given
    require_mask("circuit", mask, parts.space)
    row, seen = read(parts, given, "circuit")
    return row.astype(bool), seen


def read_row(what: str, given: Scores | np.ndarray) -> np.ndarray:
    """Read (N,) float32 numbers on the host from scores or from an array.

    Raises:
        InputError: If there is none, or one is not finite.
    """
    row = read_array(what, given.flat() if isinstance(given, Scores) else given)
    if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
        raise InputError(what, got=f"{brief(row)}, or some that are not finite",
                         expected="one finite number for each node")  # fmt: skip
    return np.asarray(row, np.float32)


def looked(
    model: LanguageModel,
    prompts: Prompts,
    dictionary: Parts | Source | None,
    ablations: tuple[str, ...],
) -> Seen:
    """Record the data of a search that measured circuits on prompts under ablations."""
    own = dictionary if isinstance(dictionary, Components) else as_dictionary(model, dictionary)
    label = None if isinstance(own, Components) else own
    return look(prompts, ablation=ablations, model=model, dictionary=label)


def _space(units: Nodes | Edges | Space) -> Any:
    """Which units these are, or are values of."""
    if isinstance(units, Edges):
        return [np.shape(leaf) for leaf in jax.tree.leaves(units)]
    return units.space if isinstance(units, Nodes) else units


def best(parts: Parts, scores: np.ndarray, size: int) -> Nodes | Edges:
    """Select the `size` parts with the highest scores."""
    return unflat(parts, highest(scores, size))
