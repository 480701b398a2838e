"""A transcoder's features as units; what they do not explain is no unit."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import struct

from hagd_jax.errors import InputError, require_is
from hagd_jax.interventions import chain, mask_heads
from hagd_jax.models import Intervention, LanguageModel
from hagd_jax.parallel import constrain
from hagd_jax.transcoders.digest import digest
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.replace import dividing, mask_features, require_fit, site_of
from hagd_jax.transcoders.transcoder import Transcoder, shardings
from hagd_jax.units.dictionary import Dictionary
from hagd_jax.units.neurons import neurons
from hagd_jax.units.nodes import Nodes, Space


class Features(Dictionary):
    """A transcoder's features as nodes; make it with `as_dictionary`.

    Attributes:
        transcoder: For this model, on its devices.
        keep_error: Whether what features leave unexplained of the MLPs stays in every circuit. If
            not, it is in none: a mask of ones is then the replacement model.
    """

    transcoder: Transcoder | None = None
    keep_error: bool = struct.field(pytree_node=False, default=True)

    @property
    def trained(self) -> Transcoder:
        """The transcoder."""
        assert self.transcoder is not None
        return self.transcoder

    @property
    def space(self) -> Space:
        """Heads and features."""
        width = self.trained.config.n_features
        return Space(self.decoder.n_layers, self.decoder.n_heads, width)

    @property
    def capture(self) -> tuple[str, ...]:
        """Heads, and what features read."""
        return ("head_out", self.trained.config.reads)

    @property
    def label(self) -> str:
        """Name and digest: a folder may move, and another transcoder may have its name."""
        errors = "" if self.keep_error else " without errors"
        return f"{self.name}{errors}#{digest(self.trained)}{'' if self.keep_error else '-'}"

    @property
    def about(self) -> str:
        """How many, which activation function, and where they write."""
        c = self.trained.config
        few = f" with {c.k} active" if c.k else ""
        reach = f" and {c.window} above" if c.window else ""
        skip = ", skip connection" if c.skip else ""
        return f"{c.n_features:,} {c.activation} features a layer{few}, to their own{reach}{skip}"

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Heads as they are, and features encoded from what the MLPs read."""
        params, config, mesh = self.trained.params, self.trained.config, self.trained.mesh
        read = site_of(trace, config.reads)
        tokens = read.shape[1] * read.shape[2]
        found = feat.encode(params, read, config, dividing(mesh, tokens))
        found = constrain(found, ("layers", "batch", "length", "features"), mesh)
        return {"head_out": site_of(trace, "head_out"), "feature": found}

    def mask(self, mask: Nodes, alternative: Mapping[str, jax.Array]) -> Intervention:
        """Interpolate heads, and write what moving the features changes."""
        heads = mask_heads(mask.heads, alternative["head_out"])
        moved = mask_features(
            self.trained, mask.features, alternative["feature"], keep_error=self.keep_error
        )
        return chain(heads, moved)

    def bare(self) -> Features:
        """Without names."""
        return self.replace(name="", transcoder=self.trained.bare())


def as_dictionary(
    model: LanguageModel,
    source: Dictionary | Transcoder | None = None,
    *,
    keep_error: bool = True,
) -> Dictionary:
    """The nodes of a model.

    Args:
        model: The model.
        source: A transcoder, a dictionary, or None for neurons.
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


def _placed(transcoder: Transcoder, mesh: jax.sharding.Mesh | None) -> Transcoder:
    if transcoder.mesh == mesh or mesh is None:
        return transcoder
    params = jax.device_put(transcoder.params, shardings(transcoder.config, mesh))
    return transcoder.replace(params=params, mesh=mesh)
