"""Clusters that a run's folder holds are those of its nodes, or are refused."""

import numpy as np
import pytest

from hagd_jax.errors import CheckpointError
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.pipeline import ExtractConfig, levels
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Scores, Space

SPACE = Space(2, 2, 12)
CONFIG = ExtractConfig(nodes="4", search="masks", hierarchy=HierarchyConfig(least=2, ratio=0.5))
MODEL = abstract(DecoderConfig(vocab_size=3, n_layers=2, d_model=4, n_heads=2, d_mlp=12))


def good():
    counts = levels.graph_size(CONFIG, SPACE).counts
    found = {f"level{i}": np.arange(28, dtype=np.int32) * n // 28 for i, n in enumerate(counts)}
    return {"prior": np.arange(28, dtype=np.float32), **found}


def read(folder, arrays):
    run = RunFolder(folder)
    run.keep(levels.FILE, **arrays)
    left = Left({"score": Scores(Nodes.full(SPACE, 1.0), Seen.nothing())})
    return levels.kept(Context(MODEL, None, CONFIG, run=run), left)


def test_clusters_are_read_as_they_are(tmp_path):
    found, want = read(tmp_path, good()), good()
    assert len(found.tree.clusters) == len(found.tree.counts) == 2
    np.testing.assert_array_equal(found.tree.clusters, [want["level0"], want["level1"]])
    np.testing.assert_array_equal(found.prior.flat(), want["prior"])


@pytest.mark.parametrize(
    ("name", "change"),
    [("level0", lambda x: x + 7), ("level1", lambda x: x - 1), ("level0", lambda x: x + 0.5),
     ("prior", lambda x: x * np.nan), ("prior", lambda x: x > 1)],
)  # fmt: skip
def test_what_is_no_cluster_is_refused(tmp_path, name, change):
    arrays = good()
    with pytest.raises(CheckpointError, match=name):
        read(tmp_path, arrays | {name: change(arrays[name])})
