"""Interrupted training ends with the bits of uninterrupted training; faults keep what was good."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from hagd_jax.errors import CheckpointError
from hagd_jax.parallel import Checkpoints, make_mesh
from hagd_jax.pipeline import open_run
from hagd_jax.transcoders import LossConfig, train
from tests.transcoders.training.small import TRAIN, make_corpus, make_model

CONFIG = dataclasses.replace(TRAIN, tokens=20 * 64, loss=LossConfig(jacobian=0.1, dead_after=64))


class Interrupted(Exception):
    pass


def stop_at(step):
    def watch(tokens, _):
        if tokens == step * 64:
            raise Interrupted

    return watch


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def whole(model):
    """What an uninterrupted training gives; its random directions and dead features included."""
    return jax.tree.map(np.asarray, train(model, make_corpus(model), CONFIG).params)


def test_a_run_stopped_three_times_ends_with_the_same_bits(tmp_path, model, whole):
    for step in (3, 9, 17):
        run = open_run(tmp_path, {})
        with pytest.raises(Interrupted):
            # Zero seconds between checkpoints: one after each step.
            train(model, make_corpus(model), CONFIG, run=run, watch=stop_at(step), save_every=0)
    run = open_run(tmp_path, {})
    resumed = train(model, make_corpus(model), CONFIG, run=run, save_every=0)
    chex.assert_trees_all_equal(resumed.params, whole)
    assert np.abs(whole["W_dec"]).max() > 1e-3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert all(np.isfinite(line["loss"]) and line["tokens_per_second"] > 0 for line in lines)
    assert lines[-1]["tokens"] == 20 * 64


def test_a_checkpoint_continues_on_another_mesh(tmp_path, whole):
    model = make_model(make_mesh("data=2,model=4"))
    run = open_run(tmp_path, {})
    with pytest.raises(Interrupted):
        train(model, make_corpus(model), CONFIG, run=run, watch=stop_at(8), save_every=0)
    model = make_model()
    resumed = train(model, make_corpus(model), CONFIG, run=open_run(tmp_path, {}))
    # Eight steps on other devices: rounding, no more.
    chex.assert_trees_all_close(resumed.params, whole, atol=1e-4)


def test_another_configuration_is_refused(tmp_path, model):
    run = open_run(tmp_path, {})
    train(model, make_corpus(model), CONFIG, run=run)
    other = dataclasses.replace(CONFIG, features="2x")
    with pytest.raises(CheckpointError, match="W_dec"):
        train(model, make_corpus(model), other, run=open_run(tmp_path, {}))


def test_other_data_is_refused(tmp_path, model):
    run = open_run(tmp_path, {})
    with pytest.raises(Interrupted):
        train(model, make_corpus(model), CONFIG, run=run, watch=stop_at(5), save_every=0)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(CheckpointError, match="data position"):
        train(model, make_corpus(model), other, run=open_run(tmp_path, {}))


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path, model, whole, monkeypatch
):
    real, saves = Checkpoints.save, []

    def save(self, step, state):
        if len(saves) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        saves.append(step)
        real(self, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(CheckpointError, match="step 4 is intact; make room"):
            train(model, make_corpus(model), CONFIG, run=open_run(tmp_path, {}), save_every=0)
    resumed = train(model, make_corpus(model), CONFIG, run=open_run(tmp_path, {}))
    chex.assert_trees_all_equal(resumed.params, whole)


def test_kill_9_in_the_middle(tmp_path, whole):
    """A process of its own, killed once it has saved something, wherever it then is."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.transcoders.training.resume_worker", str(run)]
    # The second process finds what the first compiled.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = subprocess.Popen(command, env=os.environ | cache)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "2").exists():
        assert first.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run(command, check=True, timeout=240, env=os.environ | cache)
    with np.load(run / "params.npz") as found:
        for name, value in whole.items():
            np.testing.assert_array_equal(found[name], value)
