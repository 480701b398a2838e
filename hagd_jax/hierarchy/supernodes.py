"""Supernodes of one prompt's graph, with names a reader understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError, require_index, require_number, shown
from hagd_jax.graphs import AttributionGraph, influence, prune
from hagd_jax.graphs.graph import FEATURE
from hagd_jax.hierarchy.coarsen import HierarchyConfig, coarsen, level_of
from hagd_jax.hierarchy.weights import Weights, relative, weights

Names = Callable[[int], Sequence[str]]


def supernodes(
    graph: AttributionGraph,
    config: HierarchyConfig = HierarchyConfig(ratio=1 / 8, band=4),
    *,
    most: int = 24,
    names: Names | None = None,
    seed: int = 0,
) -> list[tuple[str, list[int]]]:
    """Group related features of a prompt's graph by spectral coarsening, and name the groups.

    The features that pruning leaves are coarsened, in bands of layers, until there are few enough
    supernodes. A supernode is called after its layers and the two words that its members stand for
    most, weighed by their influence.

    Args:
        graph: Of one prompt.
        config: How the graph is coarsened.
        most: Supernodes, at most.
        names: Feature node → the words it stands for, such as the tokens that it fires on most;
            the word at its position if None.
        seed: Of the coarsening.

    Returns:
        (name, node numbers) of each, the most influential first.

    Raises:
        ConfigError: If `most` is not positive.
        InputError: If it is another kind of graph.

    Example:
        >>> import jax
        >>> from hagd_jax import graphs, models, transcoders
        >>> from hagd_jax.hierarchy import supernodes
        >>> config = models.DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = models.init(config, jax.random.key(0))
        >>> sizes = transcoders.TranscoderConfig(n_layers=2, d_model=8, n_features=24, k=4)
        >>> features = transcoders.init(sizes, jax.random.key(0))
        >>> noise = lambda x: jax.random.normal(jax.random.key(1), x.shape)
        >>> features = features.replace(params=jax.tree.map(noise, features.params))
        >>> graph = graphs.attribute(model, features, [1, 2, 3, 4])
        >>> 1 <= len(supernodes(graph, most=4)) <= 4
        True
    """
    if not isinstance(graph, AttributionGraph):
        raise InputError("graph", got=type(graph).__name__, expected="an AttributionGraph",
                         mend="Make one with graphs.attribute.")  # fmt: skip
    require_number("most", most, least=1, whole=True)
    seed = require_index("seed", seed)
    if names is not None and not callable(names):
        raise InputError("names", got=shown(names), expected="a function of a node's number")
    table = graph.nodes
    inside = np.asarray(prune(graph).nodes) & (np.asarray(table.kind) == FEATURE)
    chosen, worth = np.flatnonzero(inside), influence(graph)
    if not len(chosen):
        return []
    number = np.full(len(inside), -1)
    number[chosen] = np.arange(len(chosen))
    own = inside[graph.senders] & inside[graph.receivers]
    ends = number[graph.senders[own]], number[graph.receivers[own]]
    tied = weights(*ends, relative(graph.weights[own]), len(chosen))
    found = coarsen(tied, config, layer=np.asarray(table.layer)[chosen], seed=seed)
    levels = [np.arange(len(chosen)), *found.clusters()[::-1]]
    level = next((row for row in levels if row.max() < most), None)
    if level is None:
        level = _few(found.levels[-1].weights if found.levels else tied, levels[-1], most, config)
    groups = [chosen[level == n] for n in range(level.max() + 1)]
    groups.sort(key=lambda members: -worth[members].sum())
    return [(_name(graph, members, worth, names), members.tolist()) for members in groups]


def _few(weights: Weights, level: np.ndarray, most: int, config: HierarchyConfig) -> np.ndarray:
    """The coarsest level clustered once more, across bands, where it has too many supernodes."""
    alike = jnp.zeros(weights.count, jnp.int32), jnp.zeros(most, jnp.int32)
    return np.asarray(level_of(weights, *alike, jax.random.key(0), config).cluster)[level]


def _name(
    graph: AttributionGraph, members: np.ndarray, worth: np.ndarray, names: Names | None
) -> str:
    layers = np.asarray(graph.nodes.layer)[members]
    counted: dict[str, float] = {}
    for node in members.tolist():
        words = names(node) if names is not None else [_word(graph, node)]
        for word in words:
            counted[word] = counted.get(word, 0.0) + float(worth[node]) / len(words)
    best = sorted(counted, key=lambda word: -counted[word])[:2]
    ends = dict.fromkeys((int(layers.min()), int(layers.max())))
    return f"L{'-'.join(map(str, ends))} {' '.join(repr(word) for word in best)}"


def _word(graph: AttributionGraph, node: int) -> str:
    info, position = graph.info, int(graph.nodes.position[node])
    return info.words[position] if info.words else f"#{info.tokens[position]}"
