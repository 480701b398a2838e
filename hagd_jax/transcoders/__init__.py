"""Transcoders: sparse features that stand in for a model's MLPs."""

from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.contexts.context import Contexts
from hagd_jax.transcoders.contexts.files import load_contexts, save_contexts
from hagd_jax.transcoders.contexts.top import top_contexts
from hagd_jax.transcoders.digest import digest
from hagd_jax.transcoders.formats import LazyTranscoder, check_model, load, open_lazy, save
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.mask import MaskFeatures, mask_features
from hagd_jax.transcoders.measures.effects import logit_effects
from hagd_jax.transcoders.measures.evaluation import Evaluation
from hagd_jax.transcoders.measures.faithfulness import JacobianMatch, jacobian_match
from hagd_jax.transcoders.measures.measure import measure
from hagd_jax.transcoders.params import ParamSpec, param_specs
from hagd_jax.transcoders.replace import ReplaceMLPs, errors, replace_mlps
from hagd_jax.transcoders.training import LossConfig, TrainConfig, TrainingError, train, watch_at
from hagd_jax.transcoders.transcoder import (
    CrossLayerTranscoder,
    Transcoder,
    abstract,
    decode,
    encode,
    init,
)

__all__ = [
    "Contexts",
    "CrossLayerTranscoder",
    "Evaluation",
    "JacobianMatch",
    "LazyTranscoder",
    "LossConfig",
    "MaskFeatures",
    "ParamSpec",
    "ReplaceMLPs",
    "TrainConfig",
    "TrainingError",
    "Transcoder",
    "TranscoderConfig",
    "abstract",
    "check_model",
    "decode",
    "digest",
    "encode",
    "errors",
    "init",
    "jacobian_match",
    "layer_graph",
    "load",
    "load_contexts",
    "logit_effects",
    "mask_features",
    "measure",
    "open_lazy",
    "param_specs",
    "replace_mlps",
    "save",
    "save_contexts",
    "top_contexts",
    "train",
    "watch_at",
]
