"""Mesh descriptions: what is read, what is refused."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import jax
import pytest
from hypothesis import example, given
from jax.sharding import AxisType

from hagd_jax.errors import MeshError
from hagd_jax.parallel import describe, make_mesh, parse_mesh


@pytest.mark.parametrize("description", [None, "", "  "])
def test_nothing_asked_for_is_no_mesh(description: str | None):
    assert make_mesh(description) is None
    assert describe(None) == ""


@given(st.permutations(["data", "model"]), st.integers(0, 3), st.integers(0, 3))
def test_sizes_and_order_are_kept(names: list[str], i: int, j: int):
    sizes = (2**i, 2 ** min(j, 3 - i))
    text = ",".join(f" {name} = {size} " for name, size in zip(names, sizes, strict=True))
    mesh = make_mesh(text)
    assert mesh is not None
    assert dict(mesh.shape) == dict(zip(names, sizes, strict=True))
    assert mesh.axis_names == tuple(names)
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert len({device.id for device in mesh.devices.flat}) == math.prod(sizes)
    assert make_mesh(describe(mesh)) == mesh


@pytest.mark.parametrize(
    "text", ["data=-1", "data=-1,model=1", "model=2,data=-1", "data=8,model=-1"]
)
def test_minus_one_takes_what_is_left(text: str):
    mesh = make_mesh(text)
    assert mesh is not None
    assert mesh.size == 8


@given(st.text(alphabet="datmoel=,-0123456789 ٣_+.", max_size=24))
@example("data=2,data=4")
@example("data=٣")
@example("data=+2")
@example("data=1_0")
@example("data=" + "9" * 5000)
@example("data=-1,model=-1")
@example("data=0")
@example("data=-2")
@example("data=2,")
@example("data")
@example("expert=2")
def test_any_text_gives_sizes_or_a_typed_error(text: str):
    try:
        sizes = parse_mesh(text)
    except MeshError:
        return
    assert 0 < len(sizes) <= 2
    assert all(size == -1 or size > 0 for size in sizes.values())
    assert ",".join(f"{name}={size}" for name, size in sizes.items()) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data=2,expert=2", "'expert=2' is not one of these"),
        ("data=2,data=2", "stands twice"),
        ("data=two", "positive whole number"),
        ("data=4,model=4", "with 8 devices here.*data=2,model=4"),
        ("data=3,model=-1", "8 devices here.*divide 8"),
        ("model=9", "at most 8 devices.*model=8"),
    ],
)
def test_refusals_say_what_would_fit(text: str, says: str):
    with pytest.raises(MeshError, match=says):
        make_mesh(text)


def test_devices_may_be_given_and_left_over():
    devices = jax.devices()[4:]
    mesh = make_mesh("data=2", devices)
    assert mesh is not None
    assert {device.id for device in mesh.devices.flat} <= {device.id for device in devices}
    with pytest.raises(MeshError, match="with 4 devices here"):
        make_mesh("data=8", devices)
