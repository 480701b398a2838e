"""Small models are trained once, and again where the cache is broken."""

import dataclasses
import os
import shutil
import time

import chex
import jax
import numpy as np
import pytest

from hagd_jax.errors import CheckpointError, Interrupted, TrainingError
from hagd_jax.files import SEAL, hold_beside, locks
from hagd_jax.tasks import modular
from hagd_jax.testbeds import SmallTrainConfig, small_model, train_small
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


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """A cache with one model, and the model."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, steps(folder)[1]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", SEAL])
def test_a_changed_byte_is_trained_again(entry, tmp_path, caplog, file):
    shutil.copytree(entry[0], tmp_path, dirs_exist_ok=True)
    (place,) = tmp_path.iterdir()
    content = bytearray((place / file).read_bytes())
    content[-5] ^= 1
    (place / file).write_bytes(content)
    _, again, seen = steps(tmp_path)
    assert len(seen) == 2
    assert "trained again" in caplog.text
    assert same(again, entry[1])
    assert not steps(tmp_path)[2]


@pytest.mark.parametrize("what", ["without digests", "of another seed"])
def test_an_entry_that_is_not_its_own_is_trained_again(entry, tmp_path, what):
    (place,) = entry[0].iterdir()
    if what == "without digests":
        shutil.copytree(entry[0], tmp_path, dirs_exist_ok=True)
        (tmp_path / place.name / SEAL).unlink()
    else:
        steps(tmp_path, seed=1)
        (other,) = tmp_path.iterdir()
        other.rename(tmp_path / place.name)
    _, again, seen = steps(tmp_path)
    assert len(seen) == 2
    assert same(again, entry[1])


@pytest.mark.parametrize("whole", [True, False])
def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(entry, tmp_path, caplog, whole):
    (place,) = entry[0].iterdir()
    target = tmp_path / "elsewhere"
    if whole:
        shutil.copytree(place, target)
    before = sorted(os.listdir(target)) if whole else None
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / place.name).symlink_to(target)
    _, again, seen = steps(cache)
    assert len(seen) == 2
    assert ("a link" in caplog.text) == whole
    assert same(again, entry[1])
    assert not (cache / place.name).is_symlink()
    assert (sorted(os.listdir(target)) if whole else None) == before


def test_while_another_process_trains_this_one_waits_and_then_reads(
    entry, tmp_path, caplog, monkeypatch
):
    (whole,) = entry[0].iterdir()
    other = hold_beside(tmp_path / whole.name)
    locks._held.clear()  # as another process would have it

    def sleep(_):
        shutil.copytree(whole, tmp_path / whole.name)
        other.release()

    monkeypatch.setattr(time, "sleep", sleep)
    _, found, seen = steps(tmp_path)
    assert not seen
    assert same(found, entry[1])
    assert "waiting for another process" in caplog.text
    assert os.listdir(tmp_path) == [whole.name]


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


def test_a_training_that_was_stopped_goes_on_with_the_same_bits(tmp_path):
    algorithm = modular.algorithm(7)
    config = SmallTrainConfig(d_model=8, n_heads=1, d_mlp=8, steps=6, check_every=2, batch_size=8)
    whole, seen = train_small(algorithm, config=config), []

    def stop(step, total, metrics):
        seen.append(step)
        if seen == [2, 4]:
            raise Interrupted

    with pytest.raises(Interrupted):
        small_model(algorithm, config=config, folder=tmp_path, on_step=stop)
    (unfinished,) = tmp_path.glob("*.training")
    assert [path.name for path in unfinished.iterdir() if path.name.isdigit()] == ["4"]
    found = small_model(algorithm, config=config, folder=tmp_path, on_step=stop)
    assert seen == [2, 4, 6]
    chex.assert_trees_all_equal(found.params, whole.params)
    assert not unfinished.exists()
