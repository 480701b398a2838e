"""Find the sparse circuit inside a language model that carries a behaviour, and test it."""

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
    scores,
    search,
    tasks,
    testbeds,
    transcoders,
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
    "scores",
    "search",
    "tasks",
    "testbeds",
    "transcoders",
    "units",
]
