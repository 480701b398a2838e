"""Transcoders: sparse features that stand in for a model's MLPs."""

from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.transcoder import (
    CrossLayerTranscoder,
    ParamSpec,
    Transcoder,
    abstract,
    decode,
    encode,
    init,
    param_specs,
)

__all__ = [
    "CrossLayerTranscoder",
    "ParamSpec",
    "Transcoder",
    "TranscoderConfig",
    "abstract",
    "decode",
    "encode",
    "init",
    "layer_graph",
    "param_specs",
]
