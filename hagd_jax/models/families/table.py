"""Where each parameter lies in a checkpoint, written down as patterns.

A pattern names the axes of a tensor, one group a dimension: `"(h d) e"` is a matrix whose rows run
over heads and, within each head, over its width. A `Weight` pairs the pattern a file stores with
the pattern our parameters have. The same pair is read in both directions, and tells which part of
a file a slice of a parameter needs, so that a device reads no more than its own share.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hagd_jax.models.config import DecoderConfig

Group = tuple[str, ...]
Index = tuple[slice, ...]
Ranges = dict[str, tuple[int, int]]
Sizes = Mapping[str, int]


class Source(Protocol):
    """A source holds named tensors and reads them a slice at a time."""

    def names(self) -> frozenset[str]:
        """List the names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        ...

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype in which `read` returns a tensor.

        Raises:
            CheckpointError: If it is stored in a way that cannot be read as numbers we use.
        """
        ...

    def read(self, name: str, index: Index) -> np.ndarray:
        """Read part of a tensor; `index` holds one slice with explicit bounds per dimension."""
        ...

    def describe(self, name: str) -> str:
        """Name the file that holds a tensor, for error messages."""
        ...


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight maps one parameter to the tensors that hold it.

    Attributes:
        leaf: Path of the parameter, a key of `param_specs`.
        name: Name of the tensor; `{layer}` stands for the number of a layer. A parameter stacked
            over layers is then gathered from one tensor a layer.
        stored: Pattern of the tensor in the file.
        ours: Pattern of the parameter, without the stacked layer axis; `stored` if empty.
        fixed: Axes of the tensor of which this parameter is one entry: GPT-2 stores queries, keys
            and values as `"e (c h d)"`, and the keys are `{"c": 1}`.
        parts: Patterns of the first dimension of all that lie in the tensor one after the other,
            where they differ in size: Phi-3 stores queries, keys and values that way.
        part: Which of them this parameter is.
        layers: Numbers of the layers that have the tensor; all of them if None.
        block: First entry, in each dimension of the parameter without its layers, of the block
            that the tensor holds, where it does not hold the parameter whole: an expert's neurons
            are a block of their layer's. What no tensor holds is zero.

    Example:
        >>> keys = Weight("blocks/attn/k/bias", "h.{layer}.bias", "(c h d)", "h d", {"c": 1})
        >>> read(keys, dict(c=3, h=2, d=1), (slice(0, 2), slice(0, 1)), np.arange(6).__getitem__)
        array([[2],
               [3]])
    """

    leaf: str
    name: str
    stored: str
    ours: str = ""
    fixed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parts: tuple[str, ...] = ()
    part: int = 0
    layers: Collection[int] | None = None
    block: tuple[int, ...] = ()

    def stored_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape of the tensor in the file."""
        own = shape(self.stored, sizes)
        return (sum(shape(part, sizes)[0] for part in self.parts), *own[1:]) if self.parts else own

    def start(self, sizes: Sizes) -> int:
        """Return the first row of the tensor that belongs to this parameter."""
        return sum(shape(part, sizes)[0] for part in self.parts[: self.part])

    @property
    def per_layer(self) -> bool:
        """Tell whether each layer has a tensor of its own."""
        return "{layer}" in self.name

    def within(self, layer: int) -> bool:
        """Tell whether a layer has the tensor."""
        return self.layers is None or layer in self.layers

    def own(self, sizes: Sizes) -> Index:
        """Return which entries of a layer of the parameter the tensor holds."""
        widths = shape(self.ours or self.stored, sizes)
        starts = self.block or (0,) * len(widths)
        return tuple(slice(at, at + n) for at, n in zip(starts, widths, strict=True))

    def tensor(self, layer: int) -> str:
        """Return the name of the tensor of one layer."""
        return self.name.replace("{layer}", str(layer))


def axis_sizes(config: DecoderConfig) -> dict[str, int]:
    """Compute the size of each axis letter; `c` is the three of q, k, v; `t j` split a head.

    `m` are the neurons of a layer, `f` those of an expert, of which there are `x`, and `i` those of
    a dense layer among mixtures.

    Args:
        config: The decoder.

    Returns:
        Letter → size.
    """
    return {
        "l": config.n_layers, "e": config.d_model, "h": config.n_heads, "k": config.n_kv_heads,
        "d": config.d_head, "m": config.d_mlp, "v": config.vocab_size, "p": config.max_positions,
        "c": 3, "t": 2, "j": config.d_head // 2, "x": config.experts, "f": config.d_expert,
        "i": config.d_dense,
    }  # fmt: skip


def groups(pattern: str) -> tuple[Group, ...]:
    """Parse a pattern.

    Args:
        pattern: One-letter axes apart by spaces, axes of one dimension in brackets.

    Returns:
        The axes of each dimension, outermost first.

    Example:
        >>> groups("(h d) e")
        (('h', 'd'), ('e',))
    """
    found: list[Group] = []
    inside: list[str] | None = None
    for token in pattern.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            inside = []
        elif token == ")":
            found.append(tuple(inside or ()))
            inside = None
        elif inside is not None:
            inside.append(token)
        else:
            found.append((token,))
    return tuple(found)


def shape(pattern: str, sizes: Sizes) -> tuple[int, ...]:
    """Compute the shape of a tensor with this pattern."""
    return tuple(math.prod(sizes[a] for a in group) for group in groups(pattern))


def read(
    weight: Weight, sizes: Sizes, index: Index, fetch: Callable[[Index], np.ndarray]
) -> np.ndarray:
    """Slice a parameter out of its tensor, asking for no more of the tensor than is needed.

    What is needed is widened to one run of entries a dimension, since that is what files can read.

    Args:
        weight: The parameter.
        sizes: Size of each axis, see `axis_sizes`.
        index: A slice with explicit bounds for each dimension of `weight.ours`, none of them empty.
        fetch: Reads a slice of the tensor.

    Returns:
        The slice, as a view of what was fetched where that is possible.
    """
    stored, ours = groups(weight.stored), groups(weight.ours or weight.stored)
    wanted: Ranges = {axis: (i, i + 1) for axis, i in weight.fixed.items()}
    cut: list[slice] = []
    for group, part in zip(ours, index, strict=True):
        box, first = _cover(group, sizes, part.start, part.stop)
        wanted |= box
        cut.append(slice(part.start - first, part.stop - first))
    runs = [_run(group, sizes, wanted) for group in stored]
    rows, *others = (run for run, _ in runs)
    above = weight.start(sizes)
    block = fetch((slice(rows.start + above, rows.stop + above), *others))
    block = block.reshape([n for _, inside in runs for n, _ in inside])
    block = block[tuple(keep for _, inside in runs for _, keep in inside)]
    have = [axis for group in stored for axis in group]
    want = [*weight.fixed, *(axis for group in ours for axis in group)]
    block = block.transpose([have.index(axis) for axis in want])[(0,) * len(weight.fixed)]
    return block.reshape([_width(group, wanted) for group in ours])[tuple(cut)]


def write(weight: Weight, sizes: Sizes, value: np.ndarray, out: np.ndarray) -> None:
    """Put a parameter into its place in a tensor; the inverse of `read`.

    Args:
        weight: The parameter.
        sizes: Size of each axis, see `axis_sizes`.
        value: The parameter, without the stacked layer axis.
        out: The whole tensor, contiguous; only the entries of this parameter change.
    """
    have = [axis for group in groups(weight.ours or weight.stored) for axis in group]
    want = [axis for group in groups(weight.stored) for axis in group]
    above = weight.start(sizes)
    rows = out[above : above + shape(weight.stored, sizes)[0]]
    axes = rows.reshape([sizes[axis] for axis in want])
    place = tuple(weight.fixed.get(axis, slice(None)) for axis in want)
    order = [have.index(axis) for axis in want if axis not in weight.fixed]
    axes[place] = value.reshape([sizes[axis] for axis in have]).transpose(order)


def pieces(weight: Weight, sizes: Sizes, index: Index) -> Iterator[tuple[Any, str, Index]]:
    """List the tensors that a slice of a parameter is gathered from.

    Args:
        weight: The parameter.
        sizes: Size of each axis, see `axis_sizes`.
        index: A slice with explicit bounds for each dimension, the layers first if there are any.

    Yields:
        Where in the slice it goes, the name of the tensor, and the index to `read` it by.
    """
    if not weight.per_layer:
        yield ..., weight.name, index
        return
    there: tuple[slice, ...] = ()
    part = index[1:]
    if weight.block:
        meets = [_meet(wanted, own) for wanted, own in zip(part, weight.own(sizes), strict=True)]
        if any(here.start >= here.stop for here, _ in meets):
            return
        there, part = tuple(here for here, _ in meets), tuple(inside for _, inside in meets)
    for row, layer in enumerate(range(index[0].start, index[0].stop)):
        if weight.within(layer):
            yield (row, *there) if there else row, weight.tensor(layer), part


def _meet(wanted: slice, own: slice) -> tuple[slice, slice]:
    """Where two runs meet, counted from the start of the first, and of the second."""
    start, stop = max(wanted.start, own.start), min(wanted.stop, own.stop)
    return (
        slice(start - wanted.start, stop - wanted.start),
        slice(start - own.start, stop - own.start),
    )


def dense(leaf: str, name: str, stored: str, ours: str, bias: str, out: str = "") -> list[Weight]:
    """Map a projection and its optional bias; files store (outputs, inputs).

    Args:
        leaf: Path of the projection inside `blocks`.
        name: Of its tensors, without `.weight` and `.bias`.
        stored: Pattern of the matrix in the file.
        ours: Pattern of the kernel.
        bias: Pattern of the bias in the file.
        out: Pattern of our bias; `bias` if empty.

    Returns:
        Two entries.
    """
    return [
        Weight(f"blocks/{leaf}/kernel", f"{name}.weight", stored, ours),
        Weight(f"blocks/{leaf}/bias", f"{name}.bias", bias, out),
    ]


def select(table: Sequence[Weight], specs: Mapping[str, Any]) -> tuple[Weight, ...]:
    """Select the entries of a table for the parameters that a configuration has.

    Args:
        table: Weights of a whole family, with every optional bias.
        specs: `param_specs` of the configuration.

    Returns:
        One entry for each parameter, in the order of the table.
    """
    return tuple(weight for weight in table if weight.leaf in specs)


def _cover(group: Group, sizes: Sizes, start: int, stop: int) -> tuple[Ranges, int]:
    """The smallest box of axis ranges around a run of a flattened group, and its first entry."""
    box: Ranges = {}
    first = 0
    for i, axis in enumerate(group):
        step = math.prod(sizes[a] for a in group[i + 1 :])
        low, high = start // step, (stop - 1) // step + 1
        box[axis] = (low, high)
        first += low * step
        if high - low > 1:
            # Below the first axis with several entries the run may wrap around: take all of it.
            return box | {a: (0, sizes[a]) for a in group[i + 1 :]}, first
        start, stop = start - low * step, stop - low * step
    return box, first


def _run(group: Group, sizes: Sizes, wanted: Ranges) -> tuple[slice, list[tuple[int, slice]]]:
    """The run of a flattened group around a box; each axis's length there, and what to keep."""
    widths = [high - low for low, high in (wanted[axis] for axis in group)]
    wide = next((i for i, width in enumerate(widths) if width > 1), len(group) - 1)
    steps = [math.prod(sizes[a] for a in group[i + 1 :]) for i in range(len(group))]
    start = sum(wanted[group[i]][0] * steps[i] for i in range(wide + 1))
    inside = [(width, slice(None)) for width in widths[: wide + 1]]
    inside += [(sizes[axis], slice(*wanted[axis])) for axis in group[wide + 1 :]]
    return slice(start, start + widths[wide] * steps[wide]), inside


def _width(group: Group, wanted: Ranges) -> int:
    return math.prod(wanted[axis][1] - wanted[axis][0] for axis in group)
