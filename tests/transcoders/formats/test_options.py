"""What a published folder may say: it is computed as its authors define it, or refused by name."""

import json
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.transcoders import load
from hagd_jax.transcoders.formats.loading import open_stored
from tests.transcoders.formats import folders
from tests.transcoders.formats.folders import F, L
from tests.transcoders.formats.test_formats import X, assert_close, computed

SKIP = {"architecture": "skip_transcoder"}
KINDS = ("per_layer", "cross_layer", "sparsify", "saelens")


def saelens_in_float64(tensors, x, k, rescaled):
    """As `TopKSAE` of SAELens computes: norms of W_dec's rows weigh what is kept, if asked to."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    pre = x.astype(np.float64) @ t["W_enc"] + t["b_enc"]
    norm = np.linalg.norm(t["W_dec"], axis=-1) if rescaled else np.ones(F)
    features = np.maximum(pre * norm, 0)
    if k:
        kept = np.argsort(-(pre * norm), -1)[:, :k]
        features *= one_hot(kept)
    skip = x @ t["W_skip"].T if "W_skip" in t else 0
    return features, (features / norm) @ t["W_dec"] + t["b_dec"] + skip


def one_hot(kept):
    found = np.zeros((len(kept), F))
    np.put_along_axis(found, kept, 1, -1)
    return found


@pytest.mark.parametrize(
    ("options", "k", "rescaled"),
    [
        ({"k": 3}, 3, False),
        ({"k": 5, "activation_fn": "topk"}, 5, False),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}, 4, False),
        ({"k": 4, "rescale_acts_by_decoder_norm": True}, 4, True),
        (
            {"k": 2, "rescale_acts_by_decoder_norm": True, "architecture": "skip_transcoder"},
            2,
            True,
        ),
        ({"rescale_acts_by_decoder_norm": True}, 0, True),
        ({"activation_fn_kwargs": {}, "finetuning_scaling_factor": False}, 0, False),
    ],
    ids=str,
)
def test_saelens_topk_and_rescaling_are_those_of_float64(tmp_path, options, k, rescaled):
    stored = folders.saelens(tmp_path / "tc", **options)
    transcoder = load(tmp_path / "tc")
    expected = [saelens_in_float64(t, x, k, rescaled) for t, x in zip(stored, X, strict=True)]
    assert transcoder.config.activation == ("topk" if k else "relu")
    assert transcoder.config.k == k
    assert_close(computed(transcoder), map(np.stack, zip(*expected, strict=True)))
    if k and rescaled:
        # Other features are kept than without the norms: what is tested does something.
        plain = [saelens_in_float64(t, x, k, False)[0] for t, x in zip(stored, X, strict=True)]
        assert ((np.stack(plain) > 0) != (np.stack([f for f, _ in expected]) > 0)).mean() > 0.01


def test_a_feature_that_writes_nothing_survives_rescaling(tmp_path):
    stored = folders.saelens(tmp_path / "tc", layers=1, rescale_acts_by_decoder_norm=True)
    w_dec = stored[0]["W_dec"].copy()
    w_dec[3] = 0
    folders.put_tensors(tmp_path / "tc" / "sae_weights.safetensors", W_dec=w_dec)
    features, outputs = computed(load(tmp_path / "tc"), X[:1])
    assert np.isfinite(outputs).all()
    assert not features[..., 3].any()


def configs(folder):
    return sorted(folder.glob("config.yaml")) + sorted(folder.glob("**/cfg.json"))


def put(file, values):
    """JSON is YAML."""
    file.write_text(json.dumps(yaml.safe_load(file.read_text()) | values))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("options")
    for kind in KINDS:
        getattr(folders, kind)(root / kind)
    return root


# Larger ones are no numbers of a file.
WHOLE = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    layer=st.integers(0, L - 1),
    name=st.text("abcdefgh_", min_size=1, max_size=12),
    value=st.none() | st.booleans() | WHOLE | st.text(max_size=3) | st.just({"a": [1]}),
)
def test_a_field_that_is_not_known_is_refused_wherever_it_stands(whole, kind, layer, name, value):
    """Whatever its value, and in whichever layer's configuration; the list of all others loads."""
    files = configs(whole / kind)
    file = files[min(layer, len(files) - 1)]
    before = file.read_text()
    assert open_stored(whole / kind).config.n_layers == L
    try:
        put(file, {name: value})
        with pytest.raises(ConfigError, match=f"{file.name}: {name}: got .*no such field"):
            open_stored(whole / kind)
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("saelens", {"activation_fn_kwargs": {"k": 4, "postact_fn": "gelu"}}, "postact_fn: got"),
        ("saelens", {"activation_fn": "tanh-relu"}, "activation_fn: got 'tanh-relu'"),
        ("saelens", {"activation_fn": "topk"}, "k: got none; expected the number"),
        ("saelens", {"activation_fn": "relu", "k": 4}, "k: got 4; expected the number"),
        ("saelens", {"k": 4, "activation_fn_kwargs": {"k": 5}}, r"k of \[4, 5\]; expected one"),
        ("saelens", {"k": 2.5}, "k: got 2.5; expected a whole number"),
        ("saelens", {"k": True}, "k: got True; expected a whole number"),
        ("saelens", {"k": F + 1}, "k: got 17; expected at most n_features"),
        ("saelens", {"activation_fn_kwargs": [4]}, "activation_fn_kwargs: got"),
        ("saelens", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor: got True"),
        ("saelens", {"rescale_acts_by_decoder_norm": 1}, "rescale_acts_by_decoder_norm: got 1"),
        ("saelens", {"metadata": ["blocks"]}, "metadata: got"),
        ("saelens", {"hook_name": "blocks.7.hook_resid_mid"}, "hook_name: got .* in the metadata"),
        (
            "saelens",
            {"model_from_pretrained_kwargs": {"revision": "step5"}},
            "revision: got 'step5",
        ),
        ("saelens", {"model_from_pretrained_kwargs": {"odd": 0}}, "odd: got 0; expected no such"),
        (
            "saelens",
            {"hf_hook_name_out": "model.layers.0.post_attention_layernorm.output"},
            "hook_name_out: got .*expected one of post_feedforward_layernorm",
        ),
        ("sparsify", {"gram_lookup": True}, "gram_lookup: got True"),
        ("sparsify", {"signed": True}, "signed: got True"),
        ("sparsify", {"skip_connection": "no"}, "skip_connection: got 'no'"),
        ("per_layer", {"window": 2}, "window: got 2; expected None or 0"),
        ("per_layer", {"predict": "yes"}, "predict: got 'yes'"),
        ("per_layer", {"activation": ""}, "activation: got ''; expected one of"),
        ("per_layer", {"k": 4}, "k: got 4; expected 0 with relu"),
        ("cross_layer", {"transcoders": {"0": "layer_0.safetensors"}}, "transcoders"),
    ],
    ids=str,
)
def test_a_value_that_means_what_is_not_computed_is_refused(tmp_path, kind, values, words):
    getattr(folders, kind)(tmp_path / "tc")
    for file in configs(tmp_path / "tc"):
        put(file, values)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "tc")


@pytest.mark.parametrize("values", [{"k": 4}, {"rescale_acts_by_decoder_norm": True}])
def test_thresholds_and_counts_exclude_each_other(tmp_path, values):
    folders.saelens(tmp_path / "tc", architecture="jumprelu_transcoder", **values)
    with pytest.raises(ConfigError, match=rf"{next(iter(values))}: got .* have thresholds"):
        load(tmp_path / "tc")


def test_layers_must_keep_as_many_features(tmp_path):
    folders.saelens(tmp_path / "tc", k=4)
    put(tmp_path / "tc" / "layer 2" / "cfg.json", {"k": 5})
    with pytest.raises(ConfigError, match=r"layer 2.*keeping 5 features .*expected .*keeping 4"):
        load(tmp_path / "tc")


@pytest.mark.parametrize("field", ["model_kind", "feature_input_hook", "activation", "k", "odd"])
def test_a_small_file_cannot_take_much_time_or_stack(tmp_path, field):
    """Nine anchors of nine references each are a billion strings in a message."""
    folders.per_layer(tmp_path / "tc")
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    lines += [f"{q}: &{q} [{','.join(['*' + p] * 9)}]" for p, q in pairs]
    bombs = ["\n".join([*lines, f"{field}: *i"]), f"{field}: {'[' * 3000}{']' * 3000}"]
    for text in bombs:
        (tmp_path / "tc" / "config.yaml").write_text(text)
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=r"an anchor or a reference to one|deep nesting"):
            load(tmp_path / "tc")
        assert time.monotonic() - began < 5
