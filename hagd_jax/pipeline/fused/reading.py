"""The prompts that steps read, padded to one shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hagd_jax.causal.reference import groups_of
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline.fused.means import SPLITS
from hagd_jax.tasks import Prompts, Task


def read_splits(task: Task) -> dict[str, Prompts]:
    """Pad the splits that the search reads to one shape.

    Args:
        task: The behaviour.

    Returns:
        `discover`, and `select` if there is one.
    """
    names = [name for name in SPLITS if name in task.splits]
    return dict(zip(names, alike([task.splits[name] for name in names]), strict=True))


def require_readable(model: LanguageModel, splits: Mapping[str, Prompts]) -> None:
    """Refuse prompts that the model cannot read, as `padded_batches` does.

    Raises:
        InputError: If a token is outside the vocabulary, or a model that reads both ways would read
            the padding of the splits to one width.
    """
    for prompts in splits.values():
        prompts.check(model.config.vocab_size)
        length, width = np.asarray(prompts.length), prompts.clean.shape[-1]
        if not model.config.causal and (length < width).any():
            raise InputError(
                "prompts", got=f"lengths from {length.min()} to {width} over all splits",
                expected="one length, since this model reads both ways and would read the padding",
                mend="Use --executor staged, or make a task of prompts of one length.",
            )  # fmt: skip


def alike(splits: list[Prompts]) -> list[Prompts]:
    """Pad prompts of several splits to one width and one number of answers.

    Tokens are padded with 0 and alternatives with -1, as `make_prompts` and `make_choices` do, and
    padding is in the last span.
    """
    filling = {"clean": 0, "corrupted": 0, "answer": -1, "distractor": -1, "position": -1}
    found: list[dict[str, np.ndarray]] = [{} for _ in splits]
    for name in filling:
        values = [np.asarray(getattr(prompts, name)) for prompts in splits]
        most = max(value.ndim for value in values)
        values = [v[..., None] if v.ndim < most else v for v in values]
        width = max(v.shape[-1] for v in values) if most > 1 else 0
        for own, value in zip(found, values, strict=True):
            room = [(0, 0)] * value.ndim
            room[-1] = (0, width - value.shape[-1] if most > 1 else 0)
            own[name] = np.pad(value, room, constant_values=filling[name])
    for prompts, own in zip(splits, found, strict=True):
        if prompts.span is not None:
            room = [(0, 0), (0, own["clean"].shape[1] - np.shape(prompts.span)[1])]
            own["span"] = np.pad(prompts.span, room, constant_values=len(prompts.spans) - 1)
    return [
        dataclasses.replace(prompts, **own, group=groups_of(prompts))
        for prompts, own in zip(splits, found, strict=True)
    ]
