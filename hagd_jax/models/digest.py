"""Eight hexadecimal digits that tell models apart."""

from __future__ import annotations

import dataclasses
import json

import flax.traverse_util

from hagd_jax.models.model import LanguageModel
from hagd_jax.parallel import checksum


def digest(model: LanguageModel) -> str:
    """Hash a model's weights to eight hexadecimal digits, the same on every mesh.

    Args:
        model: The model.

    Returns:
        A checksum of every bit of its weights and of its configuration. Name, folder and
        tokenizer do not enter. The same weights rounded to another dtype are another model.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=10, n_layers=1, d_model=8, n_heads=2, d_mlp=16)
        >>> one, other = (init(config, jax.random.key(seed)) for seed in (0, 1))
        >>> digest(one) == digest(one.replace(name="elsewhere")), digest(one) == digest(other)
        (True, False)
    """
    usual = {field.name: field.default for field in dataclasses.fields(model.config)}
    # Options at their defaults are left out, so that a new one leaves older models' digests alone.
    own = {n: v for n, v in dataclasses.asdict(model.config).items() if v != usual[n]}
    about = json.dumps(own, sort_keys=True, default=str)
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    return f"{checksum(flat, about, mesh=model.mesh):08x}"
