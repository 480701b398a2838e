"""Transcoders: sparse features that stand in for a model's MLPs."""

from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.contexts.context import Contexts
from hagd_jax.transcoders.contexts.files import load_contexts, save_contexts
from hagd_jax.transcoders.contexts.top import top_contexts
from hagd_jax.transcoders.digest import digest
from hagd_jax.transcoders.formats import check_model, load, save
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.measures.effects import logit_effects
from hagd_jax.transcoders.measures.evaluation import Evaluation
from hagd_jax.transcoders.measures.faithfulness import JacobianMatch, jacobian_match
from hagd_jax.transcoders.measures.measure import measure
from hagd_jax.transcoders.replace import (
    MaskFeatures,
    ReplaceMLPs,
    errors,
    mask_features,
    replace_mlps,
)
from hagd_jax.transcoders.training import LossConfig, TrainConfig, TrainingError, train, watch_at
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
    "Contexts",
    "CrossLayerTranscoder",
    "Evaluation",
    "JacobianMatch",
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
    "param_specs",
    "replace_mlps",
    "save",
    "save_contexts",
    "top_contexts",
    "train",
    "watch_at",
]
