"""Which nodes belong to a circuit."""

from hagd_jax.search.top import top_nodes

__all__ = ["top_nodes"]
