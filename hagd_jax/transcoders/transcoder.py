"""A transcoder as a value: its parameters, and features and reconstructions from them."""

from __future__ import annotations

import functools
from typing import Any

import flax.core.meta
import flax.linen as nn
import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.models.arrays import read_array, require_key
from hagd_jax.parallel import sharding
from hagd_jax.parallel.rules import require_mesh
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.params import INIT, Params, param_specs


class CrossLayerTranscoder(nn.Module):
    """Encode at the nodes of a layer graph, decode along its edges, sum at the receivers.

    Parameters, with L layers, F features a layer, width D and E edges of `layer_graph(config)`:

    - `W_enc` (L, F, D), `b_enc` (L, F): pre-activation = W_enc x + b_enc;
    - `W_dec` (E, F, D), `b_dec` (L, D): an edge's contribution = f W_dec;
    - `threshold` (L, F), with `jump_relu`: a feature is active above it;
    - `W_skip` (L, D, D), with `skip`: W_skip x is added;
    - `W_pred` (L − 1, F, F), `b_pred` (L − 1, F), with `predict`: relu(f_l W_pred + b_pred)
      predicts f_{l+1}.

    Attributes:
        config: What the mathematics is.
    """

    config: TranscoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features and reconstructions.

        Args:
            x: (L, ..., D) what each layer's features read.

        Returns:
            Features (L, ..., F), and the reconstructed MLP outputs (L, ..., D).
        """
        params = {
            name: self.param(name, nn.with_logical_partitioning(INIT[name], axes), shape)
            for name, (shape, axes) in param_specs(self.config).items()
        }
        found = feat.encode(params, x, self.config)
        return found, feat.decode(params, found, x, self.config)


class Transcoder(struct.PyTreeNode):
    """A transcoder comes with its weights; it is a pytree of parameters.

    Attributes:
        params: Name → array; `param_specs(config)` lists them.
        config: What the mathematics is.
        mesh: The devices the parameters lie on, or None for one device.
        name: Where it came from, for records.
    """

    params: Params
    config: TranscoderConfig = struct.field(pytree_node=False)
    mesh: jax.sharding.Mesh | None = struct.field(pytree_node=False, default=None)
    name: str = struct.field(pytree_node=False, default="unnamed")

    def __repr__(self) -> str:
        c = self.config
        if not isinstance(c, TranscoderConfig):  # inside a transformation
            return one_line(self)
        few = f" with {c.k} active" if c.k else ""
        reach = f", to {c.window} layers above" if c.window else ""
        return (
            f"Transcoder({self.name!r}: {c.n_layers} layers, d_model {c.d_model}, "
            f"{c.n_features:,} {c.activation} features{few}{reach}, {c.dtype})"
        )

    def bare(self) -> Transcoder:
        """Drop the name, which would only enlarge the compilation key."""
        return self.replace(name="")


def init(
    config: TranscoderConfig, key: jax.Array, *, mesh: jax.sharding.Mesh | None = None
) -> Transcoder:
    """Initialise an untrained transcoder, in place on the mesh.

    Args:
        config: The transcoder.
        key: PRNG key.
        mesh: Features are split over its `model` axis.

    Returns:
        Short encoder rows in random directions, and zeros.

    Raises:
        InputError: If `key` is no PRNG key.
        MeshError: If the mesh does not divide the features.

    Example:
        >>> config = TranscoderConfig(n_layers=2, d_model=4, n_features=8, k=2)
        >>> init(config, jax.random.key(0)).params["W_dec"].shape
        (2, 8, 4)
    """
    require_is("config", config, TranscoderConfig)
    require_mesh(mesh)
    require_key(key)
    return Transcoder(_creator(config, mesh)(key), config, mesh, "untrained")


@functools.cache
def _creator(config: TranscoderConfig, mesh: jax.sharding.Mesh | None) -> Any:
    x = jnp.zeros((config.n_layers, 1, config.d_model))

    def create(key: jax.Array) -> Params:
        return flax.core.meta.unbox(CrossLayerTranscoder(config).init(key, x)["params"])

    return jax.jit(create, out_shardings=shardings(config, mesh))


def shardings(config: TranscoderConfig, mesh: jax.sharding.Mesh | None) -> Any:
    """Return the sharding of each parameter on a mesh; None without one."""
    if mesh is None:
        return None
    return {
        name: sharding(mesh, spec.axes, spec.shape, name=name)
        for name, spec in param_specs(config).items()
    }


def abstract(config: TranscoderConfig, *, mesh: jax.sharding.Mesh | None = None) -> Transcoder:
    """Make a transcoder of shapes only, for planning; nothing is allocated.

    Args:
        config: The transcoder.
        mesh: Devices its weights would be spread over, or None.

    Returns:
        A `Transcoder` whose arrays are `jax.ShapeDtypeStruct`s with shardings.
    """
    require_is("config", config, TranscoderConfig)
    require_mesh(mesh)
    places = shardings(config, mesh) or {}
    params = {
        name: jax.ShapeDtypeStruct(spec.shape, jnp.float32, sharding=places.get(name))
        for name, spec in param_specs(config).items()
    }
    return Transcoder(params, config, mesh, "abstract")


def encode(transcoder: Transcoder, x: Any) -> jax.Array:
    """Encode activations to features.

    Args:
        transcoder: The transcoder.
        x: (L, ..., D) values of the site that `config.reads` names, e.g. a trace's.

    Returns:
        (L, ..., F) feature activations, zero where inactive.

    Raises:
        InputError: If `x` is not of this transcoder's layers and width.

    Example:
        >>> config = TranscoderConfig(n_layers=2, d_model=4, n_features=8, k=2)
        >>> encode(init(config, jax.random.key(0)), jnp.ones((2, 3, 4))).shape
        (2, 3, 8)
    """
    require_transcoder(transcoder)
    return _encode(transcoder.bare(), check_inputs(transcoder.config, x))


@jax.jit
def _encode(transcoder: Transcoder, x: jax.Array) -> jax.Array:
    return feat.encode(transcoder.params, x, transcoder.config)


def decode(transcoder: Transcoder, features: Any, x: Any = None) -> jax.Array:
    """Decode features to reconstructed MLP outputs.

    Args:
        transcoder: The transcoder.
        features: (L, ..., F) activations.
        x: (L, ..., D) what the features read; needed with a skip connection only.

    Returns:
        (L, ..., D) reconstructions.

    Raises:
        InputError: If the features are not this transcoder's, or `x` is not theirs; or if there
            is a skip connection and no `x`.

    Example:
        >>> config = TranscoderConfig(n_layers=2, d_model=4, n_features=8, k=2)
        >>> decode(init(config, jax.random.key(0)), jnp.ones((2, 3, 8))).shape
        (2, 3, 4)
    """
    require_transcoder(transcoder)
    config = transcoder.config
    features = _stacked("features", features, (config.n_layers, config.n_features), "n_features")
    if config.skip and x is None:
        raise InputError("x", got="none", expected="what the features read: this one has W_skip")
    if x is not None:
        x = check_inputs(config, x)
        if x.shape[:-1] != features.shape[:-1]:
            raise InputError(
                "x", got=f"shape {x.shape}", expected=f"that of the features, {features.shape[:-1]}"
            )
    return _decode(transcoder.bare(), features, x)


@jax.jit
def _decode(transcoder: Transcoder, features: jax.Array, x: jax.Array | None) -> jax.Array:
    return feat.decode(transcoder.params, features, x, transcoder.config)


def check_inputs(config: TranscoderConfig, x: Any) -> jax.Array:
    """Read activations, and refuse those of another model.

    Args:
        config: Of the transcoder that is to read them.
        x: (L, ..., D).

    Returns:
        The same as an array.

    Raises:
        InputError: If their layers or width are not the transcoder's.
    """
    sizes = config.n_layers, config.d_model
    return _stacked(f"activations at {config.reads!r}", x, sizes, "d_model")


def _stacked(what: str, value: Any, sizes: tuple[int, int], name: str) -> jax.Array:
    """An array with an axis of layers first and one of the given size last."""
    array = read_array(what, value)
    if array.ndim < 2 or (array.shape[0], array.shape[-1]) != sizes:
        raise InputError(
            what,
            got=f"shape {array.shape}",
            expected=f"({sizes[0]} layers, ..., {name} {sizes[1]})",
            mend="Is this a transcoder for another model?",
        )
    return jnp.asarray(array)


def require_transcoder(value: Any) -> None:
    """Refuse a value that is not a transcoder with the parameters of its configuration.

    Args:
        value: The argument.

    Raises:
        InputError: Naming the parameter that is absent or has another shape.
    """
    require_is("transcoder", value, Transcoder)
    # The prediction head serves training alone.
    for name, spec in param_specs(value.config.replace(predict=False)).items():
        found = value.params.get(name)
        if found is None or jnp.shape(found) != spec.shape:
            raise InputError(
                f"transcoder: parameter {name}",
                got="none" if found is None else f"shape {jnp.shape(found)}",
                expected=f"shape {spec.shape}, by its configuration",
            )
