"""Lists of active features against dense arrays and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import TranscoderConfig, init
from hagd_jax.transcoders.kernels import dense as features
from hagd_jax.transcoders.kernels import native, products, sparse
from hagd_jax.transcoders.training import losses
from hagd_jax.transcoders.training.losses import LossConfig

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler")
MESHES = [None, "model=8", "replica=2,data=2,model=2"]


def example(window=1, n=16, k=4, seed=0):
    config = TranscoderConfig(n_layers=3, d_model=8, n_features=64, k=k, window=window)
    keys = jax.random.split(jax.random.key(seed), 5)
    params = init(config, keys[0]).params
    params["W_dec"] = jax.random.normal(keys[1], params["W_dec"].shape)
    params["b_enc"] = 0.1 * jax.random.normal(keys[2], params["b_enc"].shape)
    params["b_dec"] = jax.random.normal(keys[3], params["b_dec"].shape)
    return config, params, jax.random.normal(keys[4], (3, n, 8))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("window", [0, 2])
def test_features_and_reconstructions_are_the_dense_ones(mesh, window):
    config, params, x = example(window)
    mesh = make_mesh(mesh)
    active = jax.jit(lambda p, x: sparse.encode(p, x, config, mesh))(params, x)
    dense = features.encode(params, x, config)
    # The same products and the same choice; only the order of summation may differ.
    np.testing.assert_allclose(active.dense(64), dense, atol=1e-6)
    assert (np.asarray(dense) > 0).sum(-1).min() == 4
    got = jax.jit(lambda p, a: sparse.decode(p, a, config, mesh))(params, active)
    np.testing.assert_allclose(got, features.decode(params, dense, None, config), atol=1e-5)
    counted = jax.jit(lambda a: sparse.count(a, 64, mesh))(active)
    np.testing.assert_array_equal(counted, (np.asarray(dense) > 0).sum(1))


@pytest.mark.parametrize(
    ("loss", "length", "meshes"),
    [
        (LossConfig(dead=0, jacobian=0), 1, MESHES[:1]),
        (LossConfig(dead=0.5, jacobian=1.0), 1, MESHES[2:]),
        (LossConfig(dead=0.5, jacobian=1.0, jacobian_every=4), 8, MESHES[:2]),
        (LossConfig(dead=0.5, jacobian=1.0, prefixes=(8, 40)), 1, MESHES),
    ],
)
def test_loss_and_gradients_are_the_dense_ones(loss, length, meshes, monkeypatch):
    """On one device the dense way says what every mesh must."""
    config, params, x = example()
    y = jax.random.normal(jax.random.key(7), x.shape)
    weight = jnp.ones(16).at[3].set(0).reshape(-1, length)
    dead = jnp.zeros((3, 64), bool).at[:, ::5].set(True)
    v = losses.some(x, length=length, every=loss.jacobian_every)
    v = jax.random.normal(jax.random.key(8), (2, *v.shape))
    directions = (v[0], v[1]) if loss.jacobian else None

    def run(by_rows, mesh):
        monkeypatch.setattr(losses, "by_rows", lambda *_: by_rows)

        def value(params, x):
            observed = losses.Observed(x, y, weight, directions)
            found = losses.terms(params, observed, dead, config=config, loss=loss, mesh=mesh)
            return found.loss, found

        return jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(params, x)

    want, found = run(False, None)
    for mesh in map(make_mesh, meshes):
        # Sums of some hundred float32 terms of order one.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), run(True, mesh), (want, found)
        )
    assert all(float(jnp.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(want))


@pytest.mark.parametrize("mesh", [None, "data=2,model=4"])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_products_against_numpy(mesh, window):
    """The three products that are each other's derivatives, in float64, over all edges."""
    config = TranscoderConfig(n_layers=3, d_model=6, n_features=32, k=3, window=window)
    mesh, edges = make_mesh(mesh), products.edge_list(config)
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(len(edges.senders), 32, 6)), rng.normal(size=(3, 8, 6))
    shards = 1 if mesh is None else 4
    # Each device's part of a list holds features of that device.
    part = rng.integers(0, 32 // shards, (3, 8, shards, 3))
    indices = (part + (32 // shards) * np.arange(shards)[:, None]).reshape(3, 8, -1)
    values = rng.normal(size=indices.shape)
    index = jnp.asarray(indices, jnp.int32)
    args = [jnp.asarray(a, jnp.float32) for a in (values, weight, x)]
    combined, dotted = np.zeros_like(x), np.zeros_like(values)
    for e, (s, r) in enumerate(zip(*edges, strict=True)):
        combined[r] += np.einsum("nk,nkd->nd", values[s], weight[e][indices[s]])
        dotted[s] += np.einsum("nd,nkd->nk", x[r], weight[e][indices[s]])
    got = products.combine(args[0], index, args[1], edges, mesh)
    np.testing.assert_allclose(got, combined, atol=1e-5)
    got = products.dot(args[2], index, args[1], edges, mesh)
    np.testing.assert_allclose(got, dotted, atol=1e-5)

    def value(values, x, weight):
        combined = products.combine(values, index, weight, edges, mesh)
        return jnp.sum(jnp.sin(combined)) + jnp.sum(
            jnp.cos(products.dot(x, index, weight, edges, mesh))
        )

    got = jax.grad(value, argnums=(0, 1, 2))(args[0], args[2], args[1])
    outer, inner = np.cos(combined), -np.sin(dotted)
    want = np.zeros_like(values), np.zeros_like(x), np.zeros_like(weight)
    for e, (s, r) in enumerate(zip(*edges, strict=True)):
        want[0][s] += np.einsum("nd,nkd->nk", outer[r], weight[e][indices[s]])
        want[1][r] += np.einsum("nk,nkd->nd", inner[s], weight[e][indices[s]])
        both = values[s][..., None] * outer[r][:, None] + inner[s][..., None] * x[r][:, None]
        np.add.at(want[2][e], indices[s], both)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@settings(max_examples=60)
@given(
    pre=hnp.arrays(
        np.float32,
        # Few shapes, each of which is a program: less and more than a vector's length.
        st.sampled_from([(1, 1), (5, 7), (3, 150)]),
        # Few different values, so that ties are common.
        elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 1e-30, 3.4e38]),
    ),
    data=st.data(),
)
def test_topk_finds_the_largest_positive_whatever_the_ties(pre, data):
    k = data.draw(st.sampled_from([1, (pre.shape[1] + 1) // 2, pre.shape[1]]))
    values, indices = sparse.topk(jnp.asarray(pre), k, None)
    got = sparse.Active(values, indices).dense(pre.shape[1])
    order = np.argsort(-np.maximum(pre, 0), axis=1, kind="stable")[:, :k]
    want = np.zeros_like(pre)
    np.put_along_axis(want, order, np.take_along_axis(np.maximum(pre, 0), order, 1), 1)
    np.testing.assert_array_equal(got, want)


def test_native_topk_of_many_rows_is_that_of_xla():
    # Rows of very different scales: the last row's threshold is a bad guess for the next.
    scale = 10.0 ** jax.random.uniform(jax.random.key(1), (300, 1), minval=-6, maxval=6)
    pre = jax.random.normal(jax.random.key(0), (300, 1000)) * scale
    values, indices = sparse.topk(pre, 32, None)
    want, places = jax.lax.top_k(jax.nn.relu(pre), 32)
    np.testing.assert_array_equal(np.sort(values), np.sort(want))
    np.testing.assert_array_equal(indices, np.sort(places))


def test_nan_does_not_hide():
    config, params, x = example()
    x = x.at[1, 3, 0].set(jnp.nan)
    weight, dead = jnp.ones((16, 1)), jnp.zeros((3, 64), bool)
    terms = jax.jit(functools.partial(losses.terms, config=config, loss=LossConfig()))
    found = terms(params, losses.Observed(x, x, weight), dead)
    assert np.isfinite(found.fvu).tolist() == [True, False, True]
