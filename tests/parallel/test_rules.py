"""Layout rules: what is split, what may stay whole, what is an error."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from hagd_jax.errors import ConfigError, InputError, MeshError
from hagd_jax.parallel import RULES, batch_parts, constrain, make_mesh, sharding


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    made = make_mesh("data=2,model=4")
    assert made is not None
    return made


def test_weights_lie_over_both_axes(mesh: Mesh):
    spec = sharding(mesh, ("layers", "embed", "heads", "head_dim"), (3, 16, 8, 4)).spec
    assert spec == P(None, "data", "model", None)
    assert sharding(mesh, ("layers", "mlp", "embed"), (3, 8, 16)).spec == P(None, "model", "data")


def test_a_mesh_holds_one_copy_of_a_weight(mesh: Mesh):
    weight = jax.device_put(np.ones((16, 32), np.float32), sharding(mesh, ("embed", "mlp")))
    held = sum(shard.data.nbytes for shard in weight.addressable_shards)
    assert held == weight.nbytes


def test_replicas_repeat_the_weights_and_share_the_batch():
    mesh = make_mesh("replica=2,data=2,model=2")
    assert mesh is not None
    weight = jax.device_put(np.ones((16, 32), np.float32), sharding(mesh, ("embed", "mlp")))
    assert weight.sharding.spec == P("data", "model")
    assert sum(shard.data.nbytes for shard in weight.addressable_shards) == 2 * weight.nbytes
    assert sharding(mesh, ("batch", None), (8, 3)).spec == P(("replica", "data"), None)
    assert sharding(make_mesh("replica=4"), ("batch", "heads"), (8, 3)).spec == P("replica", None)
    assert (batch_parts(mesh), batch_parts(make_mesh("model=8")), batch_parts(None)) == (4, 1, 1)


def test_axes_absent_from_the_mesh_are_whole():
    mesh = make_mesh("model=4")
    assert mesh is not None
    assert sharding(mesh, ("embed", "mlp"), (7, 8)).spec == P(None, "model")


@pytest.mark.parametrize(("axis", "size"), [("vocab", 50257), ("kv_heads", 2), ("kv_heads", 1)])
def test_some_axes_fall_back_to_whole(mesh: Mesh, axis: str, size: int):
    assert sharding(mesh, (axis, "embed"), (size, 16)).spec == P(None, "data")
    assert sharding(mesh, (axis, "embed"), (8, 16)).spec == P("model", "data")


def test_an_undivided_axis_is_named_with_what_would_divide(mesh: Mesh):
    with pytest.raises(MeshError, match=r"blocks/q, axis 'heads' of size 9.*model=4.*1 or 3 or 9"):
        sharding(mesh, ("embed", "heads"), (16, 9), name="blocks/q")
    with pytest.raises(MeshError, match=r"axis 'embed' of size 7: got a mesh with data=2"):
        sharding(mesh, ("embed", "heads"), (7, 8))


def test_misspelt_axes_and_wrong_ranks_are_refused(mesh: Mesh):
    with pytest.raises(ConfigError, match=r"'head'.*heads"):
        sharding(mesh, ("head",), (8,))
    with pytest.raises(InputError, match="one for each dimension"):
        sharding(mesh, ("heads",), (8, 2))
    with pytest.raises(InputError, match="one for each dimension"):
        constrain(jnp.ones((2, 2)), ("batch",), mesh)


@given(
    st.lists(st.tuples(st.sampled_from([*RULES, None]), st.integers(1, 12)), min_size=1, max_size=5)
)
def test_every_spec_can_be_placed(dims: list[tuple[str | None, int]]):
    """Brute force over the table: a mesh axis is used once, divides, or there is an error."""
    mesh = make_mesh("data=2,model=4")
    assert mesh is not None
    axes, shape = [axis for axis, _ in dims], [size for _, size in dims]
    try:
        placed = sharding(mesh, axes, shape)
    except MeshError:
        rules = [RULES[axis] for axis in axes if axis]
        assert any(rule.required and rule.mesh_axes for rule in rules)
        return
    used = [part for part in placed.spec if part is not None]
    assert len(used) == len(set(used))
    for part, axis, size in zip(placed.spec, axes, shape, strict=True):
        if part is not None:
            assert axis is not None
            assert part in RULES[axis].mesh_axes
            assert size % mesh.shape[part] == 0
    assert np.prod(placed.shard_shape(tuple(shape))) * mesh.size >= np.prod(shape)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 5), (3, 8, 4), (4, 6, 8)])
def test_constrain_keeps_values_of_any_size(mesh: Mesh, shape: tuple[int, ...]):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    for axes in (("batch", "heads", "mlp"), ("batch", None, "trace_embed")):
        np.testing.assert_array_equal(constrain(jnp.asarray(x), axes, mesh), x)


def test_constrain_is_the_identity_without_a_mesh():
    x = jnp.ones(3)
    assert constrain(x, ("no such axis",), None) is x


def test_constrain_lays_out_inside_jit_and_under_vmap(mesh: Mesh):
    x = jnp.arange(4 * 8 * 6.0).reshape(4, 8, 6)

    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        return constrain(jnp.sin(x), ("batch", "mlp", "act_embed"), mesh)

    assert run(x).sharding.spec == P("data", "model")
    odd = run(x[:3])
    assert odd.sharding.is_equivalent_to(sharding(mesh, (None, "mlp", None), odd.shape), 3)
    rows = jax.vmap(lambda row: constrain(row, ("mlp", "act_embed"), mesh))(x)
    np.testing.assert_array_equal(rows, np.arange(4 * 8 * 6.0).reshape(4, 8, 6))
