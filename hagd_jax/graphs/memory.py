"""How much memory a graph takes, before it is taken."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from rich.filesize import decimal

from hagd_jax.errors import InputError
from hagd_jax.graphs.config import AttributionConfig
from hagd_jax.graphs.stored_rows import Columns
from hagd_jax.models import DecoderConfig

_log = logging.getLogger(__name__)
_FLOAT = 4
# Of a kept entry: its column and its value.
_ENTRY = 12
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Memory:
    """An estimate counts the bytes a graph needs beside the model and the dictionary.

    Attributes:
        pass_: The pass that is held: patterns, what features read, MLP outputs, logits.
        decoders: Rows of the active features.
        batch: Gradients and rows of one batch of targets.
        rows: Rows that are kept until the graph is made, on the host.
        edges: The graph itself, on the host.
    """

    pass_: int
    decoders: int
    batch: int
    rows: int
    edges: int

    def with_rows(self, model: DecoderConfig, edges: int, rows: int) -> Memory:
        """Add the rows that are read of a dictionary on disk: encoders, and a decoder an edge."""
        added = _FLOAT * (model.n_layers + edges) * rows * model.d_model
        return dataclasses.replace(self, decoders=self.decoders + added)

    @property
    def device(self) -> int:
        """Return the bytes on all devices together."""
        return self.pass_ + self.decoders + self.batch

    @property
    def host(self) -> int:
        """Return the bytes in the host's memory."""
        return self.rows + self.edges

    def __str__(self) -> str:
        parts = {
            "held pass": self.pass_, "decoders": self.decoders, "a batch": self.batch,
            "rows": self.rows, "edges": self.edges,
        }  # fmt: skip
        listed = ", ".join(f"{name} {decimal(size)}" for name, size in parts.items())
        return f"{decimal(self.device + self.host)} ({listed})"


def memory_of(
    model: DecoderConfig,
    columns: Columns,
    edges: int,
    config: AttributionConfig,
    *,
    features: int,
    stacked: bool = True,
) -> Memory:
    """Estimate the memory of a graph.

    Args:
        model: The decoder.
        columns: Layers, positions and slots of the prompt.
        edges: Of the layer graph.
        config: Of the graph.
        features: Active in the prompt.
        stacked: Whether rows of active features are copied out of the decoder.

    Returns:
        The estimate.

    Example:
        >>> model = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> small = memory_of(model, Columns(2, 8, 8), 2, AttributionConfig(), features=100)
        >>> str(small)[:29]
        '373.0 kB (held pass 5.2 kB, d'
    """
    layers, length, slots = columns
    size, width = config.batch_size, model.d_model
    stream = length * width
    # The patterns of one layer are there again while they are made.
    patterns = (layers + 3) * model.n_heads * length**2
    chosen = min(config.max_feature_nodes, features)
    count = chosen + config.max_logits
    kept = columns.total if config.edges_per_node is None else config.edges_per_node
    entry = _FLOAT if config.edges_per_node is None else _ENTRY
    sources = chosen + layers * length + length
    return Memory(
        pass_=_FLOAT * (patterns + 4 * layers * stream + 2 * length * model.vocab_size),
        decoders=_FLOAT * edges * length * slots * width if stacked else 0,
        # Features of a batch once as they are made, once as rows.
        batch=_FLOAT * size * (3 * columns.total + 6 * stream),
        rows=entry * count * min(kept, columns.total),
        # Half of all pairs lie in the wrong order of layers or positions.
        edges=_ENTRY * count * min(kept, math.ceil(sources / 2)),
    )


def require_memory(
    estimate: Callable[[AttributionConfig], Memory],
    config: AttributionConfig,
    *,
    on_host: bool,
    available: int | None = None,
) -> None:
    """Refuse a run that does not fit in memory.

    Args:
        estimate: What a run with some configuration needs.
        config: That of this run.
        on_host: Whether the devices' memory is the host's, as on CPU.
        available: Bytes; what the configuration allows, else what is free, by default.

    Raises:
        InputError: With the setting that would fit.
    """
    if available is None:
        limit = config.memory_gb
        available = int(limit * _GB) if limit is not None else free_memory()

    def fits(other: AttributionConfig) -> bool:
        need = estimate(other)
        return available is None or need.host + on_host * need.device <= available

    if fits(config):
        return
    better = next((other for other in _smaller(config) if fits(other)), None)
    raise InputError(
        "memory",
        got=f"a graph of about {estimate(config)}",
        expected=f"at most {decimal(available or 0)}",
        mend="Shorten the prompt, or spread the model over more devices."
        if better is None
        else f"Set {_difference(config, better)}.",
    )


def _smaller(config: AttributionConfig) -> Iterator[AttributionConfig]:
    """Configurations of less memory, those first that a user would miss least.

    Slower batches first, then fewer edges, then fewer nodes; tiny batches only where nothing
    else helps.
    """
    batches = _halves(config.batch_size, 1)
    usual = [size for size in batches if size >= min(8, config.batch_size)]
    most = config.edges_per_node
    edges = [most] + [kept for kept in _halves(8192, 64) if most is None or kept < most]
    for sizes in (usual, batches[len(usual) :]):
        for nodes in _halves(config.max_feature_nodes, 64):
            for kept, size in itertools.product(edges, sizes):
                yield dataclasses.replace(
                    config, max_feature_nodes=nodes, edges_per_node=kept, batch_size=size
                )


def _halves(size: int, least: int) -> list[int]:
    """A size, its half, and so on, down to the least."""
    halves = [size]
    while halves[-1] // 2 >= least:
        halves.append(halves[-1] // 2)
    return halves


def _difference(config: AttributionConfig, other: AttributionConfig) -> str:
    """The settings that differ, as they would be typed."""
    names = [field.name for field in dataclasses.fields(config)]
    changed = [name for name in names if getattr(config, name) != getattr(other, name)]
    return ", ".join(f"{name}={getattr(other, name)}" for name in changed)


def free_memory() -> int | None:
    """Return the bytes that the host has free; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration, IndexError, ValueError):
        _log.warning("free memory is not known here: runs that need more are not refused")
        return None


def on_host(mesh: jax.sharding.Mesh | None) -> bool:
    """Tell whether device arrays are stored in the host's memory."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return getattr(device, "platform", "cpu") == "cpu"
