"""Files of trees: the same tree comes back, and anything else is refused."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import read_arrays, save_arrays
from hagd_jax.tasks import Seen, look
from hagd_jax.units import Space, load_tree, save_tree
from hagd_jax.units.tree import tree_of
from tests.units.trees import trees

SPACE = Space(2, 2, 6)
THREES = np.arange(16) // 3
TREE = tree_of(SPACE, "runs/mine#1a2b3c4d", [THREES // 2, THREES], 2, look(ablation="mean"))


@settings(max_examples=30)
@given(trees())
def test_round_trip(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("tree") / "tree.safetensors"
    save_tree(found, path)
    read = load_tree(path)
    assert (read.digest, read.space, read.band) == (found.digest, found.space, found.band)
    assert [u.name for u in read.of_kind("cluster")] == [u.name for u in found.of_kind("cluster")]
    # A file that names no data is no record of how clusters were made.
    assert read.seen == (Seen.unknown() if found.levels else Seen.nothing())


def test_a_tree_keeps_its_history(tmp_path):
    save_tree(TREE, tmp_path / "t")
    assert load_tree(tmp_path / "t").seen == look(ablation="mean")
    assert load_tree(tmp_path / "t").dictionary == "runs/mine#1a2b3c4d"
    with pytest.raises(InputError, match="tree"):
        save_tree("mlp 0", tmp_path / "t")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "hagd_jax.units.tree 2"}, {"space": [2, 2]}, {"space": [2, 2, 7]},
        {"space": [2**31, 2, 6]}, {"space": [2**20, 2**20, 6]}, {"dictionary": 5}, {"band": 0},
        {"levels": 1}, {"levels": 3}, {"levels": -1}, {"levels": 10**9}, {"seen": None},
        {"seen": {"known": True}}, {"surprise": 1},
    ],
)  # fmt: skip
def test_broken_records(tmp_path, change):
    path = tmp_path / "tree.safetensors"
    save_tree(TREE, path)
    arrays, texts = read_arrays(path)
    save_arrays(path, arrays, {"tree": json.dumps(json.loads(texts["tree"]) | change)})
    with pytest.raises(CheckpointError, match=re.escape("tree.safetensors")):
        load_tree(path)


@pytest.mark.parametrize(
    "level", [np.arange(15), np.full(16, -1), np.zeros(16), np.arange(16).reshape(4, 4)]
)
def test_broken_clusters(tmp_path, level):
    path = tmp_path / "tree.safetensors"
    save_tree(TREE, path)
    arrays, texts = read_arrays(path)
    save_arrays(path, arrays | {"level1": level}, texts)
    with pytest.raises(CheckpointError, match=re.escape("tree.safetensors")):
        load_tree(path)


def test_other_files(tmp_path):
    save_arrays(tmp_path / "a", {"level0": np.arange(3)})
    with pytest.raises(CheckpointError, match="no record of a tree"):
        load_tree(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"\xff" * 40)
    for name in ("b", "absent", "."):
        with pytest.raises(CheckpointError):
            load_tree(tmp_path / name)
