"""Transcoders: sparse features that stand in for a model's MLPs."""

from hagd_jax.transcoders.blocks import Blocks, blocks
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.context import Contexts
from hagd_jax.transcoders.context_files import load_contexts, save_contexts
from hagd_jax.transcoders.contexts import top_contexts
from hagd_jax.transcoders.corpus import (
    Batch,
    Batches,
    Corpus,
    CorpusConfig,
    corpus_of_tokens,
    open_corpus,
)
from hagd_jax.transcoders.dictionary import (
    Dictionary,
    Features,
    Neurons,
    as_dictionary,
    digest,
    neurons,
)
from hagd_jax.transcoders.edits import FeatureEdit, intervene
from hagd_jax.transcoders.effects import logit_effects
from hagd_jax.transcoders.evaluate import evaluate
from hagd_jax.transcoders.evaluation import Evaluation
from hagd_jax.transcoders.faithfulness import JacobianMatch, jacobian_match
from hagd_jax.transcoders.formats import check_model, load, save
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.losses import LossConfig
from hagd_jax.transcoders.replace import (
    MaskFeatures,
    ReplaceMLPs,
    errors,
    mask_features,
    replace_mlps,
)
from hagd_jax.transcoders.skipping import SkipShare, skip_share
from hagd_jax.transcoders.trainer import TrainingError, train, watch_at
from hagd_jax.transcoders.training import TrainConfig
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
    "Batch",
    "Batches",
    "Blocks",
    "Contexts",
    "Corpus",
    "CorpusConfig",
    "CrossLayerTranscoder",
    "Dictionary",
    "Evaluation",
    "FeatureEdit",
    "Features",
    "JacobianMatch",
    "LossConfig",
    "MaskFeatures",
    "Neurons",
    "ParamSpec",
    "ReplaceMLPs",
    "SkipShare",
    "TrainConfig",
    "TrainingError",
    "Transcoder",
    "TranscoderConfig",
    "abstract",
    "as_dictionary",
    "blocks",
    "check_model",
    "corpus_of_tokens",
    "decode",
    "digest",
    "encode",
    "errors",
    "evaluate",
    "init",
    "intervene",
    "jacobian_match",
    "layer_graph",
    "load",
    "load_contexts",
    "logit_effects",
    "mask_features",
    "neurons",
    "open_corpus",
    "param_specs",
    "replace_mlps",
    "save",
    "save_contexts",
    "skip_share",
    "top_contexts",
    "train",
    "watch_at",
]
