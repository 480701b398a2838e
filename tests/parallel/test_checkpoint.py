"""Checkpoints: any state, any mesh, and never half of one."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hagd_jax.errors import CheckpointError, ConfigError, DamagedError, InputError
from hagd_jax.parallel import Checkpoints, checkpoint, make_mesh, restore, save, sharding


class Box(NamedTuple):
    weight: Any
    bias: Any


def on(description: str | None, seed: int = 0) -> Box:
    """The same numbers on any mesh."""
    rng = np.random.default_rng(seed)
    weight = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=(8,)), jnp.bfloat16)
    mesh = make_mesh(description)
    if mesh is None:
        return Box(weight, bias)
    return Box(
        jax.device_put(weight, sharding(mesh, ("embed", "mlp"))),
        jax.device_put(bias, sharding(mesh, ("mlp",))),
    )


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("there", ["data=8,model=1", "model=8", None])
def test_a_state_moves_between_meshes_and_back(tmp_path: Path, there: str | None):
    first, target = on("data=2,model=4"), on(there, seed=1)
    save(tmp_path / "a", first)
    moved = restore(tmp_path / "a", target)
    assert np.abs(np.asarray(moved.weight)).min() > 0
    assert_same(moved, first)
    assert moved.weight.sharding.is_equivalent_to(target.weight.sharding, 2)
    save(tmp_path / "b", moved)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), first
    )
    back = restore(tmp_path / "b", shapes)
    assert_same(back, first)
    assert back.weight.sharding == first.weight.sharding


def test_every_kind_of_leaf(tmp_path: Path):
    params = on("data=2,model=4")
    state = {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params._asdict()),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 4),
        "old key": jax.random.PRNGKey(2),
        "a/b.c": (7, 2**40, 0.1, True, None),
        "numpy": np.arange(3, dtype=np.int64),
        "float8": jnp.ones(3, jnp.float8_e4m3fn),
        "": np.float32(2),
        "none at all": {},
    }
    save(tmp_path, state)
    assert_same(restore(tmp_path, state), state)
    assert_same(restore(tmp_path, {**state, "key": jax.random.key(9)}), state)


def test_keys_restore_onto_a_mesh_and_draw_the_same(tmp_path: Path):
    mesh = make_mesh("data=8")
    assert mesh is not None
    keys = jax.random.split(jax.random.key(1), 8)
    save(tmp_path, keys)
    placed = sharding(mesh, ("batch",))
    back = restore(tmp_path, jax.ShapeDtypeStruct((8,), keys.dtype, sharding=placed))
    assert len(back.addressable_shards) == 8
    draw = jax.vmap(jax.random.normal)
    np.testing.assert_array_equal(draw(back), draw(keys))


def test_restored_scalars_meet_arrays_on_a_mesh(tmp_path: Path):
    state = {"w": on("data=2,model=4").weight, "step": jnp.int32(3)}
    save(tmp_path, state)
    back = restore(tmp_path, state)
    # An array committed to one device would make this an error.
    total = jax.jit(lambda s: s["w"].sum() * s["step"])(back)
    assert float(total) == float(jax.jit(lambda s: s["w"].sum() * s["step"])(state)) != 0


def test_only_whole_checkpoints_and_only_the_last_ones_are_kept(tmp_path: Path):
    run = Checkpoints(tmp_path / "run", keep=2)
    assert run.latest({"x": 0}) is None
    for step in (0, 5, 7):
        run.save(step, {"x": step})
    assert run.steps() == [5, 7]
    assert run.latest({"x": 0}) == (7, {"x": 7})
    with pytest.raises(CheckpointError, match=r"got 7; expected a step after 7"):
        run.save(7, {"x": 1})
    with pytest.raises(ConfigError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_a_killed_save_leaves_the_one_before(tmp_path: Path):
    """The second save is killed as soon as its first bytes appear."""
    folder = tmp_path / "state"
    code = (
        "import sys, numpy as np; from hagd_jax.parallel import save\n"
        "x = np.random.default_rng(0).normal(size=16_000_000)\n"
        "save(sys.argv[1], {'x': x[:9], 'n': 1}); print('saved', flush=True)\n"
        "save(sys.argv[1], {'x': x, 'n': 2}); print('too late', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "saved\n"
        deadline = time.monotonic() + 30
        while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.0005)
        child.send_signal(signal.SIGKILL)
        rest = child.communicate(timeout=30)[0]
    finally:
        child.kill()
    assert (child.returncode, rest) == (-signal.SIGKILL, "")
    assert len(os.listdir(folder)) == 2  # The half-written one is there, under another name.
    like = {"x": np.zeros(9), "n": 0}
    back = restore(folder, like)
    assert back["n"] == 1
    np.testing.assert_array_equal(back["x"], np.random.default_rng(0).normal(size=16_000_000)[:9])
    save(folder, back | {"n": 3})
    assert restore(folder, like)["n"] == 3
    assert len(os.listdir(folder)) == 1


def test_what_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match="nowhere: got no such folder"):
        restore(tmp_path / "nowhere", {"x": 0})
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(CheckpointError, match="an empty folder"):
        restore(tmp_path, {"x": 0})
    (tmp_path / "file").write_text("")
    for call in (lambda: restore(tmp_path / "file", 0), lambda: save(tmp_path / "file", 0)):
        with pytest.raises(CheckpointError, match="got a file"):
            call()


@pytest.mark.parametrize(
    ("like", "says"),
    [
        (
            {"a": np.zeros((2, 3)), "b": {"c": 0}},
            r"state\['a'\] in .*shape \(2, 4\), float64; expected shape \(2, 3\)",
        ),
        (
            {"a": np.zeros((2, 4), np.float32), "b": {"c": 0}},
            r"shape \(2, 4\), float64; expected .* float32",
        ),
        (
            {"a": np.zeros((2, 4)), "b": 0},
            r"lacks state\['b'\] \(1\); has besides state\['b'\]\['c'\] \(1\)",
        ),
        ({"a": np.zeros((2, 4))}, r"has besides state\['b'\]\['c'\]"),
        ({"a": np.zeros((2, 4)), "b": {"c": jax.random.key(0)}}, r"state\['b'\]\['c'\] in"),
    ],
)
def test_another_structure_or_shape_names_the_leaf(tmp_path: Path, like: Any, says: str):
    save(tmp_path, {"a": np.ones((2, 4)), "b": {"c": 1}})
    with pytest.raises(CheckpointError, match=says):
        restore(tmp_path, like)


@pytest.mark.parametrize("state", [{}, {"x": "text"}, {"x": object()}, {"x": jnp.zeros((0, 4))}])
def test_what_cannot_be_saved_is_refused(tmp_path: Path, state: Any):
    with pytest.raises(InputError, match="state"):
        save(tmp_path / "new", state)
    assert not (tmp_path / "new").exists()


DAMAGE = """
import pathlib, sys
import numpy as np, jax
from hagd_jax.errors import CheckpointError
from hagd_jax.parallel import make_mesh, restore, save, sharding

folder = pathlib.Path(sys.argv[1])
w = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
placed = sharding(make_mesh("data=2,model=4"), ("embed", "mlp"))
state = {"w": jax.device_put(w, placed), "n": np.arange(4000)}
save(folder, state)
outcomes = {"refused": 0, "whole": 0, "wrong": 0}
for file in sorted(path for path in folder.rglob("*") if path.is_file()):
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", None):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        try:
            back = restore(folder, state)
        except CheckpointError as error:
            assert "damaged files" in str(error), error
            outcomes["refused"] += 1
        else:
            same = np.array_equal(back["w"], w) and np.array_equal(back["n"], state["n"])
            outcomes["whole" if same else "wrong"] += 1
        file.write_bytes(content)
assert np.array_equal(restore(folder, state)["w"], w)
print(outcomes)
"""


def test_damaged_files_are_an_error_or_do_not_matter(tmp_path: Path):
    """Every file in turn is cut in half, emptied and removed: never other numbers.

    In a process of its own: Orbax leaves the reads of a damaged array's other shards un-awaited,
    and they warn whenever they happen to be collected.
    """
    command = [sys.executable, "-c", DAMAGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = ast.literal_eval(done.stdout)
    assert outcomes["wrong"] == 0
    assert outcomes["refused"] >= 12


def test_damage_is_told_once(tmp_path: Path, capfd, caplog):
    """Orbax begins all reads at once; those after the first that fails say nothing any more."""
    state = {f"w{i}": np.arange(20_000.0) + i for i in range(12)}
    save(tmp_path / "whole", state)
    files = sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.stat().st_size)
    refused = 0
    for number, path in enumerate(files * 2):
        shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        hurt = tmp_path / str(number) / path.relative_to(tmp_path / "whole")
        hurt.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if number % 2 else 9])
        try:
            restore(tmp_path / str(number), state)
        except DamagedError:
            refused += 1
    assert refused > 3
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelno >= 30]


def test_a_flipped_number_is_refused(tmp_path: Path, monkeypatch):
    """As if a bit had changed where the format has no checksum: the numbers are others."""
    state = {"w": np.arange(6.0), "n": 3}
    real = checkpoint.stored

    def flipped(name, leaf):
        value = np.array(real(name, leaf))
        return value + 1 if "w" in name else value

    with monkeypatch.context() as patched:
        sums = checkpoint.content_sums
        patched.setattr(checkpoint, "stored", flipped)
        patched.setattr(
            checkpoint, "content_sums", lambda flat: sums(flat | {"state['w']": state["w"]})
        )
        save(tmp_path, state)
    with pytest.raises(DamagedError, match=r"other numbers in state\['w'\]"):
        restore(tmp_path, state)


def test_states_from_before_there_were_sums_restore(tmp_path: Path, monkeypatch):
    state = {"w": np.arange(6.0), "n": 3}
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_SUMS", "state['more']")
        patched.setattr(checkpoint, "_sums", lambda *_: np.zeros(1))
        save(tmp_path, state)
    assert_same(restore(tmp_path, state | {"more": np.zeros(1)}), state | {"more": np.zeros(1)})


def test_what_another_run_or_another_step_has_left_is_damaged(tmp_path: Path, caplog):
    one, other = (Checkpoints(tmp_path / of, of=of) for of in ("one", "other"))
    one.save(1, {"x": np.ones(3)})
    for step in (1, 2):
        other.save(step, {"x": np.zeros(3)})
    shutil.copytree(tmp_path / "other" / "2", tmp_path / "one" / "2")
    assert one.latest({"x": np.ones(3)})[1]["x"].tolist() == [1, 1, 1]
    assert "what decides them" in caplog.text
    shutil.copytree(tmp_path / "one" / "1", tmp_path / "one" / "3")
    assert one.latest({"x": np.ones(3)})[0] == 1


def test_a_damaged_step_is_removed_and_the_one_before_it_used(tmp_path: Path, caplog):
    run = Checkpoints(tmp_path / "run")
    run.save(1, {"x": np.ones(3)})
    run.save(2, {"x": np.zeros(3) + 2})
    for file in (tmp_path / "run" / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    step, found = run.latest({"x": np.ones(3)})
    assert (step, found["x"].tolist()) == (1, [1.0, 1.0, 1.0])
    assert "damaged checkpoint is removed" in caplog.text
    assert run.steps() == [1]
    run.save(2, {"x": np.ones(3)})
    assert run.steps() == [1, 2]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("full")])
def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch, error):
    save(tmp_path, {"x": 1})

    def fail(*_, **__):
        (tmp_path / "1.orbax-checkpoint-tmp").mkdir()
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.ocp.CheckpointManager, "save", fail)
        with pytest.raises(CheckpointError, match="can be written"):
            save(tmp_path, {"x": 2})
    assert restore(tmp_path, {"x": 0}) == {"x": 1}
    assert os.listdir(tmp_path) == ["0"]
