"""Dictionaries: the neuron basis, and a transcoder's features."""

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import forward
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import digest, encode, transcoder
from hagd_jax.units import Nodes, Space, as_dictionary, mask_nodes, neurons
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import TOKENS
from tests.transcoders.basis import neuron_basis
from tests.transcoders.test_replace import BASE, CASES, DEEP, made

RELU = DEEP.replace(activation="relu", gated_mlp=False, mlp_bias=True)


def trace_of(model, nodes, tokens=TOKENS):
    return nodes.values(forward(model, tokens, capture=nodes.capture).trace)


def test_neurons_are_the_default_and_what_they_always_were():
    model = noisy(DEEP)
    nodes = neurons(model)
    assert nodes == as_dictionary(model) == as_dictionary(model, nodes)
    assert (nodes.space, nodes.label) == (Space(4, 4, 32), "neurons")
    other = trace_of(model, nodes, TOKENS[:, ::-1])
    mask = Nodes(jnp.asarray(np.eye(4)), jnp.asarray(np.eye(4, 32)))
    found = forward(model, TOKENS, nodes.mask(mask, other)).logits
    by_hand = forward(model, TOKENS, mask_nodes(mask, other)).logits
    np.testing.assert_array_equal(found, by_hand)
    assert np.abs(np.asarray(found - forward(model, TOKENS).logits)).max() > 0.1


def test_features_are_encoded_from_what_the_transcoder_reads():
    model, trained = noisy(DEEP), made(CASES["jump"])
    assert trained.config.reads == "resid_mid"
    nodes = as_dictionary(model, trained)
    assert nodes.space == Space(4, 4, 24)
    values = trace_of(model, nodes)
    read = forward(model, TOKENS, capture=[trained.config.reads]).trace[trained.config.reads]
    np.testing.assert_array_equal(values["feature"], encode(trained, read))
    assert values["head_out"].shape == (4, 4, 5, 4, 4)
    everything = Nodes.full(nodes.space, 1.0)
    other = trace_of(model, nodes, TOKENS[:, ::-1])
    kept = forward(model, TOKENS, nodes.mask(everything, other)).logits
    np.testing.assert_array_equal(kept, forward(model, TOKENS).logits)


def test_a_transcoder_that_is_the_neuron_basis_masks_as_neurons_do():
    model = noisy(RELU)
    both = neurons(model), as_dictionary(model, neuron_basis(model))
    rng = np.random.default_rng(0)
    mask = Nodes(jnp.asarray(rng.random((4, 4))), jnp.asarray(rng.random((4, 4, 32))))
    mask = mask.replace(heads=jnp.broadcast_to(mask.heads[:, None], (4, 4, 4)))
    found = []
    for nodes in both:
        other = trace_of(model, nodes, TOKENS[:, ::-1])
        found.append(np.asarray(forward(model, TOKENS, nodes.mask(mask, other)).logits))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert np.abs(found[0] - np.asarray(forward(model, TOKENS).logits)).max() > 0.1


def test_a_transcoder_is_laid_out_on_the_models_mesh():
    one, trained = noisy(DEEP), made(CASES["full"])
    mesh = make_mesh("data=4,model=2")
    many = on_mesh(one, mesh)
    nodes = as_dictionary(many, trained)
    assert nodes.transcoder.mesh == mesh
    layout = transcoder.shardings(trained.config, mesh)
    assert {n: x.sharding for n, x in nodes.transcoder.params.items()} == layout
    assert nodes.label == as_dictionary(one, trained).label
    mask = Nodes(jnp.asarray(np.eye(4)), jnp.asarray(np.eye(4, 24)))
    logits = [
        forward(m, TOKENS, d.mask(mask, trace_of(m, d, TOKENS[:, ::-1]))).logits
        for m, d in [(one, as_dictionary(one, trained)), (many, nodes)]
    ]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def test_digests_tell_transcoders_apart():
    first = made(BASE)
    moved = {
        name: first.replace(params=first.params | {name: value[::-1]})
        for name, value in first.params.items()
    }
    nudged = first.params["W_dec"].at[3, 23, 15].multiply(1 + 1e-6)
    others = [
        *moved.values(),
        made(BASE, seed=4),
        first.replace(params=first.params | {"W_dec": nudged}),
        first.replace(config=BASE.replace(k=4)),
        first.replace(config=BASE.replace(activation="relu", k=0)),
    ]
    found = {digest(first), *map(digest, others)}
    assert len(found) == 1 + len(others)
    assert all(len(text) == 8 and int(text, 16) >= 0 for text in found)
    # Where it lies and what computes it is no part of it, nor is a head that predicts features.
    same = first.replace(name="other", config=BASE.replace(predict=True, dtype="bfloat16"))
    assert digest(same) == digest(first)


def test_what_is_no_dictionary_of_the_model_is_refused():
    model = noisy(DEEP)
    with pytest.raises(InputError, match="d_model 16, as the model has"):
        as_dictionary(model, made(BASE.replace(d_model=12)))
    with pytest.raises(InputError, match="another configuration"):
        as_dictionary(model, neurons(noisy(RELU)))
    with pytest.raises(InputError, match="got str; expected a Transcoder"):
        as_dictionary(model, "neurons")
    with pytest.raises(InputError, match="got \\['neuron'\\]; expected 'head_out'"):
        neurons(model).values({"neuron": jnp.zeros((4, 1, 1, 32))})


def test_descriptions():
    model = noisy(DEEP)
    assert neurons(model).about == "32 a layer"
    window = as_dictionary(model, made(CASES["window"])).about
    assert window == "24 topk features a layer with 5 active, to their own and 2 above"
    skip = as_dictionary(model, made(CASES["skip"])).about
    assert skip == "24 relu features a layer, to their own and 1 above, skip connection"
