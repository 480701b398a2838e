"""Top contexts against a search through all activations, feature by feature."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import CheckpointError, ConfigError, InputError
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders.contexts.files import load_contexts, save_contexts
from hagd_jax.transcoders.contexts.top import top_contexts
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.measures.effects import logit_effects
from hagd_jax.transcoders.transcoder import Transcoder, shardings
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import GEMMA, NEOX
from tests.transcoders.test_replace import CASES, DEEP, made
from tests.transcoders.text import Batch, plain_features, split, text

TEXT = text(rows=8, length=7)
WINDOW = (3, 2)
# The same everywhere, so that batches of one shape compile once.
OPTIONS = {"per_feature": 5, "window": WINDOW}
HALF = 2**-10  # of a float16


@pytest.fixture(scope="module")
def model():
    return noisy(DEEP)


@pytest.fixture(scope="module")
def transcoder():
    return made(CASES["window"])


@pytest.fixture(scope="module")
def found(transcoder, model):
    return top_contexts(transcoder, model, split(TEXT, [4, 4]), effects=3, **OPTIONS)


@pytest.fixture(scope="module")
def activations(transcoder, model):
    """(L, B, T, F), zero where tokens weigh nothing."""
    features, _, _ = plain_features(transcoder, model, TEXT)
    return features * (TEXT.weight > 0)[..., None]


def searched(activations, layer, feature, count):
    """(value, row, position) of each context, strongest first."""
    peaks = [
        (-values.max(), row, int(values.argmax()))
        for row, values in enumerate(activations[layer, :, :, feature])
    ]
    return [(-value, row, place) for value, row, place in sorted(peaks) if value < 0][:count]


def test_every_context_is_the_one_a_search_finds(found, activations):
    layers, _, _, features = activations.shape
    seen = 0
    for layer in range(layers):
        for index in range(features):
            expected = searched(activations, layer, index, 5)
            got = found.feature(layer, index)
            assert [(c.row, c.position) for c in got.contexts] == [e[1:] for e in expected]
            for context, (value, row, place) in zip(got.contexts, expected, strict=True):
                check_context(context, activations[layer, :, :, index], value, row, place)
            assert got.largest == pytest.approx(activations[layer, ..., index].max(), rel=1e-5)
            fired = ((activations[layer, ..., index] > 0) * TEXT.weight).sum()
            assert got.density == pytest.approx(fired / TEXT.weight.sum(), rel=1e-6)
            seen += len(expected)
    assert seen > 200


def check_context(context, activations, value, row, place):
    end = np.flatnonzero(TEXT.weight[row])[-1] + 1
    here = slice(max(0, place - WINDOW[0]), min(end, place + WINDOW[1] + 1))
    assert context.tokens.tolist() == TEXT.tokens[row, here].tolist()
    assert context.firing == place - here.start
    assert context.activations[context.firing] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(
        context.activations, activations[row, here], rtol=HALF, atol=HALF * value
    )


def same(a, b, rtol=1e-5):
    assert sorted(a.layers) == sorted(b.layers)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.fired, b.fired)
    np.testing.assert_allclose(a.largest, b.largest, rtol=rtol)
    for layer, one in a.layers.items():
        other = b.layers[layer]
        for name in ("features", "row", "position"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.value > 0).any()
        np.testing.assert_allclose(one.value, other.value, rtol=rtol)
        np.testing.assert_allclose(one.nearby, other.nearby, atol=HALF)
        if one.effects is not None:
            np.testing.assert_array_equal(one.effects.tokens, other.effects.tokens)
            np.testing.assert_allclose(one.effects.values, other.effects.values, rtol=rtol)


def test_batching_changes_nothing(found, transcoder, model):
    same(found, top_contexts(transcoder, model, [TEXT], effects=3, **OPTIONS))


def test_meshes_change_nothing(found, transcoder, model):
    mesh, config = make_mesh("data=2,model=4"), transcoder.config
    laid = Transcoder(jax.device_put(transcoder.params, shardings(config, mesh)), config, mesh)
    spread = on_mesh(model, mesh)
    # Seven rows and one: the mesh splits neither evenly, and fills up with rows of no weight.
    same(found, top_contexts(laid, spread, split(TEXT, [7, 1]), effects=3, **OPTIONS))


def test_some_features_are_those_of_all(found, transcoder, model):
    features = {2: [7, 3, 3], 0: range(5)}
    some = top_contexts(transcoder, model, split(TEXT, [4, 4]), features=features, **OPTIONS)
    np.testing.assert_array_equal(some.fired, found.fired)
    for layer, chosen in ((0, range(5)), (2, (3, 7))):
        assert some.layers[layer].features.tolist() == list(chosen)
        for index in chosen:
            one, other = some.feature(layer, index), found.feature(layer, index)
            assert [c.row for c in one.contexts] == [c.row for c in other.contexts]
            assert one.raised == ()
    for absent in ((2, 5), (1, 3), (0, 5), (9, 0)):
        with pytest.raises(InputError, match="no contexts"):
            some.feature(*absent)


def test_equal_activations_come_in_the_order_of_the_text(transcoder, model):
    twice = Batch(np.tile(TEXT.tokens[:1], (8, 1)), np.tile(TEXT.weight[:1], (8, 1)))
    same_text = top_contexts(transcoder, model, split(twice, [4, 4]), **OPTIONS)
    rows = np.concatenate([part.row for part in same_text.layers.values()])
    alive = rows[:, 0] >= 0
    assert alive.sum() > 0
    assert (rows[alive] == range(5)).all()
    assert (rows[~alive] == -1).all()


def test_a_dead_feature_has_no_contexts(transcoder, model):
    params = transcoder.params | {"b_enc": transcoder.params["b_enc"].at[1, 4].set(-1e6)}
    found = top_contexts(transcoder.replace(params=params), model, split(TEXT, [4, 4]), **OPTIONS)
    dead = found.feature(1, 4)
    assert (dead.contexts, dead.density, dead.largest) == ((), 0.0, 0.0)
    assert (found.layers[1].row[4] == -1).all()


def effects_in_float64(transcoder, model, layer):
    """(F, V) logits of what each feature writes, without their mean."""
    graph, p = layer_graph(transcoder.config), model.params
    writes = np.asarray(transcoder.params["W_dec"], np.float64)[graph.senders == layer].sum(0)
    if model.config.norm == "layer":
        writes = writes - writes.mean(-1, keepdims=True)
    table = p["embed"]["embedding"].T if model.config.tied else p["unembed"]["kernel"]
    weight = np.asarray(p["norm_f"]["scale"], np.float64) + model.config.norm_offset
    logits = writes * weight @ np.asarray(table, np.float64)
    return logits - logits.mean(-1, keepdims=True)


def outer(decoder):
    """A model of nothing but what logits are made from."""
    rng = np.random.default_rng(5)
    table = {"embed": {"embedding": (24, 16)}, "unembed": {"kernel": (16, 24)}}
    shapes = table | {"norm_f": {"scale": (16,)}}
    draw = lambda shape: jnp.asarray(rng.normal(1, 1, shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
    return LanguageModel(params, decoder)


@pytest.mark.parametrize(
    "decoder",
    [DEEP.replace(tied=True), NEOX.replace(n_layers=4), GEMMA.replace(n_layers=4)],
)
def test_logit_effects_are_those_of_float64(decoder, transcoder):
    model = outer(decoder)
    found = logit_effects(transcoder, model, count=3)
    assert sorted(found) == [0, 1, 2, 3]
    for layer, effects in found.items():
        expected = effects_in_float64(transcoder, model, layer)
        order = np.argsort(-expected, -1)
        tokens = np.concatenate([order[:, :3], order[:, :-4:-1]], -1)
        np.testing.assert_array_equal(effects.tokens, tokens)
        values = np.take_along_axis(expected, tokens, -1)
        assert (values[:, 0] > 0).all()
        np.testing.assert_allclose(effects.values, values, rtol=1e-4, atol=1e-5)


def test_effects_are_in_units_of_an_average_place(found, transcoder, model):
    scale = np.asarray(forward(model, TEXT.tokens, capture=["normf_scale"]).trace["normf_scale"])
    gain = (TEXT.weight / scale[..., 0]).sum() / TEXT.weight.sum()
    bare = logit_effects(transcoder, model, count=3)
    assert gain != pytest.approx(1, rel=0.01)
    for layer, effects in bare.items():
        np.testing.assert_allclose(
            found.layers[layer].effects.values, effects.values * gain, rtol=1e-4
        )
    feature = found.feature(2, 3)
    assert [token for token, _ in feature.raised] == bare[2].tokens[3, :3].tolist()
    assert [token for token, _ in feature.lowered] == bare[2].tokens[3, 3:].tolist()
    assert feature.raised[0][1] > 0 > feature.lowered[0][1]


def test_what_is_saved_is_loaded(found, tmp_path):
    save_contexts(found, tmp_path / "here")
    loaded = load_contexts(tmp_path / "here")
    same(found, loaded, rtol=0)
    for name in ("model", "transcoder", "digest", "window"):
        assert getattr(loaded, name) == getattr(found, name)
    assert len(found.digest) == 8
    one, other = found.feature(3, 5), loaded.feature(3, 5)
    assert one.raised == other.raised != ()
    assert [c.activations.tolist() for c in one.contexts] == [
        c.activations.tolist() for c in other.contexts
    ]
    bare = dataclasses.replace(
        found, layers={1: dataclasses.replace(found.layers[1], effects=None)}
    )
    save_contexts(bare, tmp_path / "here")
    assert load_contexts(tmp_path / "here").feature(1, 0).raised == ()


def test_layers_are_read_when_asked_for(found, tmp_path):
    save_contexts(found, tmp_path)
    (tmp_path / "layer_2.safetensors").write_bytes(b"no tensors")
    loaded = load_contexts(tmp_path)
    assert loaded.feature(1, 0).layer == 1
    with pytest.raises(CheckpointError, match=r"layer_2\.safetensors"):
        loaded.feature(2, 0)


def change(file, name, value):
    tensors = load_file(file)
    save_file(tensors | {name: value(tensors[name])}, file)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("layer_1.safetensors", "row", lambda x: x + 1000),
        ("layer_1.safetensors", "position", lambda x: x - 9),
        ("layer_1.safetensors", "features", lambda x: x[:-1].copy()),
        ("layer_1.safetensors", "nearby", lambda x: x[..., 0].copy()),
        ("layer_1.safetensors", "effects.tokens", lambda x: x[0].copy()),
        ("text.safetensors", "weight", lambda x: x[:, 1:].copy()),
        ("text.safetensors", "fired", lambda x: x[0].copy()),
    ],
)
def test_tensors_that_do_not_fit_are_refused(file, name, value, found, tmp_path):
    save_contexts(found, tmp_path)
    change(tmp_path / file, name, value)
    with pytest.raises(CheckpointError, match=r"contexts written by this package"):
        load_contexts(tmp_path).feature(1, 0)


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"format": 99}', None])
def test_a_broken_record_is_refused(record, found, tmp_path):
    save_contexts(found, tmp_path)
    file = tmp_path / "contexts.json"
    if record is None:
        file.unlink()
    else:
        file.write_text(record)
    with pytest.raises(CheckpointError, match="Find the contexts again"):
        load_contexts(tmp_path)


def test_a_torn_save_leaves_the_contexts_before_it(found, tmp_path, monkeypatch):
    folder = tmp_path / "contexts"
    save_contexts(found, folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("hagd_jax.transcoders.contexts.files.write_file", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        save_contexts(dataclasses.replace(found, model="another"), folder)
    same(found, load_contexts(folder), rtol=0)
    assert os.listdir(tmp_path) == ["contexts"]


def test_what_lies_beside_contexts_is_not_removed(found, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.txt in it"):
        save_contexts(found, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_cannot_be_written(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can be written"):
        save_contexts(found, tmp_path / "file" / "below")


def test_names_go_through_json(found, tmp_path):
    odd = dataclasses.replace(found, model='"\u202e</script>', transcoder="\x00")
    save_contexts(odd, tmp_path)
    assert load_contexts(tmp_path).model == odd.model
    assert json.loads((tmp_path / "contexts.json").read_text())["layers"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({"per_feature": 0}, ConfigError, "per_feature"),
        ({"window": (-1, 3)}, ConfigError, "window"),
        ({"effects": 25}, ConfigError, "effects: got 25; expected .* at most 24"),
        ({"features": {4: [0]}}, InputError, "layer: got 4; expected an integer from 0 to 3"),
        ({"features": {0: [24]}}, InputError, r"layer 0: got \[24\]; expected 0 to 23"),
        ({"features": {0: []}}, InputError, "at least one"),
    ],
)
def test_bad_options(options, error, expected, transcoder, model):
    with pytest.raises(error, match=expected):
        top_contexts(transcoder, model, [TEXT], **options)


def test_bad_text(transcoder, model):
    ragged = [TEXT, Batch(TEXT.tokens[:, :5], TEXT.weight[:, :5])]
    with pytest.raises(InputError, match=r"sequences of \[5, 7\] tokens"):
        top_contexts(transcoder, model, ragged, **OPTIONS)
    with pytest.raises(InputError, match="no token"):
        top_contexts(transcoder, model, [])
    with pytest.raises(ConfigError, match="count"):
        logit_effects(transcoder, model, count=0)
    with pytest.raises(InputError, match="d_model"):
        logit_effects(made(CASES["window"].replace(d_model=8)), model)


def test_a_window_as_wide_as_one_token(transcoder, model, activations):
    found = top_contexts(transcoder, model, [TEXT], per_feature=2, window=(0, 0))
    context = found.feature(0, 0).contexts[0]
    assert context.activations == pytest.approx([activations[0, ..., 0].max()], rel=1e-5)
    assert jnp.shape(found.layers[0].nearby)[-1] == 1
