"""The edges that can exist between units: who writes before whom, and to which input of whom."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.models.arrays import read_array
from hagd_jax.units.nodes import Space
from hagd_jax.units.unit import ATTENTION, BAND, MLP, Unit, require_antichain

EMBED, LOGITS = "embed", "logits"
# Inputs by the block of the reader: a band of layers has a single one.
INPUTS = {ATTENTION: ("q", "k", "v"), MLP: ("mlp",), "": ("stream",)}
# Each unit that reads runs its block once in every pass, and edges grow as the square.
_MOST = 512


class UnitEdge(NamedTuple):
    """An edge between units is given by the names of its ends and the input that it enters.

    Attributes:
        source: Name of the unit that writes, or `embed`.
        reader: Name of the unit that reads, or `logits`.
        input: `q`, `k` or `v` of attention, `mlp`, `stream` of a band of layers, or `logits`.
    """

    source: str
    reader: str
    input: str


@struct.dataclass
class UnitEdges:
    """Values of the edges between some units, such as a mask or scores, in the order of a frame.

    Attributes:
        values: (E,) one for each edge of `Frame.edges`.

    Example:
        >>> mask = UnitEdges(np.array([True, False, True]))
        >>> int(mask.count()), mask.like(np.zeros(3)).flat().tolist()
        (2, [0.0, 0.0, 0.0])
    """

    values: Any

    __repr__ = one_line

    def count(self) -> Any:
        """Count the true entries."""
        return self.values.sum()

    def flat(self) -> np.ndarray:
        """Copy the (E,) values to the host."""
        return np.array(read_array("values of edges", self.values))

    def like(self, flat: Any) -> UnitEdges:
        """Restore values of the same edges from a flat array."""
        found = read_array("values of edges", flat)
        if found.shape != np.shape(self.values):
            raise InputError("values of edges", got=f"shape {found.shape}",
                             expected=f"{np.shape(self.values)}")  # fmt: skip
        return UnitEdges(found)


class Slots(NamedTuple):
    """Slots say which units read in each layer, padded to the most that read in any.

    Attributes:
        source: (L, S) int32 number of the unit among the sources; 0 where the slot is empty.
        used: (L, S) bool.
        member: (L, S, N) bool leaves of the layer that are the unit's: heads, or neurons.
        at: (L, S, P, W) int32 place of the edge from each source to each input; -1 for none.
    """

    source: Any
    used: Any
    member: Any
    at: Any

    __repr__ = one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A frame lists all edges that can exist between units, which come in the order of the model.

    Source 0 is the embedding, source 1 + i unit i. An edge exists where the source has written all
    of its output before the reader reads anything. Units of one block do not read each other.

    Attributes:
        space: Numbers of layers, heads and neurons.
        units: U units, from the bottom up.
        parallel: Whether an MLP reads what the heads of its layer read.
    """

    space: Space
    units: tuple[Unit, ...]
    parallel: bool

    __repr__ = one_line

    @functools.cached_property
    def _pairs(self) -> np.ndarray:
        """(E, 3) source, reader (U for the logits), and number of the reader's input."""
        reads = [self._reads(unit) for unit in self.units] + [2 * self.space.layers + 1]
        wrote = [-1] + [self._wrote(unit) for unit in self.units]
        ports = [len(INPUTS[unit.block]) for unit in self.units] + [1]
        rows = [(w, v, port) for v, begin in enumerate(reads) for port in range(ports[v])
                for w, end in enumerate(wrote) if end <= begin]  # fmt: skip
        return np.array(rows, int).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names of the W = 1 + U sources."""
        return (EMBED, *(unit.name for unit in self.units))

    @functools.cached_property
    def edges(self) -> tuple[UnitEdge, ...]:
        """Return all edges, readers from the bottom up."""
        names, count = self.sources, len(self.units)
        return tuple(
            UnitEdge(names[w], LOGITS, LOGITS) if v == count
            else UnitEdge(names[w], names[1 + v], INPUTS[self.units[v].block][port])
            for w, v, port in self._pairs.tolist()
        )  # fmt: skip

    @functools.cached_property
    def places(self) -> dict[UnitEdge, int]:
        """Return the place of each edge."""
        return {edge: place for place, edge in enumerate(self.edges)}

    @property
    def ends(self) -> np.ndarray:
        """Return the (E, 2) numbers of source and reader; units are 1 to U, the logits U + 1."""
        return self._pairs[:, :2] + np.array([0, 1])

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (E,) layer in which each edge is read, and the (E,) kind of its input."""
        kinds = ["q", "k", "v", "mlp", "stream", LOGITS]
        layers = [unit.layers[0] for unit in self.units] + [self.space.layers]
        kind = [kinds.index(edge.input) for edge in self.edges]
        return np.array(layers)[self._pairs[:, 1]], np.array(kind, int)

    @property
    def direct(self) -> int:
        """Return the place of the edge from the embedding to the logits."""
        return self.places[UnitEdge(EMBED, LOGITS, LOGITS)]

    def final(self) -> np.ndarray:
        """Return the (W,) place of the edge from each source to the logits."""
        return self._at(len(self.units), 1)[0]

    def slots(self, block: str) -> Slots:
        """Return who reads in each layer: attention, or MLPs.

        Args:
            block: `attention` or `mlp`.
        """
        layers, heads, features = self.space
        first, width = (0, heads) if block == ATTENTION else (layers * heads, features)
        readers: list[list[int]] = [[] for _ in range(layers)]
        for number, unit in enumerate(self.units):
            if unit.block in (block, ""):
                for layer in range(unit.layers[0], unit.layers[1] + 1):
                    readers[layer].append(number)
        most, ports = max(1, *map(len, readers)), len(INPUTS[block])
        source, used = np.zeros((layers, most), np.int32), np.zeros((layers, most), bool)
        member = np.zeros((layers, most, width), bool)
        at = np.full((layers, most, ports, 1 + len(self.units)), -1, np.int32)
        for layer, several in enumerate(readers):
            begin = first + layer * width
            for slot, number in enumerate(several):
                places = self.units[number].places() - begin
                member[layer, slot, places[(places >= 0) & (places < width)]] = True
                source[layer, slot], used[layer, slot] = 1 + number, True
                at[layer, slot] = self._at(number, ports)
        return Slots(source, used, member, at)

    def _at(self, reader: int, ports: int) -> np.ndarray:
        """(ports, W) places of the edges into a reader; a band reads the same at all inputs."""
        found = np.full((ports, 1 + len(self.units)), -1, np.int32)
        for place in np.flatnonzero(self._pairs[:, 1] == reader):
            source, _, port = self._pairs[place]
            band = reader < len(self.units) and self.units[reader].kind == BAND
            found[slice(None) if band else port, source] = place
        return found

    def _reads(self, unit: Unit) -> int:
        """When a unit first reads: heads at twice their layer, MLPs after them or beside them."""
        return 2 * unit.layers[0] + (unit.block == MLP and not self.parallel)

    def _wrote(self, unit: Unit) -> int:
        return 2 * unit.layers[1] + (1 if unit.block == ATTENTION else 2)


def frame_of(space: Space, units: Iterable[Unit], parallel: bool) -> Frame:
    """List the edges that can exist between units.

    Args:
        space: Numbers of layers, heads and neurons.
        units: At most 512 units of one tree without a leaf in common, in any order.
        parallel: Whether an MLP reads what the heads of its layer read.

    Returns:
        The frame.

    Raises:
        InputError: If units overlap, or there are none or too many.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=4)
        >>> tree = hagd.units.tree(init(config, jax.random.key(0)))
        >>> frame = frame_of(tree.space, tree.antichain(["head 1.0", "mlp 0"]), False)
        >>> [f"{edge.source} → {edge.reader} {edge.input}" for edge in frame.edges[:3]]
        ['embed → mlp 0 mlp', 'embed → head 1.0 q', 'mlp 0 → head 1.0 q']
        >>> len(frame)
        10
    """
    require_is("space", space, Space)
    chosen: Sequence[Unit] = require_list("units", units, "units of a tree")
    for unit in chosen:
        require_is("units", unit, Unit)
    if not 0 < len(chosen) <= _MOST:
        raise InputError(
            "units with edges between them", got=f"{len(chosen):,}", expected=f"1 to {_MOST}",
            mend="Group nodes into clusters: make the circuit with Circuit.of_units.",
        )  # fmt: skip
    require_antichain("units", chosen)
    order = sorted(chosen, key=lambda u: (u.layers[0], u.block == MLP, u.ranges))
    return Frame(space, tuple(order), bool(parallel))
