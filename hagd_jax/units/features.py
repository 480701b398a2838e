"""A transcoder's features as units; what they do not explain is no unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.interventions import chain, mask_heads
from hagd_jax.models import Context, Intervention, LanguageModel, scanned
from hagd_jax.parallel import constrain
from hagd_jax.transcoders.checks import require_fit, site_of
from hagd_jax.transcoders.digest import digest
from hagd_jax.transcoders.formats.lazy import LazyTranscoder
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.mask import mask_features
from hagd_jax.transcoders.replace import FeatureWriter, dividing, writer_fields
from hagd_jax.transcoders.transcoder import Transcoder, shardings
from hagd_jax.units.dictionary import Dictionary
from hagd_jax.units.directed import Decoders, Directed, Writes
from hagd_jax.units.lazy import LazyFeatures
from hagd_jax.units.neurons import neurons
from hagd_jax.units.nodes import Nodes, Space


@struct.dataclass
class AddToFeatures(FeatureWriter):
    """Write given amounts of features beside what is written already.

    Attributes:
        amount: (L, B, T, F).
    """

    amount: Any = scanned(default=None)

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, AddToFeatures]:
        """Add the decoded amounts to the MLP output."""
        written, after = self.write(self.amount)
        return value + written, after


class Features(Directed):
    """This dictionary has a transcoder's features as nodes; make it with `as_dictionary`.

    Attributes:
        transcoder: For this model, on its devices.
        keep_error: Whether what features leave unexplained of the MLPs stays in every circuit. If
            not, it is in none: a mask of ones is then the replacement model.
    """

    transcoder: Transcoder | None = None
    keep_error: bool = struct.field(pytree_node=False, default=True)

    __repr__ = one_line

    @property
    def trained(self) -> Transcoder:
        """Return the transcoder."""
        assert self.transcoder is not None
        return self.transcoder

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and features."""
        width = self.trained.config.n_features
        return Space(self.decoder.n_layers, self.decoder.n_heads, width)

    @property
    def capture(self) -> tuple[str, ...]:
        """Name the sites of head outputs and of what features read."""
        return ("head_out", self.trained.config.reads)

    @property
    def label(self) -> str:
        """Return the name with a digest, as folders move and transcoders share names."""
        errors = "" if self.keep_error else " without errors"
        return f"{self.name}{errors}#{digest(self.trained)}{'' if self.keep_error else '-'}"

    @property
    def about(self) -> str:
        """Describe the features: their number, activation function and window."""
        c = self.trained.config
        few = f" with {c.k} active" if c.k else ""
        reach = f" and {c.window} above" if c.window else ""
        skip = ", skip connection" if c.skip else ""
        return f"{c.n_features:,} {c.activation} features a layer{few}, to their own{reach}{skip}"

    @property
    def name_of_values(self) -> str:
        """Name the activations inside MLPs among the entries of `values`."""
        return "feature"

    @property
    def source(self) -> str:
        """Name the site that features are encoded from."""
        return self.trained.config.reads

    @property
    def reads(self) -> str:
        """Name the site that the transcoder reads."""
        return self.trained.config.reads

    @property
    def writes(self) -> Writes:
        """Name what the transcoder reconstructs in this model, see `TranscoderConfig.target`."""
        return self.trained.config.target(self.decoder)

    @property
    def target(self) -> Writes:
        """Name the same site."""
        return self.writes

    @property
    def skip(self) -> Any:
        """Return `W_skip`, if the transcoder has one."""
        return self.trained.params.get("W_skip")

    @property
    def edges(self) -> int:
        """Return the number of edges of the layer graph."""
        return len(np.asarray(layer_graph(self.trained.config).senders))

    @property
    def together(self) -> bool:
        """Tell whether features of all positions compete, as they do with `batch_topk`."""
        return self.trained.config.activation == "batch_topk"

    @property
    def most_active(self) -> int | None:
        """Return K of a `topk` transcoder."""
        config = self.trained.config
        return config.k if config.activation == "topk" else None

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Read the head outputs, and encode features from what the MLPs read."""
        found = self._encode(site_of(trace, self.reads))
        return {"head_out": site_of(trace, "head_out"), "feature": found}

    def _encode(self, read: jax.Array) -> jax.Array:
        """(L, B, T, D) → (L, B, T, F)."""
        params, config, mesh = self.trained.params, self.trained.config, self.trained.mesh
        tokens = read.shape[1] * read.shape[2]
        found = feat.encode(params, read, config, dividing(mesh, tokens))
        return constrain(found, ("layers", "batch", "length", "features"), mesh)

    def by_layer(self, trace: Mapping[str, jax.Array], then: Callable[[jax.Array], Any]) -> Any:
        """Encode and process the features of one layer at a time."""
        params, config = self.trained.params, self.trained.config
        names = [name for name in ("W_enc", "b_enc", "threshold") if name in params]
        read = site_of(trace, self.reads)[:, 0]
        mesh = dividing(self.trained.mesh, read.shape[1])

        def layer(inputs: tuple) -> Any:
            own, x = inputs
            pre = feat.pre_activations(own, x, config)
            return then(feat.activate(pre, config, own.get("threshold"), mesh))

        return jax.lax.map(layer, ({name: params[name] for name in names}, read))

    def decoders(self, model: LanguageModel) -> Decoders:
        """Return the transcoder's decoders, along the edges of its layer graph."""
        graph = layer_graph(self.trained.config)
        ends = np.asarray(graph.senders), np.asarray(graph.receivers)
        return Decoders(*ends, self.trained.params["W_dec"])

    def encoders(self, model: LanguageModel) -> jax.Array:
        """Return the transcoder's encoder."""
        return jnp.asarray(self.trained.params["W_enc"], jnp.float32)[None]

    def constant(self, trace: Mapping[str, jax.Array]) -> jax.Array:
        """Return the decoder's bias and the output of the skip connection."""
        read = site_of(trace, self.reads)[:, 0].astype(jnp.float32)
        bias = jnp.broadcast_to(self.trained.params["b_dec"][:, None], read.shape)
        return bias.astype(jnp.float32) + feat.skip(self.trained.params, read)

    def pull(
        self, model: LanguageModel, trace: Mapping[str, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Back-propagate gradients through the encoder where features are active."""
        return (jnp.where(self._encode(site_of(trace, self.reads)) > 0, gradient, 0),)

    def adding(self, amount: jax.Array) -> Intervention:
        """Add the decoded amounts to the MLP outputs."""
        return AddToFeatures(**writer_fields(self.trained), amount=amount)

    def mask(
        self, mask: Nodes, alternative: Mapping[str, jax.Array], span: jax.Array | None = None
    ) -> Intervention:
        """Interpolate heads, and write what changing the features changes."""
        heads = mask_heads(mask.heads, alternative["head_out"], span)
        moved = mask_features(
            self.trained, mask.features, alternative["feature"], keep_error=self.keep_error,
            span=span,
        )  # fmt: skip
        return chain(heads, moved)

    def bare(self) -> Self:
        """Drop the names, which would only enlarge the compilation key."""
        return self.replace(name="", transcoder=self.trained.bare())


# What a caller may give where units are asked for; `as_dictionary` reads it.
Source = Dictionary | Transcoder | LazyTranscoder


def as_dictionary(
    model: LanguageModel,
    source: Source | None = None,
    *,
    keep_error: bool = True,
) -> Dictionary:
    """Make the dictionary of a model from a transcoder, or of its neurons.

    Args:
        model: The model.
        source: A transcoder, in memory or on disk, a dictionary, or None for neurons.
        keep_error: Of a transcoder, see `Features`.

    Returns:
        The dictionary, its weights on the model's devices.

    Raises:
        InputError: If it is one for another model.
    """
    require_is("model", model, LanguageModel)
    if source is None:
        return neurons(model)
    if isinstance(source, Transcoder):
        require_fit(source.config, model.config)
        placed = _placed(source, model.mesh)
        return Features(model.config, source.name, placed, keep_error)
    if isinstance(source, LazyTranscoder):
        require_fit(source.config, model.config)
        if model.mesh is not None:
            raise InputError(
                f"transcoder {source.name!r}", got="one that was opened lazily, and a mesh",
                expected="a model on one device", mend="Load it with transcoders.load.",
            )  # fmt: skip
        return LazyFeatures(model.config, source.name, source)
    if not isinstance(source, Dictionary):
        raise InputError(
            "dictionary", got=type(source).__name__, expected="a Transcoder, neurons(model) or None"
        )
    if source.decoder != model.config:
        raise InputError(
            f"dictionary {source.name!r}",
            got="one made for a model of another configuration",
            expected="one for this model",
            mend="Make it from this model.",
        )
    return source


def directed(model: LanguageModel, source: Source | None = None) -> Directed:
    """Make the dictionary of a model, refusing one whose nodes have no directions.

    Args:
        model: The model.
        source: A transcoder, its dictionary, or None for neurons.

    Returns:
        The dictionary, its weights on the model's devices.

    Raises:
        InputError: If it is one for another model, or its nodes are of another kind.
    """
    nodes = as_dictionary(model, source)
    if not isinstance(nodes, Directed):
        raise InputError(
            "dictionary", got=nodes.label,
            expected="neurons or a transcoder: nodes that read and write along directions",
        )  # fmt: skip
    return nodes


def _placed(transcoder: Transcoder, mesh: jax.sharding.Mesh | None) -> Transcoder:
    if transcoder.mesh == mesh or mesh is None:
        return transcoder
    params = jax.device_put(transcoder.params, shardings(transcoder.config, mesh))
    return transcoder.replace(params=params, mesh=mesh)
