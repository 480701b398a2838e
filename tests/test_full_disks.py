"""Every place that writes, at every system call that may fail: a sentence, and nothing lost.

The writer's few system calls are in `files.system`; each in turn says that the disk is full, or
read-only, or broken, after half of what it should have written.
"""

import dataclasses
import errno
import functools
import json
import os

import jax
import numpy as np
import pytest

from hagd_jax import graphs, meta, models, transcoders
from hagd_jax.causal import Circuit
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import save_arrays, system, write_atomic
from hagd_jax.graphs.graph import GraphInfo, LogitTarget, NodeTable, make_graph
from hagd_jax.models import DecoderConfig, Tokenizer
from hagd_jax.pipeline import RunFolder
from hagd_jax.tasks import modular
from hagd_jax.testbeds import small_cache
from hagd_jax.testbeds.small_training import SmallTrainConfig, decoder_config
from hagd_jax.transcoders import TranscoderConfig
from hagd_jax.transcoders.contexts.context import Contexts, LayerContexts

CALLS = ("make_folder", "create", "extend", "write", "settle", "replace", "move")
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)
CONFIG = DecoderConfig(vocab_size=7, n_layers=1, d_model=4, n_heads=2, d_mlp=4, max_positions=4)
RULE = modular.algorithm(7)


def zeros(tree, value):
    """The same arrays everywhere, without a compiled program."""
    return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), tree)


def model(value):
    shapes = models.abstract(CONFIG)
    tokenizer = Tokenizer.words([f"w{i}" for i in range(7)])
    return shapes.replace(params=zeros(shapes.params, value), tokenizer=tokenizer)


def transcoder(value):
    config = TranscoderConfig(n_layers=2, d_model=4, n_features=6, k=2)
    shapes = jax.eval_shape(lambda: transcoders.init(config, jax.random.key(0)))
    return shapes.replace(params=zeros(shapes.params, value))


def graph(value):
    one = np.ones(2, np.float32)
    table = NodeTable(
        kind=np.array([1, 3], np.int8), layer=np.zeros(2, np.int32),
        position=np.zeros(2, np.int32), index=np.array([0, 1], np.int32), activation=one * value,
        weight=one, folded=np.ones((2, 2), np.float32), remainder=one,
    )  # fmt: skip
    names = {field.name for field in dataclasses.fields(GraphInfo)}
    target = LogitTarget("x", (1,), (1.0,))
    info = {"tokens": (1,), "words": ("a",), "targets": (target,), "model": "m", "active": 1,
            "dictionary": "neurons", "layers": 1, "features": 2}  # fmt: skip
    assert info.keys() <= names
    ends = np.array([0]), np.array([1])
    return make_graph(table, *ends, np.full(1, value, np.float32), GraphInfo(**info))


def contexts(value):
    places = np.zeros((1, 1), np.int32)
    layer = LayerContexts(
        np.zeros(1, np.int32), np.full((1, 1), value, np.float32), places, places,
        np.ones((1, 1, 3), np.float16),
    )  # fmt: skip
    return Contexts(
        model="m", transcoder="t", digest="d", window=(1, 1), tokens=np.zeros((1, 4), np.int32),
        weight=np.ones((1, 4), np.float32), fired=np.ones((1, 2), np.int32),
        largest=np.ones((1, 2), np.float32), layers={0: layer},
    )  # fmt: skip


@functools.cache
def shipped():
    return meta.load()


def cached(folder, value, monkeypatch):
    """The small model's cache, which trains what it is told to."""
    config = SmallTrainConfig(d_model=8, n_heads=2, d_mlp=8, steps=2)
    shapes = models.abstract(decoder_config(RULE, config))
    made = shapes.replace(
        params=zeros(shapes.params, value), tokenizer=Tokenizer.words(RULE.words),
        name=RULE.model_name,
    )  # fmt: skip
    monkeypatch.setattr(small_cache, "train_small", lambda *_, **__: made)
    monkeypatch.setattr(small_cache, "_cached", lambda *_, **__: None)
    return small_cache.small_model(RULE, config=config, folder=folder)


# Name → what writes a value below a folder.
SITES = {
    "text": lambda at, v, _: write_atomic(at / "new" / "a.txt", str(v)),
    "arrays": lambda at, v, _: save_arrays(at / "a.safetensors", {"a": np.full(3, v)}),
    "log": lambda at, v, _: RunFolder(at).log("score", step=v),
    "rewind": lambda at, v, _: (RunFolder(at).rewind("score", 0), RunFolder(at).log("a", step=v)),
    "npz": lambda at, v, _: RunFolder(at).keep("a.npz", a=np.full(3, v)),
    "circuit": lambda at, v, _: Circuit((), (), (1, 2, 3), model="m", task="t", seed=v).save(
        at / "c.json"
    ),
    "model": lambda at, v, _: models.save(
        model(v), at / "model", overwrite=True, max_shard_bytes=200
    ),
    "transcoder": lambda at, v, _: transcoders.save(transcoder(v), at / "transcoder"),
    "contexts": lambda at, v, _: transcoders.save_contexts(contexts(v), at / "contexts"),
    "graph": lambda at, v, _: graphs.save_graph(graph(v), at / "graph.safetensors"),
    "neuronpedia": lambda at, v, _: graphs.to_neuronpedia(graph(v), at / "graph.json"),
    "learner": lambda at, v, _: meta.save(
        dataclasses.replace(shipped(), params=zeros(shipped().params, v)), at / "learner"
    ),
    "cache": cached,
}


def snapshot(folder):
    """Every file and folder, with what it holds; the log's times are not of interest."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in paths}


class Disk:
    """Counts the writer's system calls, and fails at one of them."""

    def __init__(self, monkeypatch, fails_at=None, number=None):
        self.count, self.fails_at, self.number = 0, fails_at, number
        for name in CALLS:
            real = getattr(system, name)
            monkeypatch.setattr(system, name, lambda *a, _n=name, _r=real: self.call(_n, _r, *a))

    def call(self, name, real, *arguments):
        self.count += 1
        if self.count - 1 == self.fails_at:
            if name == "write":
                file, content = arguments
                real(file, content[: len(content) // 2])
            raise OSError(self.number, os.strerror(self.number))
        return real(*arguments)


@pytest.mark.parametrize("site", sorted(SITES))
def test_the_last_good_state_is_kept_whatever_fails(tmp_path, monkeypatch, site):
    write, folder = SITES[site], tmp_path / "at"
    folder.mkdir()
    write(folder, 1, monkeypatch)
    before = snapshot(folder)
    assert before
    with monkeypatch.context() as patched:
        disk = Disk(patched)
        write(folder, 1, monkeypatch)
    assert disk.count >= 2
    before = snapshot(folder)
    for at in range(disk.count):
        with monkeypatch.context() as patched:
            number = ERRORS[at % len(ERRORS)]
            Disk(patched, at, number)
            with pytest.raises(CheckpointError, match=os.strerror(number)) as error:
                write(folder, 2, monkeypatch)
        assert "\n" not in str(error.value)
        if site != "rewind":
            assert snapshot(folder) == before, at
        assert not [name for name in snapshot(folder) if name.rpartition("/")[2].startswith(".")]
    write(folder, 2, monkeypatch)
    after = snapshot(folder)
    assert after != before
    assert after.keys() == before.keys()


@pytest.mark.parametrize("fails", ["write", "truncate"])
def test_a_log_whose_last_line_failed_is_readable_and_goes_on(tmp_path, monkeypatch, fails):
    """Even if what was written of the line could not be taken back."""
    run = RunFolder(tmp_path)
    run.log("score", step=1)
    with monkeypatch.context() as patched:
        Disk(patched, 1, errno.ENOSPC)
        if fails == "truncate":
            real = system.extend

            def extend(path):
                file = real(path)
                return Stuck(file)

            patched.setattr(system, "extend", extend)
        with pytest.raises(CheckpointError):
            run.log("score", step=2)
    raw = (tmp_path / "metrics.jsonl").read_bytes()
    assert raw.endswith(b"\n") == (fails == "write")
    run.log("score", step=3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 3]


class Stuck:
    """A file that cannot be cut."""

    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def truncate(self, size):
        raise OSError(errno.EIO, "Input/output error")


def test_names_that_are_too_long_are_a_sentence(tmp_path):
    for length, fits in ((250, True), (300, False)):
        file = tmp_path / ("é" * (length // 2))
        if fits:
            write_atomic(file, "x")
            assert file.read_text() == "x"
            continue
        with pytest.raises(InputError, match="names of at most 255 bytes") as error:
            write_atomic(file, "x")
        assert len(str(error.value)) < 600
