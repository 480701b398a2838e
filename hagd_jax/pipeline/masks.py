"""Stage 4: circuits of all sizes, from trained masks or from the highest scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hagd_jax.causal import sizes_of
from hagd_jax.errors import CheckpointError
from hagd_jax.parallel import agree
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.search import MaskState, init_masks, search_masks, top_nodes
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes

_FILE = "search.npz"


class Searched(NamedTuple):
    """The result of a search.

    Attributes:
        circuits: Size → circuit, for the size asked for and those of the curve.
        ranks: What each node was kept by, at the size asked for: logits of masks, or scores.
        by: `masks` or `top`.
    """

    circuits: Mapping[int, Nodes]
    ranks: Nodes
    by: str


def looks(context: Context, left: Left) -> Seen:
    """The discover split under the ablations of the search."""
    if keeps_top(context, left):
        return Seen.nothing()
    return context.task.look("discover", ablation=context.config.ablations)


def keeps_top(context: Context, left: Left) -> bool:
    """Whether the nodes with the highest scores are the circuit, without a search."""
    total = left["score"].space.nodes
    return context.config.search == "top" or context.config.size(total) == total


def top_of(context: Context, scores: Nodes) -> dict[int, Nodes]:
    """Size → the nodes with the highest scores."""
    total = scores.space.nodes
    sizes = sorted({*sizes_of(total), context.config.size(total)})
    return {size: top_nodes(scores, size) for size in sizes}


def search(context: Context, left: Left) -> Searched:
    """Circuits of all sizes.

    Raises:
        CheckpointError: If the run's masks are broken, or of another model.
    """
    scores, run = left["score"], context.run
    top = top_of(context, scores)
    if keeps_top(context, left):
        return Searched(top, scores, "top")
    size = context.config.size(scores.space.nodes)
    sizes = trained_sizes(context, scores)
    found = run.kept(_FILE) if run else None
    if found is None:
        found = {"sizes": np.array(sizes), "kept": _kept(context, left, sizes, size)}
        if run is not None:
            run.keep(_FILE, **found)
    kept = _checked(found, sizes, scores, context)
    circuits = {k: top_nodes(row, k) for k, row in kept.items()}
    return Searched(top | circuits, odds(kept[size]), "masks")


def trained_sizes(context: Context, scores: Nodes) -> list[int]:
    """The sizes that are read from masks while they shrink."""
    config, total = context.config, scores.space.nodes
    size = config.size(total)
    some = {k for k in sizes_of(total) if k < config.masks.start * total}
    return sorted({*some, size})


def odds(kept: Nodes) -> Nodes:
    """Log-probabilities of being open, as logits: those are easier to read near 1."""
    chance = np.minimum(kept.flat(), -1e-7)
    return kept.like(chance - np.log(-np.expm1(chance)))


def _kept(context: Context, left: Left, sizes: list[int], size: int) -> np.ndarray:
    """(sizes, N) ranks of all nodes, from masks trained since the last checkpoint."""
    config, run = context.config, context.run
    tree, prior = left["hierarchy"]
    key = jax.random.key(config.seed)
    start = init_masks(key, prior.flat(), config.masks, tree=tree, sizes=len(sizes))
    saved = [time.monotonic()]
    resumed = run.masks.latest(start) if run else None
    if run is not None:
        run.rewind("masks", resumed[0] if resumed else 0)

    def on_state(state: MaskState) -> None:
        step, now = int(state.step), time.monotonic()
        # All processes save together, so one clock decides.
        late = now - saved[0] >= context.save_every or step == config.masks.steps
        if run is not None and agree(late):
            run.masks.save(step, state)
            saved[0] = now

    def on_steps(step: int, steps: int, metrics: dict[str, float]) -> None:
        context.log("masks", step=step, **metrics)
        context.progress("masks", step, steps)

    _, state = search_masks(
        context.model, context.discover, prior, sizes, config.masks, least=size, tree=tree,
        dictionary=left["features"].nodes, state=resumed[1] if resumed else start,
        on_state=on_state, on_steps=on_steps,
    )  # fmt: skip
    return np.asarray(state.kept)


def _checked(
    found: dict[str, Any], sizes: list[int], scores: Nodes, context: Context
) -> dict[int, Nodes]:
    """Size → ranks of all nodes."""
    rows, own = (found.get(name, np.zeros(0)) for name in ("kept", "sizes"))
    shape = len(sizes), scores.space.nodes
    if np.shape(rows) != shape or not np.array_equal(own, sizes):
        raise CheckpointError(
            str(context.run.path / _FILE if context.run else _FILE),
            got=f"ranks of shape {np.shape(rows)}", expected=f"{shape} for sizes {sizes}",
            mend="Do the search again: --from search.",
        )  # fmt: skip
    return {k: Nodes.from_flat(scores.space, row) for k, row in zip(sizes, rows, strict=True)}
