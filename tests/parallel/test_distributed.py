"""Two processes as one program; what a single process does instead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError, MeshError
from hagd_jax.parallel import agree, is_main, make_mesh, restore, start, to_global


def test_two_processes_share_arrays_and_checkpoints(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("worker.py")),
                coordinator,
                str(i),
                tmp_path,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for worker in workers:
            out, err = worker.communicate(timeout=120)
            assert worker.returncode == 0, err[-3000:]
            assert "done 4900.0" in out  # 1² + 2² + … + 24²
    finally:
        for worker in workers:
            worker.kill()
    # What the cluster wrote, one process reads.
    like = {"w": np.zeros((8, 3), np.float32), "key": jax.random.key(0), "step": 0}
    back = restore(tmp_path / "state", like | {"note": np.zeros(2, int)})
    np.testing.assert_array_equal(back["w"], np.arange(24, dtype=np.float32).reshape(8, 3) + 1)
    assert back["step"] == 4


def test_a_start_after_devices_were_used_is_refused():
    jax.devices()
    with pytest.raises(ConfigError, match="Call start\\(\\) first"):
        start("localhost:1234", 1, 0)
    with pytest.raises(ConfigError, match="Call start\\(\\) first"):
        start("localhost:1234", 1, 0, local_devices=4)
    assert is_main()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"coordinator": "localhost:1234"}, "no num_processes, process_id"),
        ({"num_processes": 2, "process_id": 0}, "no coordinator"),
        ({"local_devices": 2}, "no coordinator, num_processes, process_id"),
        ({"coordinator": "localhost", "num_processes": 2, "process_id": 0}, "host:port"),
        ({"coordinator": "host:99999", "num_processes": 2, "process_id": 0}, "host:port"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "1 or more"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "0 or more, below 2"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 1, "local_devices": 0},
            "1 or more",
        ),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 1, "local_devices": [1, 1]},
            "different ids",
        ),
    ],
)
def test_arguments_that_do_not_fit_together(arguments: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        start(**arguments)


def test_without_arguments_or_a_cluster_nothing_happens():
    """In a fresh process, as `start` must come before any device is touched."""
    code = "from hagd_jax.parallel import start; import jax; start(); print(jax.process_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr[-2000:]


@pytest.mark.parametrize("value", [True, False])
def test_one_process_agrees_with_itself(value: bool):
    assert agree(value) is value


def test_a_batch_is_split_over_data():
    mesh = make_mesh("data=4,model=2")
    tokens = np.arange(24).reshape(8, 3)
    placed = to_global(mesh, {"tokens": tokens, "mask": tokens[:, 0] > 3})
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(placed["tokens"], tokens)
    np.testing.assert_array_equal(placed["mask"], tokens[:, 0] > 3)
    assert isinstance(to_global(None, tokens), jax.Array)
    assert to_global(make_mesh("model=8"), tokens).is_fully_replicated


def test_batches_that_cannot_be_split_are_named():
    mesh = make_mesh("data=4")
    with pytest.raises(MeshError, match=r"batch\['x'\]: got 6 rows.*a multiple of 4"):
        to_global(mesh, {"x": np.zeros((6, 2))})
    with pytest.raises(InputError, match=r"batch\['x'\]: got a scalar"):
        to_global(mesh, {"x": np.float32(1)})
