"""Training: normalisation, the step, accumulation, devices, the guard, every activation."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hagd_jax.errors import ConfigError
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import (
    TrainConfig,
    TrainingError,
    init,
    train,
    training,
)
from hagd_jax.transcoders.training import optimizer
from hagd_jax.transcoders.training.losses import LossConfig, Observed, terms
from hagd_jax.transcoders.training.normalise import Moments, Normalisation
from tests.transcoders.training.small import CONFIG, TRAIN, make_corpus, make_model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def corpus(model):
    return make_corpus(model)


def test_the_step_is_adam_on_the_gradient_of_the_loss(model, corpus):
    """One step against the formulas, written out for one layer's decoder bias and rows."""
    config = TRAIN.transcoder(CONFIG)
    tokens, weight = map(jnp.asarray, next(corpus.batches(8)))
    weight = weight.at[2, 3].set(0)
    sums = training.moments(model, tokens, weight, config=config)
    stats = sums.normalisation()
    _, y = training.activations(model, tokens, config)
    flat = np.asarray(weight, np.float64).ravel()
    mean = (np.asarray(y, np.float64) * flat[:, None]).sum(1) / flat.sum()
    spread = np.asarray(y, np.float64) - mean[:, None]
    scale = np.sqrt((spread**2 * flat[:, None]).sum((1, 2)) / flat.sum() / 16)
    np.testing.assert_allclose(stats.out_mean, mean, atol=1e-5)
    np.testing.assert_allclose(stats.out_scale, scale, rtol=1e-5)
    state = training.init_state(config, TRAIN, stats)
    target = np.asarray(stats.outputs(y), np.float64)
    # Decoders are zero: the reconstruction is b_dec = 0, and its gradient −2 times the mean.
    grad = -2 * (target * flat[:, None]).sum(1) / flat.sum() / 16 / 2
    rate = reference(TRAIN, 50)
    before = jax.tree.map(np.asarray, state.params)
    after, metrics = training.step(
        state, model.bare(), tokens, weight, config=config, train=TRAIN, steps=50
    )
    fvu = (target**2 * flat[:, None]).sum((1, 2)) / flat.sum() / 16
    np.testing.assert_allclose(metrics.terms.fvu, fvu, rtol=1e-5)
    np.testing.assert_allclose(fvu, 1, rtol=1e-4)
    np.testing.assert_allclose(metrics.terms.l0, 4)
    assert float(metrics.terms.fired.sum()) == 4 * 2 * flat.sum()
    expected, _ = rate.update({"b": jnp.asarray(grad)}, rate.init({"b": jnp.zeros_like(grad)}))
    moved = np.asarray(after.params["b_dec"]) - before["b_dec"]
    sure = np.abs(grad) > 1e-6  # Adam divides by the gradient's size: rounding decides elsewhere
    np.testing.assert_allclose(moved[sure], expected["b"][sure], rtol=1e-2)
    assert int(after.step) == 1


def test_a_token_that_is_hundreds_of_times_as_long_counts_like_ten():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1, 400, 16))
    scales = jax.jit(lambda x, y: Moments.of(x, y, jnp.ones(400)).normalisation())
    typical = scales(x, y)
    y[0, 7] *= 300
    stats = scales(x, y)
    # One token in 400 adds ten times the expectation, divided by 400; in float64, to the end.
    size = (y[0] ** 2).sum(-1)
    expected = size.mean()
    for _ in range(3):
        expected = np.minimum(size, 10 * expected).mean()
    assert expected < 1.1 * np.delete(size, 7).mean()
    np.testing.assert_allclose(stats.out_scale, np.sqrt(expected / 16), rtol=2e-3)
    np.testing.assert_allclose(stats.out_scale, typical.out_scale, rtol=0.05)
    np.testing.assert_allclose(stats.in_scale, typical.in_scale, rtol=1e-6)
    # An untrained transcoder writes nothing: what is left is what it should have written.
    config = TRAIN.transcoder(CONFIG).replace(n_layers=1)
    params = init(config, jax.random.key(0)).params
    error = (y[0] ** 2).mean(-1)
    for most in (10.0, 1e9):
        loss = LossConfig(jacobian=0, most=most)
        measured = jax.jit(functools.partial(terms, config=config, loss=loss))
        found = measured(params, Observed(*map(jnp.float32, (x, y)), jnp.ones((4, 100))), None)
        np.testing.assert_allclose(found.fvu, [np.minimum(error, most).mean()], rtol=1e-5)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_first_features_are_trained_to_reconstruct_alone(activation):
    """The added loss is the error of a transcoder whose later decoders are zero."""
    config = TRAIN.transcoder(CONFIG).replace(
        activation=activation, k=TRAIN.k * (activation == "topk")
    )
    params = init(config, jax.random.key(0)).params
    params["W_dec"] = jax.random.normal(jax.random.key(1), params["W_dec"].shape)
    x, y = jax.random.normal(jax.random.key(2), (2, config.n_layers, 32, config.d_model))
    observed = Observed(x, y, jnp.ones((4, 8)))

    def found(params, prefixes=()):
        loss = LossConfig(jacobian=0, dead=0, prefixes=prefixes)
        return jax.jit(functools.partial(terms, config=config, loss=loss))(params, observed, None)

    def first(count):
        return found(params | {"W_dec": params["W_dec"].at[:, count:].set(0)}).loss

    whole, nested = found(params), found(params, (2, 5))
    np.testing.assert_allclose(nested.parts["nested"], first(2) + first(5), rtol=1e-5)
    np.testing.assert_allclose(nested.loss, whole.loss + first(2) + first(5), rtol=1e-5)
    np.testing.assert_allclose(nested.fvu, whole.fvu, rtol=1e-6)
    assert "nested" not in whole.parts


def test_prefixes_must_be_parts_of_the_dictionary():
    count = TRAIN.transcoder(CONFIG).n_features
    for prefixes in ((4, 2), (2, 2), (0,), (1.5,)):
        with pytest.raises(ConfigError, match="prefixes"):
            LossConfig(prefixes=prefixes)
    with pytest.raises(ConfigError, match=f"loss.prefixes: got {count}; expected fewer"):
        dataclasses.replace(TRAIN, loss=LossConfig(prefixes=(count,))).transcoder(CONFIG)


def test_parts_of_a_batch_add_up_to_the_whole(model, corpus):
    config = TRAIN.transcoder(CONFIG)
    tokens, weight = map(jnp.asarray, next(corpus.batches(8)))
    weight = weight.at[1].set(0)  # the parts have unequal numbers of tokens
    results = []
    for parts in (1, 4):
        # The Jacobian's directions are random, others for each part.
        how = dataclasses.replace(TRAIN, accumulate=parts, loss=LossConfig(jacobian=0))
        state = training.init_state(config, how, Normalisation.identity(config))
        results.append(training.step(state, model.bare(), tokens, weight, config=config,
                                     train=how, steps=50)[1])  # fmt: skip
    np.testing.assert_allclose(results[0].norm, results[1].norm, rtol=1e-5)
    np.testing.assert_allclose(results[0].terms.fvu, results[1].terms.fvu, rtol=1e-5)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_devices_do_not_matter(activation):
    """Fifteen steps on 2 x 4 devices, as on one."""
    loss = LossConfig(dead_after=256, sparsity=1e-3 if activation == "relu" else 0.0)
    config = dataclasses.replace(
        TRAIN, activation=activation, window=1, loss=loss, tokens=15 * 64, learning_rate=1e-2
    )
    curves = []
    for mesh in (None, make_mesh("data=2,model=4")):
        model, losses = make_model(mesh), []
        train(model, make_corpus(model), config, on_metrics=losses.append)
        curves.append([float(m.terms.loss) for m in losses])
    assert len(curves[0]) == 15
    assert curves[0][-1] < 0.9 * curves[0][0]
    # Sums in another order, through fifteen updates.
    np.testing.assert_allclose(*curves, atol=1e-5)


def test_nan_names_the_layer_and_keeps_the_state(corpus):
    model = make_model()
    config = TRAIN.transcoder(CONFIG)
    state = training.init_state(config, TRAIN, Normalisation.identity(config))
    before = jax.tree.map(np.array, state.params)
    broken = jax.tree.map(lambda x: x, model.params)
    broken["blocks"]["mlp"]["out"]["kernel"] = (
        model.params["blocks"]["mlp"]["out"]["kernel"].at[1, 0, 0].set(jnp.nan)
    )
    bad = model.replace(params=broken).bare()
    tokens, weight = map(jnp.asarray, next(corpus.batches(8)))
    after, metrics = training.step(state, bad, tokens, weight, config=config, train=TRAIN, steps=50)
    assert not bool(metrics.finite)
    assert np.isfinite(metrics.terms.fvu).tolist() == [True, False]
    chex.assert_trees_all_equal(after.params, before)
    with pytest.raises(TrainingError, match="layer 1"):
        train(bad, corpus, TRAIN)


def test_one_program_for_all_steps(model, corpus):
    train(model, corpus, TRAIN)
    size = training.step._cache_size()
    train(model, corpus, TRAIN)
    assert training.step._cache_size() == size


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 65}, "at most n_features = 64"),
        ({"window": 2}, "0 to 1 in a model of 2 layers"),
        ({"features": "many"}, "multiple like"),
        ({"features": "-3"}, "multiple like"),
        ({"batch_size": 0}, "1 or more"),
        ({"dtype": "float99"}, "a floating dtype"),
        ({"dtype": "int8"}, "float32, bfloat16"),
        ({"batch_size": 10_000}, "sequences there are"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan; expected a number above 0"),
        ({"warmup": 0.9, "decay": 0.9}, "at most 1"),
        ({"accumulate": 3}, "divisor of 8"),
        ({"seed": -1}, "0 or more"),
        ({"activation": "softmax"}, "one of"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(model, corpus, changes, words):
    with pytest.raises(ConfigError, match=words):
        train(model, corpus, dataclasses.replace(TRAIN, **changes))


@pytest.mark.parametrize("changes", [{"jacobian_every": 0}, {"jacobian": -1}, {"dead": np.nan}])
def test_impossible_losses_are_refused(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}.* or more"):
        LossConfig(**changes)


def test_a_mesh_that_does_not_divide_is_refused():
    model = make_model(make_mesh("data=8"))
    with pytest.raises(ConfigError, match="a multiple of 8"):
        train(model, make_corpus(model), dataclasses.replace(TRAIN, batch_size=12))


def reference(config, steps):
    """The optimizer as optax composes it."""
    rate = optimizer.schedule(config, steps)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))


def test_updates_are_those_of_optax():
    """Clipped or not, through warmup and decay; a step that is not finite is left out."""
    config = TrainConfig(learning_rate=0.1, clip=1.0)
    params = {"a": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.ones(4)}
    tx = reference(config, 12)
    wanted, theirs = params, tx.init(params)
    got, ours = params, optimizer.init(params)
    move = jax.jit(functools.partial(optimizer.update, train=config, steps=12))
    follow = jax.jit(tx.update)
    for i in range(12):
        keys = jax.random.split(jax.random.key(i))
        grads = {"a": 3.0 ** (i - 6) * jax.random.normal(keys[0], (2, 3)), "b": jnp.full(4, 0.01)}
        bad = {"a": grads["a"].at[0, 0].set(jnp.nan), "b": grads["b"]}
        if i in (0, 5):
            before = got, ours
            got, ours = move(got, ours, bad, jnp.bool_(False))
            chex.assert_trees_all_equal((got, ours), before)
        got, ours = move(got, ours, grads, jnp.bool_(True))
        updates, theirs = follow(grads, theirs, wanted)
        wanted = optax.apply_updates(wanted, updates)
        # The same arithmetic in another order.
        chex.assert_trees_all_close(got, wanted, rtol=1e-5)
    assert float(jnp.abs(got["a"] - params["a"]).mean()) > 0.1


def test_schedule_rises_stays_and_falls():
    config = TrainConfig(learning_rate=1.0, warmup=0.1, decay=0.2, clip=1e9)
    rate = reference(config, 100)
    params = {"w": jnp.ones(())}
    state, moved = rate.init(params), []
    follow = jax.jit(rate.update)
    for _ in range(100):
        updates, state = follow({"w": jnp.ones(())}, state, params)
        moved.append(-float(optax.tree_utils.tree_get(updates, "w")))
    # Adam's step for a constant gradient is the rate itself.
    np.testing.assert_allclose(moved[:10], np.linspace(0.1, 1.0, 10), atol=1e-4)
    np.testing.assert_allclose(moved[10:80], 1, atol=1e-4)
    np.testing.assert_allclose(moved[80:], np.linspace(1, 0.05, 20), atol=1e-3)
