"""Hand-built two-hop models compute what they say, on every input there is."""

import itertools

import jax
import numpy as np
import pytest

from hagd_jax.errors import ConfigError
from hagd_jax.models import forward
from hagd_jax.testbeds.two_hop import FUNCTIONS, TwoHopConfig, two_hop

SMALL = TwoHopConfig(chains=3, n_layers=3, d_model=16)
PLAIN = {
    "x and y": lambda x, y: x and y,
    "x and not y": lambda x, y: x and not y,
    "y and not x": lambda x, y: y and not x,
    "x xor y": lambda x, y: x != y,
    "x or y": lambda x, y: x or y,
    "x nor y": lambda x, y: not (x or y),
    "x equals y": lambda x, y: x == y,
    "x or not y": lambda x, y: x or not y,
    "y or not x": lambda x, y: y or not x,
    "x nand y": lambda x, y: not (x and y),
}


def test_function_names_say_what_the_tables_do():
    assert PLAIN.keys() == FUNCTIONS.keys()
    for name, table in FUNCTIONS.items():
        assert table == tuple(PLAIN[name](bool(x), bool(y)) for x in (0, 1) for y in (0, 1))


@pytest.mark.parametrize("seed", range(24))
def test_every_input_gives_what_the_functions_say(seed):
    """Brute force: bits read off the embedding, functions in Python, C read off the logits."""
    found = two_hop(seed, SMALL)
    model, n = found.model, SMALL.chains
    everything = np.arange(SMALL.vocab_size)
    out = forward(model, everything[:, None], capture=["resid_mid", "mlp_out"])
    embedded = np.asarray(model.params["embed"]["embedding"], np.float64)
    directions = np.asarray(found.directions, np.float64)
    read = np.einsum("td,nvd->tnv", embedded, directions[:, :3])
    names = list(FUNCTIONS)
    expected = np.zeros((len(everything), n, 2))
    for t, j in itertools.product(everything, range(n)):
        if np.abs(read[t, j]).max() > 0.5:
            a, b, c = read[t, j] > 0
            g, h = (PLAIN[names[i]] for i in np.asarray(found.functions[j]))
            expected[t, j] = g(a, b), h(g(a, b), c)
    logits = np.asarray(out.logits[:, 0, :n])
    np.testing.assert_allclose(logits, expected[..., 1], atol=2e-6)  # exact but for the rotation
    np.testing.assert_array_equal(np.asarray(found.values)[..., 3:], expected)
    assert expected.any((0,)).all()
    for j in range(n):
        first, second = int(found.earlier[j]), int(found.later[j])
        written = np.asarray(out.trace["mlp_out"][:, :, 0], np.float64) @ directions[j, 3:].T
        np.testing.assert_allclose(written[first, :, 0], expected[:, j, 0], atol=2e-6)
        np.testing.assert_allclose(written[second, :, 1], expected[:, j, 1], atol=2e-6)
        written[first, :, 0] = written[second, :, 1] = 0
        assert np.abs(written).max() < 2e-6


def test_inputs_are_all_different_and_as_many_as_there_can_be():
    found = two_hop(0, SMALL)
    assert SMALL.vocab_size == 1 + 3 * 8 + 3 * 64
    inputs = np.asarray(found.values)[..., :3].reshape(SMALL.vocab_size, -1)
    assert len(np.unique(inputs, axis=0)) == SMALL.vocab_size
    present = np.abs(np.asarray(found.values)[..., :3]).min(-1)
    np.testing.assert_array_equal(present, found.present)
    assert present.sum(-1).max() == 2


def test_only_the_second_mlp_reads_the_middle_feature():
    """Flipping B between the layers changes C as h says, and nothing else."""
    found = two_hop(3, SMALL)
    d = np.asarray(found.directions, np.float64)
    flat = d.reshape(-1, d.shape[-1])
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-6)
    into = np.asarray(found.model.params["blocks"]["mlp"]["in"]["kernel"], np.float64)
    for j in range(SMALL.chains):
        heard = np.abs(np.einsum("d,ldm->lm", d[j, 3], into)).max(-1)
        assert heard[int(found.later[j])] > 1.9
        assert np.delete(heard, int(found.later[j])).max() < 1e-6


def test_no_neuron_is_near_its_threshold():
    """Derivatives would depend on rounding there."""
    found = two_hop(4, SMALL)
    x = forward(found.model, np.arange(SMALL.vocab_size)[:, None], capture=["mlp_in"]).trace
    into = found.model.params["blocks"]["mlp"]["in"]
    pre = np.einsum("ltd,ldm->ltm", x["mlp_in"][:, :, 0], into["kernel"]) + into["bias"][:, None]
    used = np.abs(np.asarray(into["kernel"])).max(1) > 0
    assert used.any(-1).any()
    used_pre = pre.transpose(0, 2, 1)[used]
    np.testing.assert_allclose(used_pre[used_pre > 0], 1, atol=2e-6)
    assert used_pre[used_pre <= 0].max() < -1 + 2e-6


def test_seeds_differ_and_repeat_and_models_of_one_size_stack():
    one, again, other = two_hop(1, SMALL), two_hop(1, SMALL), two_hop(2, SMALL)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, again))
    assert np.abs(np.asarray(one.directions) - other.directions).max() > 0.1
    both = jax.tree.map(lambda *x: np.stack(x), one, other)
    logits = jax.vmap(lambda m: forward(m, np.arange(9)[:, None]).logits)(both.model)
    np.testing.assert_allclose(
        logits[1], forward(other.model, np.arange(9)[:, None]).logits, atol=1e-6
    )


def test_functions_layers_and_distances_vary():
    config = TwoHopConfig()
    many = [two_hop(seed, config) for seed in range(24)]
    functions = np.concatenate([np.asarray(m.functions) for m in many])
    assert set(functions[:, 0]) == set(functions[:, 1]) == set(range(len(FUNCTIONS)))
    distances = np.concatenate([np.asarray(m.later - m.earlier) for m in many])
    assert set(distances) == {1, 2, 3}
    for m in many:
        assert {*np.asarray(m.earlier).tolist(), *np.asarray(m.later).tolist()} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_model": 14}, "d_model: got 14; expected 15 or more, for 3 chains"),
        ({"n_layers": 1}, "n_layers: got 1; expected a whole number, 2 or more"),
        ({"n_layers": 7}, "n_layers: got 7; expected at most 2 for each of 3 chains"),
        ({"present": 4}, "present: got 4; expected at most 3 chains"),
        ({"chains": 0}, "chains: got 0"),
        ({"chains": 9, "d_model": 64, "present": 9}, "at most 100000 inputs"),
    ],
)
def test_impossible_sizes_are_refused(change, words):
    fields = {"chains": 3, "n_layers": 3, "d_model": 16}
    with pytest.raises(ConfigError, match=words):
        TwoHopConfig(**(fields | change))
