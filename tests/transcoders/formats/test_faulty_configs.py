"""Configurations that contradict themselves or say what no transcoder here can be."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError, ConfigError, HagdError
from hagd_jax.transcoders.formats.loading import open_stored
from tests.transcoders.formats import folders
from tests.transcoders.formats.faults import assert_refused, damage_name
from tests.transcoders.formats.folders import D, F, L

# Each writes a folder and damages it.


def _outside(at):
    folders.per_layer(at, transcoders=["../layer_0.safetensors"])


def _no_list(at):
    folders.per_layer(at, transcoders="layer_0.safetensors")


def _activation(at):
    folders.per_layer(at, activation="gelu")


def _k(at):
    folders.per_layer(at, activation="topk", k=F + 1)


def _no_k(at):
    folders.cross_layer(at, activation="topk")


def _window(at):
    folders.cross_layer(at, window=L)


def _kind(at):
    folders.per_layer(at, model_kind="crosscoder")


def _input(at):
    folders.per_layer(at, feature_input_hook="hook_resid_post")


def _output(at):
    folders.per_layer(at, feature_output_hook="hook_resid_post")


def _before_weights(at):
    folders.per_layer(at, feature_input_hook="ln2.hook_normalized")


def _not_yaml(at):
    folders.per_layer(at)
    (at / "config.yaml").write_text("model_kind: [")


def _a_list(at):
    folders.per_layer(at)
    (at / "config.yaml").write_text("- transcoder_set")


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (_outside, CheckpointError, r"transcoders: got '\.\./layer_0\.safetensors'"),
        (_no_list, ConfigError, "transcoders: got 'layer_0.safetensors'; expected a list"),
        (_activation, ConfigError, "activation: got 'gelu'; expected one of relu, jump_relu"),
        (_k, ConfigError, "k: got 17; expected at most n_features = 16"),
        (_no_k, ConfigError, "k: got 0; expected a whole number, 1 or more"),
        (_window, ConfigError, "window: got 3; expected 0 to 2 in a model of 3 layers"),
        (_kind, ConfigError, "model_kind: got 'crosscoder'; expected 'transcoder_set' or 'cross"),
        (
            _input,
            ConfigError,
            "feature_input_hook: got 'hook_resid_post'; expected one of mlp.hook",
        ),
        (_output, ConfigError, "feature_output_hook: got 'hook_resid_post'"),
        (_before_weights, ConfigError, "ln2.hook_normalized; expected to know the model. Pass mod"),
        (_not_yaml, CheckpointError, r"config\.yaml: got .*parsing"),
        (
            _a_list,
            CheckpointError,
            r"config\.yaml: got list \['transcoder_set'\]; expected a YAML mapping",
        ),
    ],
    ids=damage_name,
)
def test_it_is_refused_by_name(tmp_path, damage, kind, words):
    assert_refused(tmp_path / "tc", damage, kind, words)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
OPTIONS = {
    "per_layer": ["model_kind", "feature_input_hook", "feature_output_hook", "model_name", "k",
                  "transcoders", "activation", "predict", "scan"],
    "cross_layer": ["model_kind", "window", "activation", "k", "feature_input_hook"],
    "sparsify": ["activation", "k", "num_latents", "expansion_factor", "skip_connection",
                 "transcode", "d_in", "signed", "multi_topk"],
    "saelens": ["architecture", "d_in", "d_sae", "d_out", "normalize_activations", "metadata",
                "apply_b_dec_to_input", "reshape_activations", "hook_name", "model_name"],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good folder of each kind."""
    root = tmp_path_factory.mktemp("whole")
    for kind in OPTIONS:
        getattr(folders, kind)(root / kind)
    return root


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_configuration_says_it_is_used_or_refused(whole, data):
    kind = data.draw(st.sampled_from(sorted(OPTIONS)))
    option, value = data.draw(st.sampled_from(OPTIONS[kind])), data.draw(VALUES)
    files = sorted(whole.glob(f"{kind}/config.yaml")) + sorted(whole.glob(f"{kind}/*/cfg.json"))
    before = {file: file.read_text() for file in files}
    try:
        for file, text in before.items():
            # JSON is YAML.
            file.write_text(json.dumps(yaml.safe_load(text) | {option: value}))
        stored = open_stored(whole / kind)
        assert stored.config.d_model == D
    except HagdError as error:
        assert str(error)  # noqa: PT017 (a refusal is as good as a success)
    finally:
        for file, text in before.items():
            file.write_text(text)
