"""The provenance that every page shows."""

from __future__ import annotations

import time

import jax

import hagd_jax
from hagd_jax.models import LanguageModel


def facts(model: LanguageModel | None, began: float, command: str = "") -> dict[str, str]:
    """Collect where, when and with what a page's numbers were computed.

    Args:
        model: The model, or None if a page names it itself.
        began: When the work began, in seconds of `time.monotonic`.
        command: The command line, if there was one.

    Returns:
        Name → value.

    Example:
        >>> sorted(facts(None, time.monotonic()))
        ['date', 'devices', 'seconds', 'versions']
    """
    found = {"command": command} if command else {}
    if model is not None:
        found["model"] = f"{model.name}, {model.config.dtype}"
    return found | {
        "seconds": f"{time.monotonic() - began:.0f}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "versions": f"hagd_jax {hagd_jax.__version__}, jax {jax.__version__}",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
