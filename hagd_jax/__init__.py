"""Find the sparse circuit inside a language model that carries a behaviour, and test it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hagd_jax import (
        baselines,
        causal,
        corpus,
        errors,
        graphs,
        hierarchy,
        interventions,
        meta,
        models,
        parallel,
        pipeline,
        roles,
        scores,
        search,
        tasks,
        testbeds,
        transcoders,
        transfer,
        units,
    )
    from hagd_jax.pipeline import ExtractConfig, extract

__version__ = "0.1.0"

__all__ = [
    "ExtractConfig",
    "baselines",
    "causal",
    "corpus",
    "errors",
    "extract",
    "graphs",
    "hierarchy",
    "interventions",
    "meta",
    "models",
    "parallel",
    "pipeline",
    "roles",
    "scores",
    "search",
    "tasks",
    "testbeds",
    "transcoders",
    "transfer",
    "units",
]
_FLAGSHIP = ("ExtractConfig", "extract")


def __getattr__(name: str) -> Any:
    """Import a room when it is first asked for: all of them together take two seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _FLAGSHIP:
        return getattr(importlib.import_module("hagd_jax.pipeline"), name)
    return importlib.import_module(f"hagd_jax.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
