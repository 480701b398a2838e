"""A device mesh from a short description such as `"data=2,model=4"`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from hagd_jax.errors import MeshError, require_is, shown

AXES = ("replica", "data", "model")
_FORM = f"name=size, comma-separated, names among {', '.join(AXES)}, e.g. data=2,model=4"


def parse_mesh(description: str) -> dict[str, int]:
    """Read `"data=2,model=4"` into sizes by axis, in the order written.

    Args:
        description: Axes with positive sizes; one size may be -1, "whatever is left".

    Returns:
        Size by axis name; -1 is kept as it is.

    Raises:
        MeshError: For anything else.

    Example:
        >>> parse_mesh("data=2, model=-1")
        {'data': 2, 'model': -1}
    """
    if not isinstance(description, str):
        raise _malformed(description, "this is no text")
    sizes: dict[str, int] = {}
    for part in description.split(","):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if not equals or name not in AXES:
            raise _malformed(description, f"{part.strip()!r} is not one of these")
        if name in sizes:
            raise _malformed(description, f"{name!r} stands twice")
        if not re.fullmatch("-1|[1-9][0-9]{0,8}", size):
            raise _malformed(description, f"{name} needs a positive whole number, or -1")
        sizes[name] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise _malformed(description, "only one size may be -1")
    return sizes


def make_mesh(description: str | None, devices: Sequence[Any] | None = None) -> Mesh | None:
    """Make the mesh that a description asks for, over the available devices.

    All axes are `Auto`: the compiler propagates shardings, which Linen layers and segment sums
    need (they refuse `Explicit` axes, `jax.make_mesh`'s default).

    Args:
        description: For example `"data=2,model=4"`; empty or None asks for no mesh. A mesh may
            use fewer devices than there are, in one process; one size may be -1.
        devices: Devices to build it from; default all of `jax.devices()`, of all processes.

    Returns:
        The mesh, or None when none was asked for.

    Raises:
        MeshError: If the description is malformed or asks for devices that are not here.

    Example:
        >>> dict(make_mesh("data=1,model=1").shape)
        {'data': 1, 'model': 1}
    """
    if description is None or (isinstance(description, str) and not description.strip()):
        return None
    sizes = parse_mesh(description)
    here = list(jax.devices()) if devices is None else devices
    if not isinstance(here, list | tuple) or not here or not all(map(_is_device, here)):
        raise MeshError(
            "devices", got=shown(devices), expected="a list of devices, such as jax.devices()"
        )
    shape = _fill(description, sizes, len(here))
    used = here[: math.prod(shape)]
    if len({device.process_index for device in here}) > 1 and len(used) < len(here):
        # Otherwise some process would own no part of any array, and hang at the first save.
        raise _unfit(description, sizes, len(here), f"all {len(here)} devices of all processes")
    # Splitting lets 4x4x4 chips serve as 8x8; it is what `jax.make_mesh` does on v5e only.
    grid = mesh_utils.create_device_mesh(shape, used, allow_split_physical_axes=True)
    return Mesh(np.asarray(grid), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def describe(mesh: Mesh | None) -> str:
    """Return the description that makes this mesh again; empty for None.

    Example:
        >>> describe(make_mesh("model=1"))
        'model=1'
    """
    if mesh is None:
        return ""
    require_is("mesh", mesh, Mesh)
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


def _fill(description: str, sizes: dict[str, int], n_devices: int) -> tuple[int, ...]:
    """Sizes with -1 replaced by what is left, checked against the number of devices."""
    known = math.prod(size for size in sizes.values() if size > 0)
    if -1 in sizes.values() and n_devices % known:
        raise _unfit(description, sizes, n_devices, f"fixed sizes that divide {n_devices} devices")
    if known > n_devices:
        raise _unfit(description, sizes, n_devices, f"at most {n_devices} devices")
    return tuple(n_devices // known if size == -1 else size for size in sizes.values())


def _unfit(description: str, sizes: dict[str, int], n_devices: int, expected: str) -> MeshError:
    return MeshError(
        "mesh",
        got=f"{description!r} with {n_devices} device{'s' * (n_devices != 1)} here",
        expected=expected,
        mend=f"These would fit: {'; '.join(_fitting(tuple(sizes), n_devices))}.",
    )


def _fitting(names: tuple[str, ...], n_devices: int, most: int = 4) -> list[str]:
    """A few descriptions with these axes that use every device."""
    if len(names) == 1:
        return [f"{names[0]}={n_devices}"]
    first, *between, last = names
    whole = "".join(f",{name}=1" for name in between)
    divisors = [size for size in range(1, n_devices + 1) if n_devices % size == 0]
    middle = len(divisors) // 2
    squarest = sorted(divisors, key=lambda size: abs(divisors.index(size) - middle))[:most]
    return [f"{first}={size}{whole},{last}={n_devices // size}" for size in sorted(squarest)]


def _is_device(value: Any) -> bool:
    return hasattr(value, "process_index") and hasattr(value, "platform")


def _malformed(description: Any, why: str) -> MeshError:
    return MeshError("mesh", got=f"{description!r} ({why})", expected=_FORM)
