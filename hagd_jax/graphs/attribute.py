"""The attribution graph of one prompt."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.files import finite
from hagd_jax.graphs.config import AttributionConfig
from hagd_jax.graphs.graph import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    AttributionGraph,
    GraphInfo,
    LogitTarget,
    NodeTable,
    make_graph,
)
from hagd_jax.graphs.memory import Memory, memory_of, on_host, require_memory
from hagd_jax.graphs.prompt import HeldPrompt, hold_prompt, prompt_tokens
from hagd_jax.graphs.rows import block_size
from hagd_jax.graphs.stored_rows import Columns, StoredRows, stored_rows
from hagd_jax.graphs.targets import choose_logits, logit_targets
from hagd_jax.models import LanguageModel, token_label
from hagd_jax.models.digest import digest
from hagd_jax.parallel import replicate
from hagd_jax.units import Directed, LazyFeatures, Source, directed, doubt

_LOG = logging.getLogger("hagd_jax")


def attribute(
    model: LanguageModel,
    dictionary: Source | None,
    prompt: Any,
    config: AttributionConfig = AttributionConfig(),
    *,
    targets: Iterable[str | int | LogitTarget] | str | int | LogitTarget | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> AttributionGraph:
    """Attribute the logits of a prompt to features, errors and tokens by frozen gradients.

    Attention patterns, norm denominators and MLP outputs are held at what they are; the rest is
    linear, and A[t, s] is the gradient of t's input along what s writes. Windows, norms and soft
    caps of scores act within the patterns. A soft cap of logits is its tangent at this prompt,
    what that leaves being a constant, as biases are: a row and its constant sum to the logit that
    the model puts out, less the mean logit. Rows are computed for the logits first, then for the
    features of most influence on them, again and again until there are `max_feature_nodes`.

    Args:
        model: The model, on any mesh: targets are split over `data`, features over `model`.
        dictionary: A transcoder for this model, in memory or opened with `transcoders.open_lazy`;
            None for its own neurons.
        prompt: Text, or token ids (T,).
        config: What the graph holds.
        targets: Output tokens, ids or directions (`difference_target`); None for likely tokens.
        progress: Called with features done and to do.
        tell: Called with a line about the memory that the run will take, before it is taken, and
            with one about what the features leave unexplained.

    Returns:
        The graph.

    Raises:
        InputError: If the prompt, a target or the dictionary does not fit the model, no feature
            is active, activations are not finite, or the run needs more memory than allowed.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> attribute(model, None, [1, 2, 3, 4], targets=5)
        AttributionGraph(54 nodes, ... features, 4 tokens, targets '#5')
    """
    nodes = directed(model, dictionary)
    tokens = prompt_tokens(model, prompt)
    check = functools.partial(_check_memory, model, nodes, config, tell)
    ready = hold_prompt(model, nodes, tokens, config.skip_positions, check)
    _tell_unexplained(ready, nodes.name, tell)
    chosen = choose_logits(model, ready.probabilities, config, targets)
    activation = np.asarray(replicate(ready.found.activation, model.mesh))
    active = int(np.count_nonzero(activation))
    if not active:
        raise InputError(
            "features",
            got="none active in this prompt",
            expected="some",
            mend=f"Positions {config.skip_positions} are skipped: is the prompt longer?",
        )
    most = min(config.max_feature_nodes, active)
    columns = Columns(*activation.shape)
    stored = stored_rows(most + len(chosen), columns, config.edges_per_node)
    selected = _greedy(ready, chosen, activation, stored, config, most, progress)
    return _graph(model, nodes, tokens, ready, chosen, stored, selected, config)


def _tell_unexplained(ready: HeldPrompt, name: str, tell: Callable[[str], None] | None) -> None:
    """Say how much of the MLP outputs features explain, and warn if that is nothing."""
    if ready.fvu is None or not np.isfinite(ready.fvu).any():
        return
    if tell is not None:
        tell(
            f"unexplained by the features here: {np.nanmedian(ready.fvu):.2f} of the variance of "
            "MLP outputs, in the median of layers"
        )
    if said := doubt(ready.fvu, name):
        _LOG.warning(said)


def _check_memory(
    model: LanguageModel,
    nodes: Directed,
    config: AttributionConfig,
    tell: Callable[[str], None] | None,
    columns: Columns,
    active: int | None,
) -> None:
    """Say what a run will take, at least if that is all one knows; refuse one that won't fit."""
    edges, lazy = nodes.edges, isinstance(nodes, LazyFeatures)
    stacked = columns.slots < nodes.space.features

    def estimate(other: AttributionConfig) -> Memory:
        features = 1 if active is None else active
        need = memory_of(model.config, columns, edges, other, features=features, stacked=stacked)
        rows = min(features, columns.positions * columns.slots, nodes.space.features)
        return need.with_rows(model.config, edges, rows) if lazy else need

    if tell is not None:
        sure = "at least" if active is None else "about"
        tell(f"memory beside the model: {sure} {estimate(config)}")
    require_memory(estimate, config, on_host=on_host(model.mesh))


def _greedy(
    ready: HeldPrompt,
    chosen: list[LogitTarget],
    activation: np.ndarray,
    stored: StoredRows,
    config: AttributionConfig,
    most: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Rows of the logits, then of the most influential features; (S,) slots of those, rising."""
    layers = len(activation)
    weights = np.array([target.weight for target in chosen])
    for start in range(0, len(chosen), config.batch_size):
        part = chosen[start : start + config.batch_size]
        made = logit_targets(ready.model, ready.held, part, ready.length - 1, config.batch_size)
        stored.add(ready.rows(made), np.full(len(part), -1), np.full(len(part), layers))
    index = None if ready.found.index is None else np.asarray(ready.found.index).ravel()
    flat = activation.ravel()
    if progress is not None and most:
        progress(0, most)
    if most == np.count_nonzero(flat):
        everything = np.flatnonzero(flat)
        _feature_rows(ready, everything, index, stored, config)
        if progress is not None:
            progress(most, most)
        return everything
    waiting = flat != 0
    done = 0
    while done < most:
        influence = stored.influence(weights)[: len(flat)]
        count = min(config.update_every, most - done)
        best = _first(np.where(waiting, influence, -1), count)
        _feature_rows(ready, best, index, stored, config)
        waiting[best] = False
        done += count
        if progress is not None:
            progress(done, most)
    return np.flatnonzero((flat != 0) & ~waiting)


def _first(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the largest values; of equal ones the first."""
    smallest = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > smallest)
    level = np.flatnonzero(values == smallest)[: count - len(above)]
    return np.concatenate([above, level])


def _feature_rows(
    ready: HeldPrompt,
    slots: np.ndarray,
    index: np.ndarray | None,
    stored: StoredRows,
    config: AttributionConfig,
) -> None:
    """Rows of features: together those that need as many positions, from the top layer down."""
    c, size = stored.columns, config.batch_size
    layer, rest = np.divmod(slots, c.positions * c.slots)
    position, slot = np.divmod(rest, c.slots)
    feature = slot if index is None else index[slots]
    # In blocks of positions, so that rows of few positions do not wait for longer ones.
    blocks = position // block_size(c.positions)
    order = np.lexsort((-layer, blocks))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        filled = [
            np.pad(x[chosen], (0, size - len(chosen)), constant_values=empty)
            for x, empty in ((layer, -1), (position, 0), (feature, 0))
        ]
        made = ready.features(*filled)
        stored.add(ready.rows(made), slots[chosen], layer[chosen])


def _graph(
    model: LanguageModel,
    nodes: Directed,
    tokens: np.ndarray,
    ready: HeldPrompt,
    chosen: list[LogitTarget],
    stored: StoredRows,
    selected: np.ndarray,
    config: AttributionConfig,
) -> AttributionGraph:
    """Nodes and edges in their order, and what was computed in the order it was computed."""
    c, length = stored.columns, len(tokens)
    errors = (c.features + np.arange(c.layers)[:, None] * c.positions + np.arange(length)).ravel()
    columns = np.concatenate([selected, errors, c.embeddings + np.arange(length)])
    # Row r is that of node number[r]: features by their place among the selected, logits last.
    slot = stored.slot[: stored.count]
    logits = np.cumsum(slot < 0) - 1 + len(columns)
    number = np.where(slot < 0, logits, np.searchsorted(selected, slot))
    order = np.argsort(number)
    edges, number = stored.edges(columns, order), number[order]
    table = _table(ready, chosen, tokens, selected, c)
    table.folded[number], table.remainder[number] = edges.folded, edges.remainder
    words = (
        ()
        if model.tokenizer is None
        else tuple(token_label(model.tokenizer, int(i)) for i in tokens)
    )
    info = GraphInfo(
        model=model.name,
        dictionary=nodes.label,
        tokens=tuple(map(int, tokens)),
        words=words,
        targets=tuple(chosen),
        layers=c.layers,
        features=nodes.space.features,
        active=int(np.count_nonzero(np.asarray(ready.found.activation))),
        settings=finite(dataclasses.asdict(config)),
        weights=digest(model),
        per_expert=nodes.per_expert,
    )
    return make_graph(table, edges.columns, number[edges.rows], edges.weights, info)


def _table(
    ready: HeldPrompt,
    chosen: list[LogitTarget],
    tokens: np.ndarray,
    selected: np.ndarray,
    c: Columns,
) -> NodeTable:
    """The nodes, without their sums."""
    length, count = len(tokens), len(selected)
    layer, rest = np.divmod(selected, c.positions * c.slots)
    position, slot = np.divmod(rest, c.slots)
    index = slot
    if ready.found.index is not None:
        index = np.asarray(ready.found.index).ravel()[selected]
    sizes = (count, c.layers * length, length, len(chosen))
    single = [t.tokens[0] if len(t.tokens) == 1 else -1 for t in chosen]
    total = sum(sizes)
    activation, weight = np.zeros(total, np.float32), np.zeros(total, np.float32)
    activation[:count] = np.asarray(ready.found.activation).ravel()[selected]
    weight[total - len(chosen) :] = [target.weight for target in chosen]
    errors, last = np.divmod(np.arange(sizes[1]), length), np.full(len(chosen), length - 1)
    places = np.concatenate([position, errors[1], np.arange(length), last])
    layers = [layer, errors[0], np.full(length, -1), np.full(len(chosen), c.layers)]
    return NodeTable(
        kind=np.repeat([FEATURE, ERROR, EMBEDDING, LOGIT], sizes).astype(np.int8),
        layer=np.concatenate(layers).astype(np.int32),
        position=places.astype(np.int32),
        index=np.concatenate([index, np.full(sizes[1], -1), tokens, single]).astype(np.int32),
        activation=activation,
        weight=weight,
        folded=np.zeros((total, 2), np.float32),
        remainder=np.zeros(total, np.float32),
    )
