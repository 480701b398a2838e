"""Find the sparse circuit inside a language model that carries a behaviour, and test it."""

from hagd_jax import (
    attribution,
    baselines,
    causal,
    errors,
    hierarchy,
    interventions,
    meta,
    models,
    parallel,
    pipeline,
    search,
    tasks,
    transcoders,
)
from hagd_jax.pipeline import ExtractConfig, extract

__version__ = "0.1.0"

__all__ = [
    "ExtractConfig",
    "attribution",
    "baselines",
    "causal",
    "errors",
    "extract",
    "hierarchy",
    "interventions",
    "meta",
    "models",
    "parallel",
    "pipeline",
    "search",
    "tasks",
    "transcoders",
]
