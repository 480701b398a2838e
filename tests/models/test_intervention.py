"""The protocol: roles, composition, compilation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import struct
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import add, freeze, replace
from hagd_jax.models import (
    SITES,
    Identity,
    Intervention,
    carried,
    chain,
    forward,
    scanned,
    shared,
    static,
)
from hagd_jax.models.intervention import split
from hagd_jax.models.model import _forward
from hagd_jax.units import mask_nodes
from hagd_jax.units.nodes import Nodes, Space
from tests.models.noise import noisy
from tests.models.test_decoder import LLAMA, NEOX, TOKENS


@struct.dataclass
class Recorder(Intervention):
    """Sums what heads write below, and adds it, scaled, to the last block's neurons."""

    gain: jax.Array = scanned()
    shift: jax.Array = shared()
    total: jax.Array = carried()
    power: int = static(default=1)

    def on_head_out(self, value, ctx):
        return value * self.gain, self.replace(total=self.total + value.sum() ** self.power)

    def on_logits(self, value, ctx):
        return value + self.total + self.shift, self


def recorder(scale=1.0, power=1):
    return Recorder(jnp.full((3, 1), scale), jnp.float32(2), jnp.float32(0), power)


def test_scanned_shared_and_carried_fields_arrive():
    model = noisy(LLAMA)
    plain = forward(model, TOKENS, capture=["head_out"])
    out = forward(model, TOKENS, recorder()).logits
    expected = plain.logits + plain.trace["head_out"].sum() + 2
    assert abs(float(plain.trace["head_out"].sum())) > 0.1
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_split_and_join_are_inverse():
    value = chain(recorder(0.5), chain(freeze({"mlp_out": jnp.ones((3, 1, 1, 1))}), recorder()))
    parts = split(value)
    assert parts.skeleton.roles.count("scanned") == 3
    joined = parts.skeleton.join(parts.scanned, parts.shared, parts.carried)
    assert jax.tree.structure(joined) == jax.tree.structure(value)
    for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(value), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.as_users
@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "neox"])
def test_what_changes_nothing_is_exact(config):
    """Identity, masks of ones, an own-trace freeze and a zero vector: bit for bit."""
    model = noisy(config)
    plain = forward(model, TOKENS, capture=SITES)
    ordinary = forward(model, TOKENS).logits
    trace = forward(model, TOKENS, capture=["head_out", "neuron", "attn_pattern", "mlp_out"]).trace
    space = Space(config.n_layers, config.n_heads, config.d_mlp)
    ones = Nodes.full(space, 1.0)
    other = jax.tree.map(lambda x: x + 3.0, dict(trace))
    exact = {
        "identity": Identity(),
        "ones": mask_nodes(ones, other),
        "freeze": freeze(trace),
        "zero vector": add("resid_post", jnp.zeros(config.d_model), layer=1),
        "empty chain": chain(),
    }
    for name, intervention in exact.items():
        found = forward(model, TOKENS, intervention).logits
        np.testing.assert_array_equal(found, ordinary, err_msg=name)
    assert np.abs(plain.logits).max() > 0.1
    assert np.any(
        forward(model, TOKENS, mask_nodes(Nodes.full(space, 0.0), other)).logits != ordinary
    )


def test_order_in_a_chain_matters():
    model = noisy(LLAMA)
    trace = forward(model, TOKENS, capture=["mlp_out"]).trace
    hold, steer = freeze(trace), add("mlp_out", jnp.ones(16), layer=1)
    plain = forward(model, TOKENS).logits
    erased = forward(model, TOKENS, chain(steer, hold)).logits
    moved = forward(model, TOKENS, chain(hold, steer)).logits
    np.testing.assert_array_equal(erased, plain)
    assert np.abs(moved - plain).max() > 1e-2


def test_arrays_do_not_recompile_and_order_does():
    model = noisy(LLAMA)
    one, two = recorder(), add("mlp_out", jnp.ones(16), layer=1)
    forward(model, TOKENS, chain(one, two))
    size = _forward._cache_size()
    for scale in (0.1, 0.2):
        forward(model, TOKENS, chain(recorder(scale), add("mlp_out", jnp.zeros(16), layer=2)))
    assert _forward._cache_size() == size
    forward(model, TOKENS, chain(two, one))
    forward(model, TOKENS, chain(recorder(power=2), two))
    assert _forward._cache_size() == size + 2


def test_a_misspelt_site_fails_when_the_class_is_made():
    with pytest.raises(ConfigError, match="'head_out'"):

        class Broken(Intervention):
            def on_heads_out(self, value, ctx):
                return value, self


@struct.dataclass
class WrongShape(Intervention):
    """Returns a sum where a value is due."""

    def on_mlp_out(self, value, ctx):
        return value.sum(-1), self


@struct.dataclass
class Growing(Intervention):
    """Changes the shape of what it carries."""

    seen: jax.Array = carried()

    def on_mlp_out(self, value, ctx):
        return value, self.replace(seen=jnp.concatenate([self.seen, self.seen]))


@struct.dataclass
class NoRole(Intervention):
    """Forgets to say what its array is."""

    array: jax.Array


@pytest.mark.parametrize(
    ("intervention", "words"),
    [
        (WrongShape(), r"WrongShape.on_mlp_out: .*shape \(4, 5\)"),
        (Growing(jnp.zeros(2)), r"carried field of Growing.*\(4,\)"),
        (NoRole(jnp.zeros(2)), "NoRole.array"),
        (dataclasses.replace(recorder(), gain=jnp.ones((2, 1))), "Recorder.gain.*3 layers"),
        ("freeze", "an Intervention or None"),
    ],
)
def test_broken_interventions_are_named(intervention, words):
    with pytest.raises(InputError, match=words):
        forward(noisy(LLAMA), TOKENS, intervention)


def test_chain_refuses_what_is_no_intervention():
    with pytest.raises(InputError, match="function"):
        chain(lambda x: x)


def test_vmap_over_interventions_equals_a_loop():
    model = noisy(LLAMA)
    vectors = jax.random.normal(jax.random.key(3), (4, 16))
    run = lambda vector: forward(model, TOKENS, replace("mlp_out", vector, layer=1)).logits  # noqa: E731
    together = jax.vmap(run)(vectors)
    assert np.abs(together[0] - together[1]).max() > 1e-2
    for row, vector in zip(together, vectors, strict=True):
        np.testing.assert_allclose(row, run(vector), atol=5e-6)


@struct.dataclass
class ScaleHeads(Intervention):
    factor: jax.Array = scanned()
    wrong: str = static(default="")

    def on_head_out(self, value, ctx):
        if self.wrong == "alone":
            return value
        if self.wrong == "other":
            return value, ctx
        if self.wrong == "shape":
            return value[:, :1], self
        return value * self.factor[:, None], self


@pytest.mark.parametrize("compose", [lambda one: one, lambda one: chain(Identity(), one)])
@pytest.mark.parametrize(
    ("heads", "wrong", "says"),
    [
        (LLAMA.n_heads + 3, "", rf"factor=float32\[{LLAMA.n_heads + 3}\]"),
        (LLAMA.n_heads, "alone", r"returns \(value, self\)"),
        (LLAMA.n_heads, "other", "second result; expected self"),
        (LLAMA.n_heads, "shape", "the site's shape"),
    ],
)
def test_what_a_method_cannot_do_names_it_and_its_site(heads, wrong, says, compose):
    scale = ScaleHeads(jnp.ones((LLAMA.n_layers, heads)), wrong)
    with pytest.raises(InputError, match=rf"^ScaleHeads.on_head_out: got .*{says}"):
        forward(noisy(LLAMA), TOKENS, compose(scale))


def test_a_site_that_was_not_captured_is_named_with_those_that_were():
    trace = forward(noisy(LLAMA), TOKENS, capture=["neuron", "mlp_out"]).trace
    with pytest.raises(InputError, match=r"no site 'neurons'.*mlp_out, neuron. Did you mean 'neu"):
        trace["neurons"]
    with pytest.raises(InputError, match="expected one that was captured: none was"):
        forward(noisy(LLAMA), TOKENS).trace["logits"]
    # Under a transformation it is the mapping that it was, in the order of a dict.
    doubled = jax.jit(lambda own: jax.tree.map(lambda x: 2 * x, own))(trace)
    assert type(doubled) is type(trace)
    assert list(doubled) == ["mlp_out", "neuron"]
    np.testing.assert_array_equal(doubled["neuron"], 2 * np.asarray(trace["neuron"]))
    assert float(abs(trace["neuron"]).max()) > 0
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(trace)[0]]
    assert paths == [path for path, _ in jax.tree_util.tree_flatten_with_path(dict(trace))[0]]
