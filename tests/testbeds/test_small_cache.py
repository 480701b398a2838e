"""Small models are trained once, and again where the cache is broken."""

import dataclasses

import jax
import numpy as np
import pytest

from hagd_jax.errors import CheckpointError, TrainingError
from hagd_jax.tasks import modular
from hagd_jax.testbeds import SmallTrainConfig, small_model
from hagd_jax.testbeds.small_cache import CACHE

CONFIG = SmallTrainConfig(d_model=8, n_heads=2, d_mlp=8, steps=4, check_every=2)
RULE = modular.algorithm(7)


def steps(folder=None, **changes):
    """How often training reported, and the model."""
    seen = []
    options = {"config": CONFIG, "folder": folder, "on_step": lambda *step: seen.append(step)}
    return len(seen), small_model(RULE, **options | changes), seen


def same(one, other):
    leaves = zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_a_model_is_trained_once(tmp_path):
    _, first, seen = steps(tmp_path)
    assert len(seen) == 2
    _, second, seen = steps(tmp_path)
    assert not seen
    assert same(first, second)
    assert (second.name, second.config) == (first.name, first.config)
    assert second.tokenizer.encode("3 4 =") == first.tokenizer.encode("3 4 =")


def test_a_training_that_overflows_is_an_error_and_keeps_nothing(tmp_path):
    with pytest.raises(TrainingError, match="step 4: got NaN or infinity"):
        steps(tmp_path, config=dataclasses.replace(CONFIG, learning_rate=1e30))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_decides_the_weights_is_told_apart(tmp_path):
    _, first, _ = steps(tmp_path)
    for changes in ({"seed": 1}, {"config": SmallTrainConfig(d_model=16, d_mlp=8, steps=2)}):
        _, other, _ = steps(tmp_path, **changes)
        assert other.config != first.config or not same(first, other)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_broken_cache_is_mended_and_the_log_says_so(tmp_path, caplog):
    _, first, _ = steps(tmp_path)
    (place,) = tmp_path.iterdir()
    weights = next(place.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    assert not caplog.records
    _, second, seen = steps(tmp_path)
    assert len(seen) == 2
    assert "trained again" in caplog.text
    assert str(weights) in caplog.text
    assert same(first, second)
    assert not steps(tmp_path)[2]


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "here"))
    steps()
    assert len(list((tmp_path / "here").iterdir())) == 1
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    steps()
    assert len(list((tmp_path / "there" / "hagd_jax").iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError):
        steps(tmp_path / "file")
