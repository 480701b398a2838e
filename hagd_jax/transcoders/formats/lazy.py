"""A transcoder that stays on disk, of which what is asked for is read, a layer at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models import LanguageModel
from hagd_jax.models.placing import is_finite
from hagd_jax.parallel import checksum_of_parts
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats.loading import Opened, open_source, place_params
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.params import Params, param_specs

_ENCODER = ("W_enc", "b_enc", "threshold")


@dataclasses.dataclass(frozen=True, eq=False)
class LazyTranscoder:
    """A lazy transcoder holds where its weights lie, and of those only the small ones.

    Encoders are read a layer at a time, decoders a few rows at a time. Each read opens the file
    anew, so that nothing of it stays mapped, and checks that what it read is finite. Attribution
    graphs take it in place of a `Transcoder`; whatever needs all weights at once does not.

    Attributes:
        opened: The transcoder on disk, checked against the model.
        b_dec: (L, D).
        W_skip: (L, D, D), or None.
    """

    opened: Opened
    b_dec: jax.Array
    W_skip: jax.Array | None

    __repr__ = one_line

    @property
    def config(self) -> TranscoderConfig:
        """Return what the mathematics is."""
        return self.opened.config

    @property
    def name(self) -> str:
        """Return where it came from."""
        return self.opened.name

    def encoder(self, layer: int) -> Params:
        """Read the encoder of one layer.

        Args:
            layer: Which.

        Returns:
            `W_enc` (F, D), `b_enc` (F) and, with `jump_relu`, `threshold` (F).

        Raises:
            CheckpointError: If a weight is not finite, or a file has changed.
        """
        found = place_params(self.opened.layer(layer), _ENCODER)
        return {leaf: array[0] for leaf, array in found.items()}

    def decoder_rows(self, edge: int, indices: Any) -> np.ndarray:
        """Read what some features write along an edge of the layer graph.

        Args:
            edge: Which; those of a layer lie together, its own first.
            indices: (n,) features, rising, each once.

        Returns:
            (n, D), on the host, in the dtype of the computation.

        Raises:
            InputError: If the features are not rising, or do not exist.
            CheckpointError: If a row is not finite, or the file has changed.

        Example:
            >>> import tempfile, jax
            >>> from hagd_jax import transcoders
            >>> config = transcoders.TranscoderConfig(n_layers=2, d_model=4, n_features=8, k=3)
            >>> made = transcoders.init(config, jax.random.key(0))
            >>> with tempfile.TemporaryDirectory() as scratch:
            ...     lazy = transcoders.open_lazy(transcoders.save(made, scratch + "/tc"))
            ...     lazy.decoder_rows(1, [2, 3, 7]).shape
            (3, 4)
        """
        wanted = np.asarray(indices, np.int64)
        count = self.config.n_features
        inside = not wanted.size or (wanted[0] >= 0 and wanted[-1] < count)
        if wanted.ndim != 1 or not inside or (np.diff(wanted) <= 0).any():
            raise InputError(
                "indices", got=wanted.tolist()[:5], expected=f"rising numbers below {count}"
            )
        stored = self.opened.stored
        if stored.rescaled:
            # Computed of whole layers, as in memory: the digest knows every bit. One edge a layer.
            return np.asarray(place_params(self.opened.layer(edge), ["W_dec"])["W_dec"][0])[wanted]
        rows = stored.views.entries[f"W_dec/{edge}"].rows(wanted)
        with np.errstate(over="ignore"):
            rows = rows.astype(self.config.dtype)
        if not is_finite(rows):
            raise CheckpointError(
                stored.views.describe(f"W_dec/{edge}"),
                got="NaN or infinite weights among the rows that were read",
                expected="finite weights",
                mend="The file is damaged, or training had diverged.",
            )
        return rows

    @functools.cached_property
    def digest(self) -> str:
        """Hash it to the eight digits of the same transcoder in memory; this reads all of it."""
        used = [leaf for leaf in param_specs(self.config) if not leaf.endswith("_pred")]
        parts = {leaf: self._parts(leaf) for leaf in used}
        return f"{checksum_of_parts(parts, about(self.config)):08x}"

    def _parts(self, leaf: str) -> Iterator[Any]:
        """A parameter, layer after layer, or edge after edge."""
        if leaf in ("b_dec", "W_skip"):
            yield from getattr(self, leaf)
        elif leaf == "W_dec":
            every = np.arange(self.config.n_features)
            for edge in range(len(np.asarray(layer_graph(self.config).senders))):
                yield jnp.asarray(self.decoder_rows(edge, every))
        else:
            for layer in range(self.config.n_layers):
                yield place_params(self.opened.layer(layer), [leaf])[leaf][0]


def about(config: TranscoderConfig) -> str:
    """Describe what is done with the parameters, for digests.

    `writes` is not in it: wherever a transcoder is accepted, both of its values are one place.
    """
    return f"{config.activation} {config.k} {config.window} {config.reads}"


def open_lazy(
    source: str | Path, *, model: LanguageModel | None = None, dtype: Any = None
) -> LazyTranscoder:
    """Open a transcoder without reading its encoders and decoders.

    Args:
        source: As `load`'s: a folder or a hub id.
        model: As `load`'s.
        dtype: As `load`'s.

    Returns:
        The transcoder on disk, for `graphs.attribute`.

    Raises:
        CheckpointError: As `load`, apart from weights that are not finite: those are refused when
            they are read.
        ConfigError: As `load`.
    """
    opened = open_source(source, model, dtype)
    small = place_params(opened, ("b_dec", "W_skip"))
    return LazyTranscoder(opened, small["b_dec"], small.get("W_skip"))
