"""A transcoder on disk: its tensors, from several files, under one name each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError
from hagd_jax.models.families.table import Index, Sizes, Weight, shape
from hagd_jax.models.safetensors_source import SafetensorsSource
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats.npz_source import NpzSource
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.params import param_specs

TensorFile = SafetensorsSource | NpzSource

# Axes of our parameters without the leading one: features, width, and the width of the output.
OURS = {
    "W_enc": "f e", "b_enc": "f", "W_dec": "f e", "b_dec": "e", "threshold": "f", "W_skip": "g e",
    "W_pred": "f h", "b_pred": "f",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class View:
    """A view is a tensor in a file, or a part of it.

    Attributes:
        source: The file.
        name: The tensor's name there.
        entry: Which entry of the second axis, of a decoder that holds several layers' outputs.
        count: As many equal numbers, where the file has a single one.
    """

    source: TensorFile
    name: str
    entry: int | None = None
    count: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the view."""
        if self.count is not None:
            return (self.count,)
        whole = self.source.shape(self.name)
        return whole if self.entry is None else (whole[0], *whole[2:])

    def read(self, index: Index) -> np.ndarray:
        """Read part of the view; `index` holds one slice with explicit bounds per dimension."""
        if self.count is not None:
            one = tuple(slice(0, n) for n in self.source.shape(self.name))
            return np.full(index[0].stop - index[0].start, self.source.read(self.name, one))
        if self.entry is None:
            return self.source.read(self.name, index)
        at = (index[0], slice(self.entry, self.entry + 1), *index[1:])
        return self.source.read(self.name, at)[:, 0]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Read some rows, and nothing else where the file can be sliced.

        Args:
            indices: (n,) of the first axis, rising, each once.

        Returns:
            (n, ...) in the dtype they are stored in.
        """
        found = self.source.rows(self.name, _runs(indices))
        return found if self.entry is None else found[:, self.entry]


def _runs(indices: np.ndarray) -> list[tuple[int, int]]:
    """First and last + 1 of each run of consecutive numbers."""
    if not len(indices):
        return []
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    parts = np.split(indices, breaks)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


@dataclasses.dataclass(frozen=True)
class Views:
    """Views go by the names that a table of weights gives them; a `Source` of `models`.

    Attributes:
        entries: Name → view.
    """

    entries: Mapping[str, View]

    __repr__ = one_line

    def names(self) -> frozenset[str]:
        """List the names of all tensors."""
        return frozenset(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.entries[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype of a tensor."""
        view = self.entries[name]
        return view.source.dtype(view.name)

    def read(self, name: str, index: Index) -> np.ndarray:
        """Read part of a tensor."""
        return self.entries[name].read(index)

    def describe(self, name: str) -> str:
        """Name the file that holds a tensor, and the tensor's name there."""
        view = self.entries[name]
        part = "" if view.entry is None else f"[:, {view.entry}]"
        return f"{view.source.describe(view.name)} ({view.name}{part})"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A stored transcoder lies on disk; its tensors were checked but not read.

    Attributes:
        config: What the mathematics is.
        views: Tensors named `<parameter>/<layer>`, or `<parameter>/<edge>` for decoders.
        layouts: Parameter → axes of its tensors in the files, where they are not in our order.
        centred: Whether b_dec is taken off what the features read.
        unweighted: Whether they read an RMSNorm's value before its weights.
        positive: Whether a threshold below 0 counts as 0.
        rescaled: Whether pre-activations are multiplied by the norms of their rows of W_dec, and
            features divided by them before they are decoded.
        model_name: The model that the files say they are for; empty if they say none.
    """

    config: TranscoderConfig
    views: Views
    layouts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    centred: bool = False
    unweighted: bool = False
    positive: bool = False
    rescaled: bool = False
    model_name: str = ""

    __repr__ = one_line

    def __post_init__(self):
        for weight in self.weights:
            want = shape(weight.stored, self.sizes)
            for row in range(param_specs(self.config)[weight.leaf].shape[0]):
                _check(self.views, weight.tensor(row), want)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """List where each parameter lies."""
        return tuple(
            Weight(leaf, f"{leaf}/{{layer}}", self.layouts.get(leaf, OURS[leaf]), OURS[leaf])
            for leaf in param_specs(self.config)
        )

    def layer(self, layer: int) -> Stored:
        """Return one layer as a transcoder of its own, with its own edge only.

        Args:
            layer: Which.

        Returns:
            A view of the same files, in which this layer is layer 0.
        """
        config = self.config.replace(n_layers=1, window=0, predict=False)
        own = int(np.flatnonzero(np.asarray(layer_graph(self.config).senders) == layer)[0])
        rows = {leaf: own if leaf == "W_dec" else layer for leaf in param_specs(config)}
        views = {f"{leaf}/0": self.views.entries[f"{leaf}/{row}"] for leaf, row in rows.items()}
        return dataclasses.replace(self, config=config, views=Views(views))

    @property
    def sizes(self) -> Sizes:
        """Return the size of each axis letter."""
        config = self.config
        f, e = config.n_features, config.d_model
        return {"l": config.n_layers, "f": f, "h": f, "e": e, "g": e}


def _check(views: Views, name: str, want: tuple[int, ...]) -> None:
    have = views.shape(name)
    if have != want:
        raise CheckpointError(
            views.describe(name),
            got=f"shape {have}",
            expected=f"{want}, to fit the folder's first layer and its configuration",
        )
    views.dtype(name)
