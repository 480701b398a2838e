"""Arguments that cannot be used are named, with a typed error, before anything is computed."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax import transcoders as tc
from hagd_jax.errors import ConfigError, HagdError, InputError
from hagd_jax.models import DecoderConfig, init
from tests.transcoders.test_replace import CASES, made
from tests.transcoders.text import Batch

CONFIG = CASES["layers"].replace(n_layers=2)
SIZES = DecoderConfig(vocab_size=9, n_layers=2, d_model=16, n_heads=2, d_mlp=8)
KEY = jax.random.key(0)
X = np.ones((2, 3, 16), np.float32)
F = np.ones((2, 3, 24), np.float32)
TEXT = Batch(np.ones((1, 4), np.int32), np.ones((1, 4), np.float32))


@pytest.fixture(scope="module")
def model():
    return init(SIZES, KEY)


@pytest.fixture(scope="module")
def it():
    return made(CONFIG)


CALLS = {
    "encode: no array": (lambda t, m: tc.encode(t, "abc"), "activations at 'mlp_in'"),
    "encode: ragged": (lambda t, m: tc.encode(t, [[[1]], [[1, 2]]]), "rows of unequal length"),
    "encode: layers": (lambda t, m: tc.encode(t, X[:1]), r"shape \(1, 3, 16\)"),
    "encode: no weights": (lambda t, m: tc.encode(t.replace(params={}), X), "parameter W_enc"),
    "encode: weights": (
        lambda t, m: tc.encode(t.replace(params=t.params | {"b_enc": X}), X),
        "parameter b_enc: got shape",
    ),
    "encode: a model": (lambda t, m: tc.encode(m, X), "transcoder: got LanguageModel"),
    "decode: width": (lambda t, m: tc.decode(t, F[..., :7]), "features: got shape"),
    "decode: number": (lambda t, m: tc.decode(t, 1.0), r"features: got shape \(\)"),
    "decode: x": (lambda t, m: tc.decode(t, F, X[:, :2]), r"x: got shape \(2, 2, 16\)"),
    "errors: no trace": (lambda t, m: tc.errors(t, None), "trace: got NoneType"),
    "errors: two passes": (
        lambda t, m: tc.errors(t, {"mlp_in": X, "mlp_out": X[:, :1]}),
        "sites of one pass",
    ),
    "replace: none": (lambda t, m: tc.replace_mlps(None), "transcoder: got NoneType"),
    "replace: error": (lambda t, m: tc.replace_mlps(t, error="a"), "error: got str"),
    "mask": (lambda t, m: tc.mask_features(t, "a", 0.0), "mask: got str"),
    "alternative": (lambda t, m: tc.mask_features(t, F[:, 0], None), "alternative: got NoneType"),
    "jacobian: x": (lambda t, m: tc.jacobian_match(t, m, "a", KEY), "activations"),
    "jacobian: key": (lambda t, m: tc.jacobian_match(t, m, X, 7), "key: got int 7"),
    "jacobian: model": (lambda t, m: tc.jacobian_match(t, None, X, KEY), "model: got NoneType"),
    "jacobian: number": (
        lambda t, m: tc.jacobian_match(t, m, X, KEY, directions=2.5),
        "directions: got 2.5",
    ),
    "effects: text": (lambda t, m: tc.logit_effects(t, m, features={0: ["a"]}), "of layer 0"),
    "effects: part": (lambda t, m: tc.logit_effects(t, m, features={0: [1.5]}), "whole numbers"),
    "effects: list": (lambda t, m: tc.logit_effects(t, m, features=[1, 2]), "features: got list"),
    "effects: layer": (lambda t, m: tc.logit_effects(t, m, features={"a": [1]}), "layer: got 'a'"),
    "effects: ragged": (
        lambda t, m: tc.logit_effects(t, m, features={0: [[1], [2, 3]]}),
        "unequal length",
    ),
    "effects: count": (lambda t, m: tc.logit_effects(t, m, count=2.5), "count: got 2.5"),
    "effects: gain": (lambda t, m: tc.logit_effects(t, m, gain=np.nan), "gain: got nan"),
    "contexts: window": (lambda t, m: tc.top_contexts(t, m, [TEXT], window=5), "window: got int"),
    "contexts: part": (
        lambda t, m: tc.top_contexts(t, m, [TEXT], window=(1.5, 1)),
        "window: got 1.5",
    ),
    "contexts: number": (
        lambda t, m: tc.top_contexts(t, m, [TEXT], per_feature="2"),
        "per_feature: got '2'",
    ),
    "contexts: pairs": (lambda t, m: tc.top_contexts(t, m, [tuple(TEXT)]), "batch 0: got tuple"),
    "measure: none": (lambda t, m: tc.measure(t, m, None), "text: got NoneType"),
    "measure: one": (lambda t, m: tc.measure(t, m, TEXT), "Wrap a single batch"),
    "measure: words": (lambda t, m: tc.measure(t, m, [Batch("ab", "c")]), "tokens of batch 0"),
    "digest": (lambda t, m: tc.digest(t.replace(params={})), "parameter W_enc"),
    "load": (lambda t, m: tc.load(3), "transcoder: got int 3"),
    "save": (lambda t, m: tc.save(t, None), "folder: got NoneType"),
    "save: what": (lambda t, m: tc.save(None, "x"), "transcoder: got NoneType"),
    "load_contexts": (lambda t, m: tc.load_contexts(None), "folder: got NoneType"),
    "save_contexts": (lambda t, m: tc.save_contexts(None, "x"), "contexts: got NoneType"),
    "check_model": (lambda t, m: tc.check_model(t, None), "model: got NoneType"),
    "train: corpus": (lambda t, m: tc.train(m, None), "corpus: got NoneType"),
    "train: model": (lambda t, m: tc.train(None, None), "model: got NoneType"),
    "init: key": (lambda t, m: tc.init(CONFIG, 3), "key: got int 3"),
    "init: config": (lambda t, m: tc.init(None, KEY), "config: got NoneType"),
    "abstract": (lambda t, m: tc.abstract(None), "config: got NoneType"),
    "layer_graph": (lambda t, m: tc.layer_graph(None), "config: got NoneType"),
    "watch_at": (lambda t, m: tc.watch_at(["a"], print), "points: got 'a'"),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_that_cannot_be_used_is_named(it, model, name):
    call, words = CALLS[name]
    with pytest.raises((InputError, ConfigError), match=words):
        call(it, model)


JUNK = (
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=3)
    | st.just(()) | st.sampled_from(["8x", "infx", "nanx", "0x", "1e9x"])
)  # fmt: skip


@settings(max_examples=200)
@given(st.data())
def test_whatever_a_configuration_says_it_is_used_or_refused(data):
    kind = data.draw(st.sampled_from([tc.TrainConfig, tc.LossConfig, tc.TranscoderConfig]))
    sizes = {"n_layers": 2, "d_model": 16, "n_features": 24, "k": 5}
    good = kind(**sizes if kind is tc.TranscoderConfig else {})
    names = [field.name for field in dataclasses.fields(kind)]
    changes = data.draw(st.dictionaries(st.sampled_from(names), JUNK, min_size=1, max_size=2))
    try:
        made = dataclasses.replace(good, **changes)
        if kind is tc.TrainConfig:
            assert made.transcoder(SIZES).n_features >= 1
            assert made.steps(8) >= 1
    except HagdError as error:
        assert str(error)  # noqa: PT017 (a refusal is as good as a success)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activation": "softmax"}, "activation: got 'softmax'"),
        ({"reads": "nowhere"}, "reads: got 'nowhere'"),
        ({"dtype": "int8"}, "floating dtype|float32"),
        ({"features": "many"}, 'multiple like "8x"'),
        ({"k": 0}, "k: got 0"),
        ({"window": -2}, "window: got -2"),
        ({"learning_rate": float("inf")}, "learning_rate: got inf"),
        ({"tokens": 1e6}, "tokens: got 1000000.0; expected a whole number"),
        ({"loss": tc.LossConfig(sparsity=0.1)}, "loss.sparsity: got 0.1; expected 0 with topk"),
    ],
    ids=str,
)
def test_a_training_that_cannot_run_is_refused_when_it_is_described(changes, words):
    with pytest.raises(ConfigError, match=words):
        tc.TrainConfig(**changes)


def test_values_are_shown_in_one_line(it):
    assert "2 layers, d_model 16, 24 topk features with 5 active" in repr(it)
    assert "\n" not in repr(it)
