"""How the circuit track of MIB numbers the edges of a model, beside how this package does.

The benchmark (Mueller et al., 2025, arXiv:2504.13151) writes `input`, `a3.h2`, `m3` and `logits`
for components, and `a0.h1->a3.h2<q>` for an edge into the queries of a head. Its writers stand
block by block, and every query head has keys and values of its own, also where a model shares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hagd_jax.causal.edge_circuit import Shape
from hagd_jax.errors import InputError
from hagd_jax.units import Edges

# Pairs of writers and readers that arrays may have: a model of 80 layers with 64 heads fits.
MOST = 2**27
_NODE = r"input|logits|a(\d{1,6})\.h(\d{1,6})|m(\d{1,6})"
_NAMED = re.compile(_NODE)
_EDGE = re.compile(rf"(?P<writer>{_NODE})->(?P<reader>{_NODE})(?:<(?P<input>[qkv])>)?")


class Layout(NamedTuple):
    """A layout holds the sizes that decide which edges a benchmark file may name.

    Attributes:
        layers: L.
        heads: Query heads a layer.
        parallel: Whether the MLP reads what the heads of its layer read (GPT-NeoX).
    """

    layers: int
    heads: int
    parallel: bool

    @property
    def writers(self) -> int:
        """Return the number of components that write to the stream."""
        return 1 + self.layers * (self.heads + 1)

    @property
    def readers(self) -> int:
        """Return the number of inputs that read from it: q, k and v of heads, MLPs, logits."""
        return 1 + self.layers * (3 * self.heads + 1)

    def shape(self) -> Shape:
        """Return the shape of a model with these sizes whose heads share no keys."""
        return Shape(self.layers, self.heads, self.heads, self.parallel)

    def before(self) -> np.ndarray:
        """Return the (readers,) number of writers that come before each reader."""
        first = 1 + np.arange(self.layers) * (self.heads + 1)
        mlps = first + (0 if self.parallel else self.heads)
        by_layer = np.repeat(first[:, None], 3 * self.heads, 1)
        return np.append(np.concatenate([by_layer, mlps[:, None]], 1).ravel(), self.writers)

    def existing(self) -> np.ndarray:
        """Return a (writers, readers) mask that is true where an edge exists."""
        return np.arange(self.writers)[:, None] < self.before()

    def writer(self, name: str) -> int | None:
        """Return where a component writes; None if there is none of that name."""
        kind, layer, head = _parsed(name)
        if kind == "input":
            return 0
        if layer >= self.layers or head >= self.heads or kind not in ("a", "m"):
            return None
        return 1 + layer * (self.heads + 1) + (head if kind == "a" else self.heads)

    def place(self, name: str) -> tuple[int, int] | None:
        """Return the writer and the reader of an edge; None if there is no such edge."""
        found = _EDGE.fullmatch(name)
        if found is None:
            return None
        kind, layer, head = _parsed(found["reader"])
        writer = self.writer(found["writer"])
        if writer is None or (kind == "a") != (found["input"] is not None):
            return None
        if kind == "logits":
            return writer, self.readers - 1
        if kind not in ("a", "m") or layer >= self.layers or head >= self.heads:
            return None
        start = 1 + layer * (self.heads + 1)
        if writer >= start + (self.heads if kind == "m" and not self.parallel else 0):
            return None
        own = 3 * self.heads if kind == "m" else "qkv".index(found["input"]) * self.heads + head
        return writer, layer * (3 * self.heads + 1) + own

    def writer_names(self) -> list[str]:
        """Return the names of all writers, in order."""
        names = ["input"]
        for layer in range(self.layers):
            names += [f"a{layer}.h{head}" for head in range(self.heads)] + [f"m{layer}"]
        return names

    def reader_names(self) -> list[str]:
        """Return the ends of edges' names, in the order of readers."""
        names = []
        for layer in range(self.layers):
            names += [f"a{layer}.h{head}<{name}>" for name in "qkv" for head in range(self.heads)]
            names.append(f"m{layer}")
        return [*names, "logits"]

    def order(self) -> Iterator[tuple[int, int]]:
        """Yield the (writer, reader) of every edge in the order of the benchmark's files."""
        heads, width = self.heads, 3 * self.heads + 1
        for layer in range(self.layers):
            start = 1 + layer * (heads + 1)
            mlp = layer * width + 3 * heads
            for writer in range(start):
                for head in range(heads):
                    yield from ((writer, layer * width + i * heads + head) for i in range(3))
                if self.parallel:
                    yield writer, mlp
            if not self.parallel:
                yield from ((writer, mlp) for writer in range(start + heads))
        yield from ((writer, self.readers - 1) for writer in range(self.writers))


def as_edges(layout: Layout, matrix: np.ndarray, keys: int) -> Edges:
    """Convert a (writers, readers) array to `Edges` of a model with so many key/value heads.

    Args:
        layout: What the array is of.
        matrix: The array.
        keys: Key/value heads a layer, which divide the query heads.

    Returns:
        `Edges`.

    Raises:
        InputError: If query heads that share a key or a value disagree, naming the edge.
    """
    layers, heads = layout.layers, layout.heads
    rows = matrix[_writers(layout)].T  # (readers, writers)
    blocks = rows[:-1].reshape(layers, 3 * heads + 1, layout.writers)
    q, k, v = (blocks[:, i * heads : (i + 1) * heads] for i in range(3))
    if heads % keys:
        raise InputError("key/value heads", got=keys, expected=f"a divisor of {heads}")
    k, v = (_one_of_each(layout, name, x, keys) for name, x in (("k", k), ("v", v)))
    return Edges(q.copy(), k, v, blocks[:, -1].copy(), rows[-1].copy())


def as_matrix(edges: Edges) -> np.ndarray:
    """Convert `Edges` to a (writers, readers) array; the inverse of `as_edges`."""
    q, k, v, mlp, final = (np.asarray(value) for value in vars(edges).values())
    layers, heads, _ = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], 1) for x in (k, v))
    blocks = np.concatenate([q, k, v, mlp[:, None]], 1).reshape(-1, q.shape[-1])
    rows = np.concatenate([blocks, final[None]])
    matrix = np.zeros(rows.T.shape, rows.dtype)
    matrix[_writers(Layout(layers, heads, False))] = rows.T
    return matrix


def _one_of_each(layout: Layout, name: str, rows: np.ndarray, keys: int) -> np.ndarray:
    """(L, H, W) to (L, K, W), where all of a group are the same."""
    group = layout.heads // keys
    apart = rows.reshape(layout.layers, keys, group, -1)
    differs = np.argwhere(apart != apart[:, :, :1])
    if len(differs):
        layer, key, own, writer = differs[0].tolist()
        head = key * group + own
        written = layout.writer_names()[int(_writers(layout)[writer])]
        raise InputError(
            f"edge {written}->a{layer}.h{head}<{name}>",
            got=f"another value than for head {key * group}, which reads the same {name}",
            expected=f"one value for the {group} heads that share it",
            mend="Read the file for `models.ungrouped(model)`, whose heads share nothing.",
        )
    return apart[:, :, 0].copy()


def _writers(layout: Layout) -> np.ndarray:
    """(W,) where the writers of `Edges` stand in the benchmark's order."""
    starts = 1 + np.arange(layout.layers) * (layout.heads + 1)
    heads = (starts[:, None] + np.arange(layout.heads)).ravel()
    return np.concatenate([[0], heads, starts + layout.heads])


def _parsed(name: str) -> tuple[str, int, int]:
    """`a3.h2` → ("a", 3, 2); a name that is none, or has leading zeros, gets no kind."""
    found = _NAMED.fullmatch(name)
    if found is None:
        return "", 0, 0
    digits = [part for part in found.groups() if part is not None]
    if any(part != str(int(part)) for part in digits):
        return "", 0, 0
    if not digits:
        return name, 0, 0
    return name[0], int(digits[0]), int(digits[1]) if name[0] == "a" else 0
