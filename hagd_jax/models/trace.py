"""The captured sites of a forward pass, as a mapping whose misses are typed errors."""

from __future__ import annotations

import difflib
from typing import Any

import jax

from hagd_jax.errors import InputError


@jax.tree_util.register_pytree_with_keys_class
class Trace(dict[str, Any]):
    """A trace maps captured sites to arrays; it is a dict, and a pytree as a dict is.

    Example:
        >>> Trace(neuron=1)["neurons"]
        Traceback (most recent call last):
        ...
        hagd_jax.errors.InputError: trace: got no site 'neurons'; expected one that was captured: \
neuron. Did you mean 'neuron'?
    """

    def __missing__(self, site: Any) -> Any:
        """Refuse a site that was not captured, naming those that were and the closest one."""
        close = difflib.get_close_matches(str(site), self, n=1)
        mend = f"Did you mean {close[0]!r}?" if close else f"Add {site!r} to `capture`."
        raise InputError(
            "trace", got=f"no site {site!r}",
            expected=f"one that was captured: {', '.join(self) or 'none was'}", mend=mend,
        )  # fmt: skip

    def tree_flatten_with_keys(self) -> tuple[Any, tuple[str, ...]]:
        """Return the arrays in the order of their names, as JAX flattens a dict."""
        names = tuple(sorted(self))
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], arrays: Any) -> Trace:
        """Build a trace from names and arrays."""
        return cls(zip(names, arrays, strict=True))
