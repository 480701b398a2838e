"""Every layer's MLP by itself, applied to inputs of one's own."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from hagd_jax.errors import InputError, require_choice, require_is
from hagd_jax.models.arrays import read_array
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.feed_forward import MLP
from hagd_jax.models.intervention import Identity
from hagd_jax.models.layers import Norm
from hagd_jax.models.model import LanguageModel
from hagd_jax.models.tap import Options, Tap

MLPInput = Literal["mlp_in", "resid_mid"]
MLPOutput = Literal["mlp_out", "mlp_out_raw"]


def mlp(
    model: LanguageModel, x: Any, *, site: MLPInput = "mlp_in", writes: MLPOutput = "mlp_out"
) -> jax.Array:
    """Compute the MLP outputs of all layers for given inputs.

    y_l = MLP_l(x_l), or MLP_l(norm_l(x_l)) where the inputs are the stream before the norm; where
    the model norms what its MLPs put out, y_l is normed as well, unless `writes` is `mlp_out_raw`.
    The rest of the model takes no
    part, so derivatives are those of the MLPs and their norms alone.

    Args:
        model: The model.
        x: (L, ..., D) values of the site that `site` names, e.g. a trace's; any number of axes
            between. They are computed with in their own dtype.
        site: Which site `x` stands for.
        writes: Which site is returned.

    Returns:
        (L, ..., D), in the dtype of `x`: a trace's `mlp_in` gives its `mlp_out`, or the other.

    Raises:
        InputError: If `x` is not of this model's layers and width, or not of floating point.
        ConfigError: If `site` or `writes` names another site.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=10, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> x = jnp.ones((2, 5, 8))
        >>> _, change = jax.jvp(lambda x: mlp(model, x), (x,), (x,))
        >>> change.shape
        (2, 5, 8)
    """
    require_is("model", model, LanguageModel)
    c, x = model.config, read_array(f"inputs at {site!r}", x)
    require_choice("site", site, get_args(MLPInput))
    require_choice("writes", writes, get_args(MLPOutput))
    shape = x.shape
    if len(shape) < 2 or (shape[0], shape[-1]) != (c.n_layers, c.d_model):
        raise InputError(
            f"inputs at {site!r}",
            got=f"shape {shape}",
            expected=f"({c.n_layers} layers, ..., d_model {c.d_model})",
        )
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise InputError(
            f"inputs at {site!r}", got=f"dtype {jnp.result_type(x)}", expected="floating point"
        )
    blocks = model.params["blocks"]
    names = ("mlp", "norm2", *(("norm_mlp_out",) if writes == "mlp_out" else ()))
    params = {name: blocks[name] for name in names if name in blocks}
    return _mlp(params, jnp.asarray(x), c, Options(mesh=model.mesh), site)


@functools.partial(jax.jit, static_argnames=("config", "options", "site"))
def _mlp(
    params: dict[str, Any], x: jax.Array, config: DecoderConfig, options: Options, site: MLPInput
) -> jax.Array:
    """Layer after layer, as the model itself does: the neurons of one at a time."""

    def layer(inputs: tuple[dict[str, Any], jax.Array, jax.Array]) -> jax.Array:
        params, x, index = inputs

        def normed(x: Any, name: str) -> Any:
            return Norm(config, name not in params).apply(
                {"params": params.get(name, {})}, x, None, ""
            )

        x = normed(x, "norm2") if site == "resid_mid" else x
        tap = Tap(Identity(), config, options, index)
        return normed(MLP(config).apply({"params": params["mlp"]}, x, tap), "norm_mlp_out")

    # Sites have a batch and a length: each row here is a prompt of one token.
    rows = x.reshape(x.shape[0], -1, 1, x.shape[-1])
    layers = jnp.arange(config.n_layers, dtype=jnp.int32)
    return jax.lax.map(layer, (params, rows, layers)).reshape(x.shape)
