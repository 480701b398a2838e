"""Arguments of searches, refused by name before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.search.config import MaskConfig, RepairConfig
from hagd_jax.search.tree import Tree
from hagd_jax.tasks.prompts import Prompts


def require_run(
    model: Any, prompts: Any, config: Any, *kinds: type, tree: Any = None, seed: Any = 0
) -> None:
    """Refuse arguments of the wrong class.

    Args:
        model: The model.
        prompts: The prompts, which must fit it.
        config: The configuration.
        kinds: The classes that the configuration may have.
        tree: Clusters of nodes, or None.
        seed: The seed.

    Raises:
        InputError: Naming the argument.
    """
    require_is("model", model, LanguageModel)
    require_is("prompts", prompts, Prompts, mend="A split of a task has some.")
    prompts.check(model.config.vocab_size)
    require_is("config", config, *kinds or (MaskConfig, RepairConfig))
    if tree is not None:
        require_is("tree", tree, Tree, mend="Make one with Tree.of.")
    require_index("seed", seed)


def require_sizes(sizes: Any, total: int) -> list[int]:
    """Read circuit sizes as Python integers.

    Args:
        sizes: Sizes that a user asked for.
        total: Number of nodes.

    Returns:
        The sizes.

    Raises:
        InputError: If there is none, or one is not a whole number from 1 to `total`.
    """
    expected = f"whole numbers from 1 to {total}, at least one"
    listed = require_list("sizes", sizes, expected)
    whole = [isinstance(k, int | np.integer) and not isinstance(k, bool) for k in listed]
    if not listed or not all(whole) or not all(1 <= k <= total for k in listed):
        raise InputError("sizes", got=listed, expected=expected)
    return [int(k) for k in listed]


def require_tree(tree: Tree, count: int) -> None:
    """Refuse a tree over another number of nodes.

    Raises:
        InputError: If it has one.
    """
    for level in tree.clusters:
        if len(level) != count:
            raise InputError("tree", got=f"{len(level)} nodes", expected=f"{count}, as the model",
                             mend="Make the levels from a graph of the same nodes.")  # fmt: skip


def require_state(shapes: Sequence[tuple[int, ...]], expected: Sequence[tuple[int, ...]]) -> None:
    """Refuse the state of another search.

    Args:
        shapes: Of the logits that it keeps.
        expected: Those of this search.

    Raises:
        InputError: If they differ.
    """
    if list(shapes) != list(expected):
        raise InputError("state", got=f"logits of {list(shapes)}", expected=f"{list(expected)}",
                         mend="Go on with the sizes, tree and scores it began with.")  # fmt: skip


def require_spoken(bad: np.ndarray) -> None:
    """Refuse a model that says no numbers on some prompts: no circuit could be near that.

    Args:
        bad: (N,) on which it does.

    Raises:
        InputError: If there are any.
    """
    rows = np.flatnonzero(bad)
    if len(rows):
        raise InputError(
            "model", got=f"logits that are no numbers on {len(rows)} prompts, the first {rows[0]}",
            expected="finite logits on every prompt",
            mend="Try float32, or look for infinities in the weights.",
        )  # fmt: skip
