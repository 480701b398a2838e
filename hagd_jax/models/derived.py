"""Stored tensors that a configuration says can be derived: held against what it says.

A tied model has no unembedding of its own, rotary frequencies follow from the base, a causal mask
from the length. Checkpoints may store them all the same. Where the stored numbers are others, the
configuration and the weights describe different models.
"""

from __future__ import annotations

import logging
import re

import numpy as np

from hagd_jax.errors import CheckpointError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import Family
from hagd_jax.models.families.table import Source, axis_sizes, read
from hagd_jax.models.matching import named
from hagd_jax.models.rope import frequencies

_log = logging.getLogger(__name__)
# Numbers of a tensor compared at once.
_STRIP = 2**23
# Frequencies may have gone through bfloat16 (2⁻⁸) or through float16, whose smallest step is 6e-8.
_RTOL, _ATOL = 1e-2, 1e-7
# float16 turns the usual −1e9 into −∞, and bfloat16 −1e4 into −9984.
_MASKED = -9e3


def with_stored_head(config: DecoderConfig, source: Source, family: Family) -> DecoderConfig:
    """Untie a model whose file stores another unembedding than its embedding.

    The stored one is then computed with, as transformers 5 does; transformers 4 overwrites it.

    Args:
        config: What `config.json` says.
        source: The checkpoint.
        family: Of the configuration.

    Returns:
        The configuration, with `tied` off if the file stores a head of its own.
    """
    if not config.tied or family.unembed not in source.names():
        return config
    untied = config.replace(tied=False)
    table = named(family.table(untied, source.names()), source, family.prefix)
    weights = {weight.leaf: weight for weight in table}
    embed, head = weights["embed/embedding"], weights["unembed/kernel"]
    sizes, width = axis_sizes(config), config.d_model
    for weight in (embed, head):
        if weight.name not in source.names() or (
            source.shape(weight.name) != weight.stored_shape(sizes)
        ):
            return untied  # which is refused, by name
    step = max(1, _STRIP // width)
    for start in range(0, config.vocab_size, step):
        rows = slice(start, min(start + step, config.vocab_size))
        index = (rows, slice(0, width))
        ours = read(embed, sizes, index, lambda at: source.read(embed.name, at))
        theirs = read(head, sizes, index[::-1], lambda at: source.read(head.name, at)).T
        if not np.array_equal(ours.astype(np.float64), theirs.astype(np.float64)):
            _log.warning(
                "%s: tensor %s differs from the embedding, though the configuration ties them. "
                "The stored unembedding is used, and the model is loaded as untied.",
                source.describe(head.name),
                head.name,
            )
            return untied
    return config


def check_buffers(config: DecoderConfig, source: Source, family: Family, strict: bool) -> None:
    """Compare stored rotary frequencies and masks with those that the configuration implies.

    Args:
        config: The decoder.
        source: The checkpoint.
        family: Of the configuration.
        strict: Refuse others; without it they are reported to the log, and not used.

    Raises:
        CheckpointError: Naming the tensor that says something else.
    """
    for name in sorted(source.names()):
        if not re.fullmatch(family.buffers, name):
            continue
        expected = _disagreement(config, source, name)
        if expected is None:
            continue
        error = CheckpointError(
            f"{source.describe(name)}: tensor {name}",
            got="other numbers",
            expected=f"{expected}, by config.json",
            mend="Mend the configuration, or load with strict=False to compute by it as it is.",
        )
        if strict:
            raise error
        _log.warning("%s", error)


def _disagreement(config: DecoderConfig, source: Source, name: str) -> str | None:
    """What a stored buffer should be, if it is not."""
    size = source.shape(name)
    if name.endswith("inv_freq"):
        found = _whole(source, name).astype(np.float64)
        # Some versions stored them stretched, some before they were.
        plain = config.replace(rope_scaling=None)
        each = [frequencies(c, config.max_positions) for c in (config, plain)]
        fits = any(f.shape == size and np.allclose(found, f, _RTOL, _ATOL) for f in each)
        expected = f"θ^(-2j/d) with θ = {config.rope_theta:g}, d = {config.rotary_dim}"
        return None if fits else expected
    if name.endswith("masked_bias"):
        fits = bool((_whole(source, name).astype(np.float64) < _MASKED).all())
        return None if fits else "a number far below zero"
    if len(size) != 4 or size[:2] != (1, 1) or size[2] != size[3]:
        return "a (1, 1, T, T) causal mask"
    length, step = size[2], max(1, _STRIP // size[3])
    for start in range(0, length, step):
        rows = slice(start, min(start + step, length))
        mask = source.read(name, (slice(0, 1), slice(0, 1), rows, slice(0, length)))[0, 0] != 0
        if not np.array_equal(mask, np.tri(len(mask), length, start, dtype=bool)):
            return "a causal mask"
    return None


def _whole(source: Source, name: str) -> np.ndarray:
    return source.read(name, tuple(slice(0, n) for n in source.shape(name)))


def refuse_switched_off(config: DecoderConfig, source: Source, family: Family) -> None:
    """Refuse biases that are stored and that the configuration switches off.

    Args:
        config: The decoder.
        source: The checkpoint.
        family: Of the configuration.

    Raises:
        CheckpointError: Naming the tensor.
    """
    everything = config.replace(
        qkv_bias=True,
        attn_out_bias=True,
        mlp_bias=not config.experts,
        unembed_bias=not config.tied,
    )
    own, every = (
        {
            weight.tensor(layer)
            for weight in named(family.table(c, source.names()), source, family.prefix)
            for layer in range(config.n_layers)
        }
        for c in (config, everything)
    )
    for name in sorted((every - own) & source.names()):
        raise CheckpointError(
            f"{source.describe(name)}: tensor {name}",
            got="it in the file",
            expected="none, by config.json",
            mend="The configuration switches this bias off: mend it, or remove the tensor.",
        )
