"""The features of a transcoder that stays on disk: nodes of attribution graphs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import Intervention, LanguageModel
from hagd_jax.transcoders.digest import digest
from hagd_jax.transcoders.formats.lazy import LazyTranscoder
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.units.directed import Decoders, Directed, Writes
from hagd_jax.units.nodes import Nodes, Space


class LazyFeatures(Directed):
    """This dictionary has the features of a transcoder on disk as nodes.

    A graph of one prompt needs the features that are active in it: `active_features` reads those,
    and makes a dictionary in memory of them. Whatever else a dictionary can do needs all weights,
    and is refused.

    Attributes:
        lazy: The transcoder, for this model.
    """

    lazy: LazyTranscoder | None = struct.field(pytree_node=False, default=None)

    __repr__ = one_line

    @property
    def stored(self) -> LazyTranscoder:
        """Return the transcoder."""
        assert self.lazy is not None
        return self.lazy

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and features."""
        features = self.stored.config.n_features
        return Space(self.decoder.n_layers, self.decoder.n_heads, features)

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of head outputs and of what features read."""
        return ("head_out", self.reads)

    @property
    def label(self) -> str:
        """Return the name with the digest of the same transcoder in memory; reads all of it."""
        return f"{self.name}#{digest(self.stored)}"

    @property
    def about(self) -> str:
        """Describe the features: their number and activation function."""
        c = self.stored.config
        return f"{c.n_features:,} {c.activation} features a layer, on disk"

    @property
    def name_of_values(self) -> str:
        """Name the activations inside MLPs among the entries of `values`."""
        return "feature"

    @property
    def source(self) -> str:
        """Name the site that features are encoded from."""
        return self.reads

    @property
    def reads(self) -> str:
        """Name the site that the transcoder reads."""
        return self.stored.config.reads

    @property
    def writes(self) -> Writes:
        """Name what the transcoder reconstructs in this model, see `TranscoderConfig.target`."""
        return self.stored.config.target(self.decoder)

    @property
    def target(self) -> Writes:
        """Name the same site."""
        return self.writes

    @property
    def skip(self) -> Any:
        """Return `W_skip`, if the transcoder has one."""
        return self.stored.W_skip

    @property
    def together(self) -> bool:
        """Tell whether features of all positions compete, as they do with `batch_topk`."""
        return self.stored.config.activation == "batch_topk"

    @property
    def most_active(self) -> int | None:
        """Return K of a `topk` transcoder."""
        config = self.stored.config
        return config.k if config.activation == "topk" else None

    @property
    def edges(self) -> int:
        """Return the number of edges of the layer graph."""
        return len(np.asarray(layer_graph(self.stored.config).senders))

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Refuse: it would compute with all weights."""
        self._refuse()

    def mask(
        self, mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
    ) -> Intervention:
        """Refuse: it would compute with all weights."""
        self._refuse()

    def by_layer(self, trace: Mapping[str, jax.Array], then: Callable[[jax.Array], Any]) -> Any:
        """Refuse: it would compute with all weights."""
        self._refuse()

    def decoders(self, model: LanguageModel) -> Decoders:
        """Refuse: it would hold all weights."""
        self._refuse()

    def encoders(self, model: LanguageModel) -> jax.Array:
        """Refuse: it would hold all weights."""
        self._refuse()

    def constant(self, trace: Mapping[str, jax.Array]) -> jax.Array | None:
        """Refuse: it belongs to the features in memory."""
        self._refuse()

    def pull(
        self, model: LanguageModel, trace: Mapping[str, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Refuse: it would compute with all weights."""
        self._refuse()

    def adding(self, amount: jax.Array) -> Intervention:
        """Refuse: it would compute with all weights."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(
            f"dictionary {self.name!r}",
            got="a transcoder that was opened lazily",
            expected="one in memory, since this needs all of its weights",
            mend="Load it with transcoders.load; lazily opened ones serve graphs.attribute.",
        )
