"""One table: which mesh axes each logical array axis is split over.

Weights are split over `data` (their `embed` side) and `model` (the other), so that these two axes
together hold one copy of them; `replica` repeats that copy. Activations are split over batch, by
`replica` and `data`, and over what `model` splits; they keep their residual width whole
(`act_embed`). Small models run fastest on `replica` alone: nothing is gathered.

Shardings are built here, from the mesh in hand, rather than by Flax's `logical_axis_rules`
context: that context is no part of `jit`'s cache key, so a second mesh would reuse the program of
the first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hagd_jax.errors import ConfigError, InputError, MeshError, require_is, require_number, shown

Axes = Sequence[str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule maps one logical axis to mesh axes.

    Attributes:
        mesh_axes: The mesh axes it is split over; none keeps it whole.
        required: Whether a size that they do not divide is an error; otherwise it is kept whole.
    """

    mesh_axes: tuple[str, ...] = ()
    required: bool = True


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        # Split.
        "batch": Rule(("replica", "data")),
        "embed": Rule(("data",)),
        "heads": Rule(("model",)),
        "mlp": Rule(("model",)),
        "features": Rule(("model",)),
        # Their neurons are split by "mlp" into as many parts: whole experts, if this divides.
        "experts": Rule(("model",)),
        # Split where that works: key/value heads are copied when they are fewer than the mesh
        # axis, and vocabularies have awkward sizes (nothing above 1 and below 29 divides
        # GPT-2's 50257 = 29 · 1733).
        "kv_heads": Rule(("model",), required=False),
        "vocab": Rule(("model",), required=False),
        # A stored stream: L of them are kept at once, so they are split where one need not be.
        "trace_embed": Rule(("model",), required=False),
        # Whole: the residual width of activations, and everything else.
        "act_embed": Rule(),
        "act_experts": Rule(),
        "head_dim": Rule(),
        "layers": Rule(),
        "length": Rule(),
        "positions": Rule(),
    }
)


def sharding(
    mesh: Mesh, axes: Axes, shape: Sequence[int] | None = None, name: str = "array"
) -> NamedSharding:
    """Return the sharding on a mesh of an array with these logical axes.

    A mesh axis is used once: the first array axis that asks for it has it, later ones stay whole.

    Args:
        mesh: From `make_mesh`.
        axes: A name of `RULES` for each dimension, or None to keep it whole.
        shape: The array's shape; without it nothing is checked to divide, so that axes that may
            fall back are kept whole.
        name: What to call the array in an error.

    Returns:
        The sharding.

    Raises:
        MeshError: If a required axis is not divided by its mesh axis.
        ConfigError: If an axis is not in the table.
        InputError: If `axes` and `shape` differ in length.

    Example:
        >>> from hagd_jax.parallel import make_mesh
        >>> sharding(make_mesh("model=1"), ("embed", "heads", None), (8, 2, 4)).spec
        P(None, 'model', None)
    """
    if mesh is None:
        raise MeshError("mesh", got=None, expected="one from parallel.make_mesh")
    require_mesh(mesh)
    return NamedSharding(mesh, _spec(mesh, axes, shape, name, strict=True))


def require_mesh(mesh: Any) -> None:
    """Raise a `MeshError` unless a value is a mesh, or None.

    Args:
        mesh: The value.

    Raises:
        MeshError: If it is something else, such as a description of a mesh.
    """
    if mesh is not None and not isinstance(mesh, Mesh):
        raise MeshError(
            "mesh",
            got=shown(mesh),
            expected="a jax.sharding.Mesh or None",
            mend='parallel.make_mesh("data=2,model=4") makes one.',
        )


def constrain(x: jax.Array, axes: Axes, mesh: Mesh | None) -> jax.Array:
    """Ask the compiler to lay an activation out by the rules; the identity without a mesh.

    Never an error for sizes: a dimension that its mesh axis does not divide is kept whole, since
    activations come in any size (one prompt on two devices).

    Args:
        x: The activation, inside or outside `jit`.
        axes: A name of `RULES` for each dimension, or None.
        mesh: The mesh, or None.

    Returns:
        `x`, with the same values.

    Raises:
        ConfigError: If an axis is not in the table.
        InputError: If `axes` does not have one entry for each dimension.
    """
    if mesh is None:
        return x
    require_mesh(mesh)
    require_is("x", x, jax.Array, np.ndarray)
    spec = _spec(mesh, axes, x.shape, "activation", strict=False)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def batch_parts(mesh: Mesh | None) -> int:
    """Return the number of parts into which a mesh splits a batch.

    Example:
        >>> batch_parts(None)
        1
    """
    if mesh is None:
        return 1
    require_mesh(mesh)
    return math.prod(mesh.shape.get(axis, 1) for axis in RULES["batch"].mesh_axes)


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Ask the compiler for results whole on every device, so that every process can read them.

    Args:
        tree: Pytree of arrays, inside or outside `jit`.
        mesh: The mesh, or None.

    Returns:
        The same values.
    """
    return jax.tree.map(lambda x: constrain(x, (None,) * x.ndim, mesh), tree)


def _spec(
    mesh: Mesh, axes: Axes, shape: Sequence[int] | None, name: str, *, strict: bool
) -> PartitionSpec:
    for what, value in (("axes", axes), ("shape", () if shape is None else shape)):
        require_is(f"{what} of {name}", value, tuple, list)
    for size in shape or ():
        require_number(f"shape of {name}", size, least=0, whole=True)
    if shape is not None and len(axes) != len(shape):
        raise InputError(
            f"axes of {name}", got=tuple(axes), expected=f"one for each dimension of {tuple(shape)}"
        )
    parts: list[str | tuple[str, ...] | None] = []
    taken: set[str] = set()
    for i, axis in enumerate(axes):
        rule = Rule() if axis is None else _rule(axis)
        over = tuple(a for a in rule.mesh_axes if a in mesh.shape and a not in taken)
        count = math.prod(mesh.shape[a] for a in over)
        if shape is None:
            split = rule.required
        else:
            split = shape[i] % count == 0
            if not split and rule.required and strict:
                raise _undivided(name, str(axis), shape[i], over, count)
        over = over if split else ()
        taken.update(over)
        # JAX tells ("data",) from "data" when it compares layouts.
        parts.append(over[0] if len(over) == 1 else over or None)
    return PartitionSpec(*parts)


def _rule(axis: str) -> Rule:
    if not isinstance(axis, str) or axis not in RULES:
        raise ConfigError("logical axis", got=repr(axis), expected=f"one of {', '.join(RULES)}")
    return RULES[axis]


def _undivided(
    name: str, axis: str, size: int, mesh_axes: tuple[str, ...], parts: int
) -> MeshError:
    fitting = [str(n) for n in range(1, min(size, 4 * parts) + 1) if size % n == 0]
    over = "*".join(mesh_axes)
    return MeshError(
        f"{name}, axis {axis!r} of size {size}",
        got=f"a mesh with {over}={parts}",
        expected=f"a size that divides {size}",
        mend=f"Use {over}={' or '.join(fitting)}.",
    )
