"""Every field of every configuration holds a value of its type, or is refused by a typed error."""

from __future__ import annotations

import dataclasses
import math
import types
import typing

import pytest

from hagd_jax import (
    causal,
    corpus,
    graphs,
    hierarchy,
    meta,
    models,
    pipeline,
    scores,
    search,
    tasks,
    testbeds,
    transcoders,
)
from hagd_jax.errors import ConfigError, HagdError
from hagd_jax.models.rope_scaling import RopeScaling
from hagd_jax.testbeds.two_hop import TwoHopConfig
from hagd_jax.transcoders.training.losses import LossConfig

CONFIGS = [
    pipeline.ExtractConfig(), causal.ValidateConfig(), search.MaskConfig(), search.RepairConfig(),
    hierarchy.HierarchyConfig(), scores.GradientConfig(), transcoders.TrainConfig(), LossConfig(),
    corpus.CorpusConfig(), graphs.AttributionConfig(), meta.LearnerConfig(), meta.MetaConfig(),
    tasks.Sizes(), testbeds.SmallTrainConfig(), TwoHopConfig(), RopeScaling("linear", 2.0),
    search.CoreConfig(), search.UnitEdgeConfig(), search.UnitMaskConfig(),
    search.UnitRepairConfig(), search.EliminateConfig(), search.SpanConfig(),
    models.DecoderConfig(vocab_size=7, n_layers=2, d_model=8, n_heads=2, d_mlp=8),
    transcoders.TranscoderConfig(n_layers=2, d_model=8, n_features=12, k=3),
]  # fmt: skip
WRONG = [
    None, "x", "", [], {}, (), ("x",), (math.nan,), -1, 0, 1.5, 2.0, True, math.nan, math.inf,
    b"x", object(), 10**400,
]  # fmt: skip


def fits(value, kind) -> bool:
    """Whether a value is one of an annotated type, by the rules of typing; no bool is a number."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(each, inner[0]) for each in value)
    if kind is float:
        return fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_each_field_is_of_its_type_or_refused(config):
    kinds = typing.get_type_hints(type(config))
    wrong = []
    for field in dataclasses.fields(config):
        for value in WRONG:
            try:
                made = dataclasses.replace(config, **{field.name: value})
            except HagdError:
                continue
            except Exception as error:
                wrong.append(f"{field.name}={value!r}: {type(error).__name__} {error}")
                continue
            hash(made)
            if not fits(getattr(made, field.name), kinds[field.name]):
                wrong.append(f"{field.name}={value!r} is taken")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: pipeline.ExtractConfig(masks=None), r"masks: got None.*Write masks=MaskConfig"),
        (lambda: pipeline.ExtractConfig(masks={"steps": 3}), "expected a MaskConfig"),
        (lambda: pipeline.ExtractConfig(judge="core"), "judge: got str 'core'"),
        (
            lambda: pipeline.ExtractConfig(levels=-1),
            "got -1; expected a whole number, 0 or more",
        ),
        (lambda: pipeline.ExtractConfig(nodes="many"), 'nodes: got .many.*such as "64"'),
        (lambda: causal.ValidateConfig(split="tset"), "one of discover, select, test"),
        (lambda: causal.ValidateConfig(ablations="mean"), "one or more of zero, mean"),
    ],
)
def test_the_message_names_the_field_and_what_it_takes(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
