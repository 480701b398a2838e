"""The tree of a model's units is made from its sizes, and from clusters of its leaves."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import read_array
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.dictionary import spans_of, whole_label
from hagd_jax.units.features import Source, as_dictionary
from hagd_jax.units.nodes import Space
from hagd_jax.units.split import whole_space
from hagd_jax.units.unit_tree import UnitTree

# Layers of a band, where the number is left open.
BANDWIDTH = 4
# The most that layers, which are int32, can be divided by, and that files may say.
_MOST_LAYERS = 2**31 - 1


def tree(
    model: LanguageModel,
    dictionary: Source | None = None,
    *,
    clusters: Sequence[np.ndarray] = (),
    band: int = BANDWIDTH,
    seen: Seen | None = None,
) -> UnitTree:
    """Make the tree of a model's units.

    Args:
        model: The model.
        dictionary: Whose nodes are the leaves; neurons by default.
        clusters: (N,) cluster of every leaf, of every whole one where the dictionary is split by
            span, one array for each level, coarsest first, such as
            `hierarchy.clusters_of` returns; clusters that reach over several blocks are cut there.
        band: Layers of a band; the last band may have fewer.
        seen: The data that decided the clusters, where they do not record it themselves. Clusters
            that no data decided have seen `Seen.nothing()`.

    Returns:
        The tree. Clusters of unrecorded history make its own unknown.

    Raises:
        InputError: If levels are of another length, do not nest, or hold anything but whole
            numbers of 0 or more.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=4)
        >>> found = tree(init(config, jax.random.key(0)), clusters=[np.arange(12) // 2])
        >>> [unit.name for unit in found.children("mlp 1")]
        ['cluster 1.0', 'cluster 1.1']
        >>> [unit.name for unit in found.rest(["attention 0", "cluster 1.0", "neuron 1.3"])]
        ['mlp 0', 'attention 1', 'neuron 1.2']
    """
    nodes = as_dictionary(model, dictionary)
    own = getattr(clusters, "seen", None)
    levels = require_list("clusters", clusters, "clusters of all leaves, one array for each level")
    told = [record for record in (own, seen) if record is not None]
    if not told:
        told = [Seen.unknown() if levels else Seen.nothing()]
    for record in told:
        require_is("seen", record, Seen)
    return tree_of(nodes.space, nodes.label, levels, band, functools.reduce(Seen.__or__, told))


def tree_of(
    space: Space, dictionary: str, levels: Sequence[Any], band: int, seen: Seen
) -> UnitTree:
    """Make a tree from sizes alone, see `tree`.

    Args:
        space: Numbers of layers, heads and features.
        dictionary: Label of the dictionary.
        levels: (N,) clusters of each level, coarsest first.
        band: Layers of a band.
        seen: The data that decided the clusters.

    Raises:
        InputError: As `tree`, or if the label names spans and the space is not split by as many.
    """
    require_is("space", space, Space)
    require_is("dictionary", dictionary, str)
    band = require_index("band", band)
    if not 1 <= band <= _MOST_LAYERS:
        raise InputError("band", got=band, expected=f"1 to {_MOST_LAYERS:,} layers")
    names = spans_of(dictionary)
    whole = whole_space(space, len(names))
    rows = [_level(level, whole) for level in levels]
    labels = block_of(whole).astype(np.int64)
    cut: list[np.ndarray] = []
    for row in rows:
        pairs = np.stack([labels, row])
        # A cluster is known by its first leaf, so that numbers given at will make no other tree.
        _, first, place = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        place = place.ravel()
        if cut and len(np.unique(np.stack([cut[-1], place]), axis=1)[0]) != len(first):
            raise InputError("clusters", got="a cluster in two of the level above",
                             expected="levels that nest, coarsest first")  # fmt: skip
        cut.append(np.argsort(np.argsort(first))[place].astype(np.int32))
    found = UnitTree(whole, whole_label(dictionary), band, tuple(cut), seen)
    return found.by_span(names) if names else found


def block_of(space: Space) -> np.ndarray:
    """Return the (N,) int32 block of every leaf: twice its layer, and one more inside MLPs."""
    layers, heads, features = space
    inside = np.repeat([0, 1], [layers * heads, layers * features])
    return (2 * space.layer + inside).astype(np.int32)


def _level(level: Any, space: Space) -> np.ndarray:
    row = np.asarray(read_array("a level of the clusters", level))
    if row.shape != (space.nodes,):
        raise InputError("clusters", got=f"a level of shape {row.shape}",
                         expected=f"one number for each of {space.nodes} leaves")  # fmt: skip
    if not np.issubdtype(row.dtype, np.integer) or (len(row) and int(row.min()) < 0):
        raise InputError("clusters", got="clusters that are no numbers", expected="0 or more")
    return row.astype(np.int64)
