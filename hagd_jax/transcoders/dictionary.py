"""A dictionary: what the nodes inside MLPs are, beside the attention heads.

Attribution, search, the judge and reports ask it for the number of nodes, for their values in a
pass, and for the intervention that masks them. The neuron basis is an exact dictionary; a
transcoder's is not: what it does not explain is no node, and stays in whatever is ablated.
"""

from __future__ import annotations

import abc
import functools
import operator
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.errors import InputError
from hagd_jax.interventions import Nodes, Space, chain, mask_heads, mask_nodes
from hagd_jax.models import DecoderConfig, Intervention, LanguageModel
from hagd_jax.parallel import constrain, replicate
from hagd_jax.transcoders import features as feat
from hagd_jax.transcoders.replace import dividing, mask_features, require_fit, site_of
from hagd_jax.transcoders.transcoder import Transcoder, shardings

NEURONS, MLPS = "neurons", "mlps"
# Odd numbers whose bits look random (of xxHash).
_ODD = tuple(np.uint32(n) for n in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))


class Dictionary(struct.PyTreeNode, abc.ABC):
    """Nodes of one model; a pytree, so that it passes through `jit` with its weights.

    Attributes:
        decoder: The model's configuration.
        name: Where it came from, for records.
    """

    decoder: DecoderConfig = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False, default="")

    @property
    @abc.abstractmethod
    def space(self) -> Space:
        """How many nodes there are."""

    @property
    @abc.abstractmethod
    def capture(self) -> tuple[str, ...]:
        """The sites from which `values` computes."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What a circuit records, and by which it knows its dictionary again."""

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """What it is, in a few words."""

    @abc.abstractmethod
    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """What every node is in a pass.

        Args:
            trace: Of a pass that captured `capture`.

        Returns:
            Name → (L, B, T, ...): of heads `head_out`, and of the rest `neuron` or `feature`.
        """

    @abc.abstractmethod
    def mask(self, mask: Nodes, alternative: Mapping[str, jax.Array]) -> Intervention:
        """Keep nodes where the mask is 1, replace them by the alternative where it is 0.

        Args:
            mask: `Nodes` of bool or float; a prompt axis after the layers is allowed.
            alternative: Named as `values` are; anything that broadcasts to them.

        Returns:
            The intervention. A mask of ones is exact.
        """

    def bare(self) -> Dictionary:
        """Without its name, which would enter a compilation key for nothing."""
        return self.replace(name="")


class Neurons(Dictionary):
    """The model's own basis; make it with `neurons`.

    Activations times output rows sum to the MLP's output, with nothing left over.
    """

    @property
    def space(self) -> Space:
        """Heads and neurons."""
        return Space(self.decoder.n_layers, self.decoder.n_heads, self.decoder.d_mlp)

    @property
    def capture(self) -> tuple[str, ...]:
        """What the nodes are already."""
        return ("head_out", "neuron")

    @property
    def label(self) -> str:
        """Always the same."""
        return NEURONS

    @property
    def about(self) -> str:
        """How many."""
        return f"{self.space.features:,} a layer"

    def values(self, trace: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The two sites."""
        return {site: site_of(trace, site) for site in self.capture}

    def mask(self, mask: Nodes, alternative: Mapping[str, jax.Array]) -> Intervention:
        """Interpolate both."""
        return mask_nodes(mask, alternative)


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


def neurons(model: LanguageModel) -> Neurons:
    """The neuron basis of a model: an exact dictionary, with no error term.

    Args:
        model: The model.

    Returns:
        The dictionary.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> neurons(models.init(config, jax.random.key(0))).space
        Space(layers=2, heads=2, features=16)
    """
    return Neurons(model.config, NEURONS)


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


def digest(transcoder: Transcoder) -> str:
    """Eight hexadecimal digits that tell transcoders apart; the same on every mesh.

    Args:
        transcoder: The transcoder.

    Returns:
        A checksum of every bit of the parameters that features and reconstructions depend on,
        and of what is done with them. It finds mistakes, not forgers.

    Example:
        >>> config = TranscoderConfig(n_layers=1, d_model=4, n_features=8, k=2)
        >>> digest(init(config, key)) == digest(init(config.replace(k=3), key))
        False
    """
    return f"{int(np.asarray(_checksum(transcoder.bare()))):08x}"


@jax.jit
def _checksum(transcoder: Transcoder) -> jax.Array:
    def add(total: jax.Array, item: tuple[str, jax.Array]) -> jax.Array:
        name, array = item
        bits = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)
        places = [
            jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(factor)
            for axis, factor in zip(range(bits.ndim), _ODD, strict=False)
        ]
        mixed = functools.reduce(operator.xor, places, bits) * _ODD[2]
        mixed = (mixed ^ (mixed >> 15)) * _ODD[1]
        # Whole numbers that wrap: their sum is the same in any order, so on any devices.
        found = jnp.sum(mixed, dtype=jnp.uint32)
        return (total ^ jnp.uint32(sum(map(ord, name)))) * _ODD[0] + found

    config = transcoder.config
    kind = f"{config.activation} {config.k} {config.window} {config.reads}"
    used = sorted(item for item in transcoder.params.items() if not item[0].endswith("_pred"))
    total = functools.reduce(add, used, jnp.uint32(zlib.crc32(kind.encode())))
    return replicate(total, transcoder.mesh)
