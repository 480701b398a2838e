"""How much memory a graph takes, before it is taken."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jax
from rich.filesize import decimal

from hagd_jax.attribution.config import AttributionConfig
from hagd_jax.attribution.stored_rows import Columns
from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig

_FLOAT = 4
# Of a kept entry: its column and its value.
_ENTRY = 12
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a graph needs beside the model and the dictionary.

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

    @property
    def device(self) -> int:
        """What lies on the devices, all of them together."""
        return self.pass_ + self.decoders + self.batch

    @property
    def host(self) -> int:
        """What lies in the host's memory."""
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
    need: Memory,
    config: AttributionConfig,
    columns: Columns,
    *,
    on_host: bool,
    available: int | None = None,
) -> None:
    """Refuse a run that does not fit.

    Args:
        need: Of the run.
        config: Of the graph.
        columns: Of the prompt.
        on_host: Whether the devices' memory is the host's, as on CPU.
        available: Bytes; what the configuration allows, else what is free, by default.

    Raises:
        InputError: With the setting that would fit.
    """
    if available is None:
        limit = config.memory_gb
        available = int(limit * _GB) if limit is not None else free_memory()
    needed = need.host + (need.device if on_host else 0)
    if available is None or needed <= available:
        return
    raise InputError(
        "memory",
        got=f"a graph of about {need}",
        expected=f"at most {decimal(available)}",
        mend=_mend(need, config, columns, available - (need.device if on_host else 0), on_host),
    )


def free_memory() -> int | None:
    """Bytes that the host can still give; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def on_host(mesh: jax.sharding.Mesh | None) -> bool:
    """Whether arrays on the devices lie in the host's memory."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return getattr(device, "platform", "cpu") == "cpu"


def _mend(need: Memory, config: AttributionConfig, columns: Columns, left: int, host: bool) -> str:
    """The smallest change that fits."""
    count = config.max_feature_nodes + config.max_logits
    if need.host >= need.batch and left > 0:
        fits = left // (2 * _ENTRY * count)
        if fits >= 16:
            return f"Set edges_per_node={min(fits, columns.total)}."
        return f"Set edges_per_node=64 and max_feature_nodes={max(1, left // (2 * _ENTRY * 64))}."
    if host and config.batch_size > 1:
        spare = left + need.batch - min(need.host, _ENTRY * count * 256)
        fits = spare * config.batch_size // max(need.batch, 1)
        if fits >= 1:
            return f"Set batch_size={min(fits, config.batch_size - 1)}, edges_per_node=256."
    return "Shorten the prompt, or spread the model over more devices."
