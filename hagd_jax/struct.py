"""Dataclasses that are pytrees, as `flax.struct` has them, and never taken for one another.

`flax.struct` registers with `jax.tree_util.register_dataclass`. In JAX 0.10.2 the structures of two
such classes are equal if they have as many data fields and equal metadata, whatever the classes
are. `jax.jit` finds compiled programs by that equality, so that one class now and then gets the
program of another. Interventions and dictionaries differ by class alone. Structures of classes with
flattening functions of their own are compared by class, too, so that is how these are registered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar, dataclass_transform

import jax

_T = TypeVar("_T")


def field(*, pytree_node: bool = True, **options: Any) -> Any:
    """Describe a field of a dataclass, as `dataclasses.field`.

    Args:
        pytree_node: Whether its value is a subtree; otherwise it is static metadata, which must
            be hashable to pass `jax.jit`.
        options: As there.

    Returns:
        The description.

    Example:
        >>> @dataclass
        ... class Scaled:
        ...     by: float
        ...     name: str = field(pytree_node=False, default="")
        >>> jax.tree.leaves(Scaled(2.0, "twice"))
        [2.0]
    """
    metadata = {"pytree_node": pytree_node} | dict(options.pop("metadata", {}))
    return dataclasses.field(metadata=metadata, **options)


@dataclass_transform(field_specifiers=(field,), frozen_default=True)
def dataclass(cls: type[_T]) -> type[_T]:
    """Make a class a frozen dataclass and a pytree; it gains `replace(**changes)`.

    Args:
        cls: The class, with annotated fields.

    Returns:
        The same class.

    Example:
        >>> @dataclass
        ... class Shifted:
        ...     by: float
        >>> @dataclass
        ... class Scaled:
        ...     by: float
        >>> jax.tree.structure(Shifted(1.0)) == jax.tree.structure(Scaled(1.0))
        False
        >>> jax.tree.map(lambda x: x + 1, Scaled(1.0)).replace(by=5.0)
        Scaled(by=5.0)
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    made.replace = dataclasses.replace  # type: ignore[attr-defined]
    return _registered(made)


@dataclass_transform(field_specifiers=(field,), frozen_default=True)
class PyTreeNode:
    """The base of frozen dataclasses that are pytrees; its subclasses need no decorator.

    Example:
        >>> class Scaled(PyTreeNode):
        ...     by: float
        >>> jax.tree.map(lambda x: -x, Scaled(2.0))
        Scaled(by=-2.0)
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__()
        _registered(dataclasses.dataclass(frozen=True, **options)(cls))

    # Dataclasses make it; this is for type checkers.
    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values of some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _registered(cls: type[_T]) -> type[_T]:
    """Tell JAX how values are taken apart and put together."""
    fields = [(each.name, each.metadata.get("pytree_node", True))
              for each in dataclasses.fields(cls)]  # type: ignore[arg-type]  # fmt: skip
    data = tuple(name for name, subtree in fields if subtree)
    static = tuple(name for name, subtree in fields if not subtree)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def parts(value: _T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return (
            tuple(getattr(value, name) for name in data),
            tuple(getattr(value, name) for name in static),
        )

    def named_parts(value: _T) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        subtrees, about = parts(value)
        return tuple(zip(keys, subtrees, strict=True)), about

    def put_together(about: tuple[Any, ...], subtrees: Any) -> _T:
        make: Callable[..., _T] = cls
        return make(
            **dict(zip(data, subtrees, strict=True)), **dict(zip(static, about, strict=True))
        )

    jax.tree_util.register_pytree_with_keys(cls, named_parts, put_together, parts)
    return cls
