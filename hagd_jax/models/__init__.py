"""Language models in Flax: one decoder for every family, with named sites."""

from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.decoder import ParamSpec, param_specs
from hagd_jax.models.digest import digest
from hagd_jax.models.intervention import (
    Chain,
    Context,
    Identity,
    Intervention,
    carried,
    chain,
    parts,
    scanned,
    shared,
    static,
)
from hagd_jax.models.loading import load
from hagd_jax.models.mlp import mlp
from hagd_jax.models.model import LanguageModel, Output, abstract, check_tokens, forward, init
from hagd_jax.models.presets import preset, presets
from hagd_jax.models.saving import save
from hagd_jax.models.sites import BLOCK_SITES, MODEL_SITES, SITES
from hagd_jax.models.support import norm_weight, require_supported, write_gain
from hagd_jax.models.tokenizer import Tokenizer, token_label
from hagd_jax.models.ungrouped import ungrouped

__all__ = [
    "BLOCK_SITES",
    "MODEL_SITES",
    "SITES",
    "Chain",
    "Context",
    "DecoderConfig",
    "Identity",
    "Intervention",
    "LanguageModel",
    "Output",
    "ParamSpec",
    "RopeScaling",
    "Tokenizer",
    "abstract",
    "carried",
    "chain",
    "check_tokens",
    "digest",
    "forward",
    "init",
    "load",
    "mlp",
    "norm_weight",
    "param_specs",
    "parts",
    "preset",
    "presets",
    "require_supported",
    "save",
    "scanned",
    "shared",
    "static",
    "token_label",
    "ungrouped",
    "write_gain",
]
