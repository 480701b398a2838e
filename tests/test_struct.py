"""Structures of different classes are never equal, so that no program serves another class."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import hagd_jax.interventions
import hagd_jax.units  # noqa: F401
from hagd_jax import struct
from hagd_jax.models import Intervention
from hagd_jax.units import Dictionary


def classes(count: int) -> list[type]:
    made = [type(f"C{i}", (), {"__annotations__": {"x": float}, "x": 1.0}) for i in range(count)]
    return [struct.dataclass(each) for each in made]


def test_programs_are_not_taken_for_one_another():
    """With `flax.struct` and JAX 0.10.2 some get another class's program."""
    traced = jax.jit(lambda x: {type(x).__name__: x.x})
    many = classes(200)
    for each in many:
        assert list(traced.trace(each()).out_info) == [each.__name__]


def subclasses(cls: type) -> set[type]:
    own = {cls} if "__dataclass_fields__" in vars(cls) and not inspect.isabstract(cls) else set()
    return own.union(*map(subclasses, cls.__subclasses__()))


@pytest.mark.parametrize("base", [Intervention, Dictionary])
def test_our_own_classes_differ(base):
    def structure(cls: Any) -> Any:
        empty = object.__new__(cls)
        for name in cls.__dataclass_fields__:
            object.__setattr__(empty, name, 0)
        return jax.tree.structure(empty)

    found = sorted(subclasses(base), key=repr)
    assert len(found) > 2
    for one, other in itertools.combinations(found, 2):
        assert structure(one) != structure(other)


def test_it_is_what_flax_makes():
    class Pair(struct.PyTreeNode):
        data: Any
        name: str = struct.field(pytree_node=False, default="a", metadata={"of": 1})

    pair = Pair({"w": jnp.arange(2.0)}, "b")
    (path, _), = jax.tree_util.tree_leaves_with_path(pair)  # fmt: skip
    assert jax.tree_util.keystr(path) == ".data['w']"
    assert jax.tree.map(lambda x: x, pair).name == "b"
    assert pair.replace(name="c").name == "c"
    with pytest.raises(AttributeError):
        pair.name = "d"  # type: ignore[misc]
    assert jax.tree.structure(pair) != jax.tree.structure(pair.replace(name="c"))
    assert jax.jit(lambda p: p.replace(data=2))(pair).data == 2
