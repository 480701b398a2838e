"""How configuration files say which layers see a window of positions only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError, require_number
from hagd_jax.models.config import MOST_LAYERS, DecoderConfig
from hagd_jax.models.families.options import Options, option

FULL, SLIDING = "full_attention", "sliding_attention"


def from_hf(
    given: Options, n_layers: int, window: int, usual: Callable[[int], bool]
) -> dict[str, Any]:
    """Translate `layer_types`.

    Args:
        given: The parsed `config.json`.
        n_layers: Layers of the model.
        window: Positions of a window; 0 if the file has none.
        usual: Whether a layer has the window, where the file does not list them.

    Returns:
        The fields `window` and `window_layers` of `DecoderConfig`.

    Raises:
        ConfigError: If a layer is of an unknown kind, or there is not one kind a layer, or there
            are too many layers.
    """
    # Before a list is made of them: a damaged file may say any number.
    require_number("n_layers", n_layers, least=1, most=MOST_LAYERS, whole=True)
    own = [SLIDING if usual(layer) else FULL for layer in range(n_layers)]
    kinds = option(given, "layer_types", list, own)
    if len(kinds) != n_layers:
        raise ConfigError(
            "config.json: layer_types",
            got=f"{len(kinds)} of them",
            expected=f"one a layer, {n_layers}",
        )
    for i, kind in enumerate(kinds):
        if kind not in (FULL, SLIDING):
            raise ConfigError(
                f"config.json: layer_types[{i}]", got=quoted(kind), expected=f"{FULL} or {SLIDING}"
            )
    layers = tuple(i for i, kind in enumerate(kinds) if kind == SLIDING)
    if not layers:
        return {}
    if not window:
        raise ConfigError(
            "config.json: layer_types",
            got=f"{SLIDING} without a window",
            expected="a sliding_window that is switched on",
        )
    return {"window": window, "window_layers": layers}


def size(given: Options, usual: int) -> int:
    """Read `sliding_window`: 0 where it is null, `usual` where it is absent.

    Raises:
        ConfigError: If it is no positive whole number.
    """
    if "sliding_window" in given and given["sliding_window"] is None:
        return 0
    found = option(given, "sliding_window", int, usual)
    if "sliding_window" in given:
        require_number("config.json: sliding_window", found, least=1, whole=True)
    return found


def layer_types(config: DecoderConfig) -> list[str]:
    """Write `layer_types`."""
    return [SLIDING if window else FULL for window in config.windows]
