"""What the fields of a decoder's configuration ask of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hagd_jax.brief import quoted
from hagd_jax.errors import require, require_number

if TYPE_CHECKING:
    from hagd_jax.models.config import DecoderConfig


def check_rotary(config: DecoderConfig) -> None:
    """Check that rotated entries come in pairs, and that the stretching fits their number.

    Raises:
        ConfigError: Naming the field.
    """
    dim, scaling = config.rotary_dim, config.rope_scaling
    fits = dim % 2 == 0 and 0 < dim <= config.d_head
    expected = f"an even number from 2 to d_head = {config.d_head}"
    require(fits, "rotary_dim", got=dim, expected=expected)
    require_number("rope_theta", config.rope_theta, above=0, most=1e15)
    if scaling is None:
        return
    # The new base is the old one times stretch ** (dim / (dim - 2)).
    enough = scaling.kind != "dynamic" or dim > 2
    require(enough, "rotary_dim", got=dim, expected="at least 4 with dynamic rope_scaling")
    for name in ("factors", "short_factors"):
        count = len(getattr(scaling, name))
        require(
            count in (0, dim // 2),
            f"rope_scaling {name}",
            got=f"{count} of them",
            expected=f"{dim // 2}, one for each pair of rotary_dim = {dim}",
        )
    turns = scaling.kind != "yarn" or config.rope_theta > 1
    require(turns, "rope_theta", got=config.rope_theta, expected="above 1 with yarn rope_scaling")


def check_norms(config: DecoderConfig) -> None:
    """Check that further norms are RMSNorms, whose linear part is a diagonal.

    Raises:
        ConfigError: Naming the field.
    """
    plain = {"norm_offset": False, "norm_placement": "before", "qk_norm": "none"}
    for field, value in plain.items():
        got = getattr(config, field)
        fits = got == value or config.norm == "rms"
        require(fits, field, got=quoted(got), expected=f"{value!r} unless norm is 'rms'")


def check_windows(config: DecoderConfig) -> None:
    """Check that layers with a window are layers, and that what belongs to a window has one.

    Raises:
        ConfigError: Naming the field.
    """
    layers, window = config.window_layers, config.window
    _require_layers(config, "window_layers")
    if len(layers) == config.n_layers:
        object.__setattr__(config, "window_layers", ())
    fits = bool(window) or not layers
    require(fits, "window", got=window, expected="1 or more where window_layers are given")
    require(config.causal or not window, "window", got=window, expected="0 where causal is off")
    local = config.rope_local_theta
    fits = not local or (bool(window) and config.positions == "rotary")
    expected = "0 without a window and rotary positions"
    require(fits, "rope_local_theta", got=local, expected=expected)


def check_experts(config: DecoderConfig) -> None:
    """Check that experts share a layer's neurons, and that some layer routes tokens to some.

    Raises:
        ConfigError: Naming the field.
    """
    experts, each = config.experts, config.experts_per_token
    _require_layers(config, "dense_layers")
    if not experts:
        for field in ("experts_per_token", "normalise_routing", "dense_layers", "d_dense"):
            got = getattr(config, field)
            require(not got, field, got=quoted(got), expected="none without experts")
        return
    require_multiple("d_mlp", config.d_mlp, "experts", experts)
    fits = 1 <= each <= experts
    require(fits, "experts_per_token", got=each, expected=f"1 to experts = {experts}")
    require(not config.mlp_bias, "mlp_bias", got=True, expected="False with experts")
    layers, dense = config.dense_layers, config.d_dense
    some = len(layers) < config.n_layers
    expected = "at least one layer that is a mixture"
    mend = "A model whose layers are all dense is configured without experts."
    require(some, "dense_layers", got=quoted(layers), expected=expected, mend=mend)
    least, most = (1, config.d_mlp) if layers else (0, 0)
    expected = f"from {least} to {most}, d_mlp where there are dense_layers"
    require(least <= dense <= most, "d_dense", got=dense, expected=expected)


def _require_layers(config: DecoderConfig, field: str) -> None:
    """Refuse what is no tuple of rising layer numbers."""
    layers = getattr(config, field)
    expected = f"a tuple of rising layer numbers from 0 to {config.n_layers - 1}"
    numbers = isinstance(layers, tuple) and all(type(layer) is int for layer in layers)
    require(numbers, field, got=quoted(layers), expected=expected)
    rising = all(a < b for a, b in zip((-1, *layers), (*layers, config.n_layers), strict=True))
    require(rising, field, got=quoted(layers), expected=expected)


def require_multiple(name: str, value: int, of_name: str, of: int) -> None:
    """Raise a `ConfigError` unless one number divides another."""
    require(value % of == 0, name, got=value, expected=f"a multiple of {of_name} = {of}")
