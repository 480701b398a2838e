"""How many nodes a circuit may have: a number, a share of the model's, or a choice among shares."""

from __future__ import annotations

import math
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError

# The size that is chosen, and the shares of the nodes that it is chosen among.
AUTO = "auto"
_SHARES = (0.6, 0.4, 0.2, 0.1)


def read_size(nodes: Any) -> tuple[float, bool]:
    """Read a size as a number, and whether it is a percentage.

    Args:
        nodes: As a user typed it.

    Raises:
        ConfigError: If it is neither a number from 1 nor a percentage.

    Example:
        >>> read_size("64"), read_size("2.5%")
        ((64, False), (2.5, True))
    """
    text = nodes.strip() if isinstance(nodes, str) else ""
    share = text.endswith("%")
    try:
        size = float(text[:-1]) if share else int(text)
    except ValueError:
        size = math.nan
    if not (0 < size <= 100 if share else size >= 1):
        expected = 'a number of nodes from 1, such as "64", or a share of them, such as "5%"'
        raise ConfigError("nodes", got=quoted(nodes), expected=expected)
    return size, share


def nodes_of(nodes: str, total: int) -> int:
    """Return the number of nodes of a size in a model.

    Args:
        nodes: A number or a percentage.
        total: Nodes of the model.

    Returns:
        From 1 to `total`.

    Raises:
        ConfigError: If the model has no circuit of that size.

    Example:
        >>> nodes_of("64", 1000), nodes_of("5%", 1000)
        (64, 50)
    """
    asked, share = read_size(nodes)
    size = round(asked / 100 * total) if share else int(asked)
    if 1 <= size <= total:
        return size
    if not share:
        raise ConfigError("nodes", got=size, expected=f"a size from 1 to {total} nodes")
    least = next(each for each in range(1, 101) if round(each / 100 * total) >= 1)
    raise ConfigError(
        "nodes", got=f"{nodes}, which is {size} of {total} nodes",
        expected=f"a share from {least}% to 100%",
        mend=f"Ask for more with --nodes {least}%, or for a number of nodes.",
    )  # fmt: skip


def chosen_among(total: int) -> tuple[int, ...]:
    """List the numbers of nodes that `auto` chooses among, largest first.

    Args:
        total: Nodes of the model.

    Returns:
        One to four numbers from 1 on, each once.

    Example:
        >>> chosen_among(1000), chosen_among(3)
        ((600, 400, 200, 100), (2, 1))
    """
    sizes = {max(1, round(share * total)) for share in _SHARES}
    return tuple(sorted(sizes, reverse=True))
