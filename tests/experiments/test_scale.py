"""Experiments on growth, memory and devices, at toy size."""

import contextlib
import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments.common import processes
from experiments.common.plans import account
from experiments.common.random_models import Shape
from experiments.scale import (
    attribution,
    compile_time,
    complexity,
    devices,
    gemmascope,
    loading_memory,
    plan_attribution,
    plan_forward,
    plan_models,
    plan_pipeline,
    plan_transcoder,
)
from hagd_jax import parallel
from hagd_jax.errors import MissingDependencyError
from hagd_jax.graphs import AttributionConfig
from hagd_jax.scores import GradientConfig
from hagd_jax.search import MaskConfig
from hagd_jax.transcoders import TrainConfig
from tests.experiments.conftest import tiny_config

SHAPE = Shape(layers=2, width=16, heads=2, mlp=8, vocabulary=32, positions=64, features=64)


def test_growth_of_a_graph_is_fitted(places, read):
    attribution.main(
        attribution.Config(**places, features=(8, 16), layers=(), tokens=(), base=(2, 4, 8),
                           shape=SHAPE, edges_per_node=8, long=(4, 16), apart=False)
    )  # fmt: skip
    result = read("attribution_growth")
    assert result["exponents"].keys() == {"features"}
    long = result["long_prompt"]
    assert long["active_features"] <= 2 * 3 * 32  # 2 layers, 3 positions, 32 of TopK
    assert long["peak_gb"] > 0
    assert 0 <= long["replacement"] <= 1


def test_a_graph_over_a_dictionary_on_disk(places, read):
    tiny = {"layers": 2, "width": 16, "features": 512, "active": 4, "vocabulary": 64}
    config = gemmascope.Config(**places, **tiny, tokens=6, nodes=30, apart=False)
    gemmascope.main(config)
    result = read("gemmascope_llama")
    (row,) = result["rows"]
    assert 0 < row["feature_nodes"] <= 30
    assert row["edges"] > 30
    assert row["peak_gb"] > 0
    assert result["dictionary_bytes"] > 2 * 2 * 512 * 16 * 4
    # The Gemma of the same sizes has norms after its MLPs.
    gemma = dataclasses.replace(config, family="gemma2").decoder()
    assert (gemma.norm_placement, gemma.n_layers, gemma.logit_softcap) == ("both", 2, 30.0)


def test_exponents_are_slopes_of_logarithms():
    rows = [{"varied": "tokens", "tokens": n, "seconds": 3 * n**1.5} for n in (1, 2, 4, 8)]
    assert attribution.exponent("tokens", rows) == 1.5
    rows = [{"nodes": n, "all": 5 * n**2} for n in (4, 8, 16)]
    assert complexity.slope(rows, "all") == pytest.approx(2)
    assert np.isnan(complexity.slope(rows, "all", least=16))


def test_a_large_model_compiles(places, read, monkeypatch):
    names = {"llama": "llama-70b", "gemma3": "gemma-3-27b"}
    monkeypatch.setattr(compile_time, "FAMILIES", names)
    compile_time.main(compile_time.Config(**places, layers=2, width=32, repeats=1))
    found = read("compile_time")
    assert [row["intervention"] for row in found["rows"]] == ["none", "chain of five"]
    assert [row["family"] for row in found["families"]] == ["llama", "gemma3", "olmo2"]
    for row in found["rows"] + found["families"]:
        assert row["layers"] == 2
        assert row["gradient_s"] > 0


def test_stages_grow_with_nodes(places, read):
    config = complexity.Config(
        **places, sizes=(48,), apart=False, plot=False, layers=2, heads=2, width=8, prompts=4,
        length=4, gradient=GradientConfig((0.5,), 4),
        masks=MaskConfig(steps=2, batch_size=4, check_every=2),
    )  # fmt: skip
    complexity.main(config)
    (row,) = read("complexity")["rows"]
    assert row["nodes"] == 48
    assert row["all"] == pytest.approx(sum(row[stage] for stage in complexity.STAGES), abs=1e-3)
    model, prompts = complexity.subject(48, config)
    assert model.config.n_layers * (model.config.n_heads + model.config.d_mlp) == 48
    assert prompts.clean.shape == (4, 4)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(MissingDependencyError, match="plots"):
            complexity.main(dataclasses.replace(config, plot=True))


def test_devices_find_the_same_circuit(tiny, places, read):
    arguments = f"--task ioi --model {tiny} --nodes 60% --search masks --masks.steps 30 "
    arguments += "--sizes.discover 4 --sizes.test 4 --judge.controls 2 --gradient.steps 0.5"
    arguments += " --judge.ablations counterfactual"
    devices.main(
        devices.Config(**places, modular_meshes=(), ioi=arguments, ioi_meshes=("data=2",),
                       apart=False)
    )  # fmt: skip
    (row,) = read("devices")["rows"]
    assert row["same_nodes"]
    assert row["jaccard"] == 1
    assert row["score_difference"] < 1e-4


def test_numbers_of_a_verdict_are_named_and_times_are_not():
    found = dict(devices.numbers("a", {"b": [1, {"c": 2.5}], "time": 9, "d": float("nan")}))
    assert found == {"a/b/0": 1.0, "a/b/1/c": 2.5}


def test_a_mesh_loads_the_same_weights(places, read):
    config = loading_memory.Config(**places, layers=1, width=64, mlp=32, vocabulary=64, apart=False)
    with contextlib.suppress(SystemExit):  # memory beside so small a model says nothing
        loading_memory.main(config)
    result = read("loading_memory")
    assert result["same_weights"]
    assert result["shards"] >= 3
    assert 0 <= result["largest_logit_difference"] < 1e-4
    assert result["largest_logit"] > 0.1
    assert [row["mesh"] for row in result["rows"]] == ["data=2,model=4", "none"]


def test_loading_differences_are_noticed():
    row = {"peak": 3, "baseline": 1, "weights": "a"}
    mesh, other = row | {"logits": [1.0, 2.0]}, row | {"logits": [1.0, -2.5], "weights": "b"}
    found, good = loading_memory.compared(mesh, other, size=2)
    assert found["largest_logit_difference"] == 4.5
    assert not found["same_weights"]
    assert not good


DECODER = tiny_config(64).replace(dtype="bfloat16")
TRAIN = TrainConfig(features="2x", k=4, window=1, batch_size=4, accumulate=2, tokens=1000)


def programs():
    mesh = parallel.make_mesh("data=2,model=2")
    step = plan_pipeline.Config(train=TRAIN, tokens=(4, 8), prompts=(4, 8), nodes=8, candidates=8,
                                mask_steps=4)  # fmt: skip
    graph = plan_attribution.Config(
        length=8, features=2, active=4,
        attribution=AttributionConfig(max_feature_nodes=8, batch_size=4, edges_per_node=4),
    )  # fmt: skip
    yield (
        "transcoder",
        plan_transcoder.program(DECODER, plan_transcoder.Config(train=TRAIN, length=8), mesh),
    )
    yield "pipeline", plan_pipeline.program(DECODER.replace(dtype="float32"), step, mesh)
    yield from plan_attribution.programs(DECODER, graph, mesh).items()


def test_planned_programs_lower_for_a_mesh():
    for name, program in programs():
        lowered = program.lower()
        arguments = jax.tree.leaves(program.args)
        assert len(jax.tree.leaves(lowered.in_avals)) == len(arguments), name
        if program.places is not None:  # the state comes back as it went in
            state = jax.tree.leaves(lowered.out_info[0])
            shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(program.args[0])]
            assert [(x.shape, x.dtype) for x in state] == shapes, name


def test_flops_of_the_composed_step_are_counted_by_hand():
    step = plan_pipeline.Config(train=TRAIN, tokens=(4, 8), prompts=(2, 4), candidates=8)
    c = tiny_config(64)
    block = 4 * 16 * 16 + 3 * 16 * 12 + 2 * 16  # q, k, v, o; in, gate, out; two norms
    weights = 2 * 64 * 16 + 2 * block + 16
    encoder = 2 * 32 * 2 * 16 * 32  # 32 tokens, 2 layers, width 16, 32 features
    assert plan_pipeline.flops(c, step)["train"] == 2 * weights * 32 + 6 * encoder
    features = 2 * 8 * 2 * 16 * 32
    assert plan_pipeline.flops(c, step)["search"] == 5 * 2 * weights * 8 + 6 * features


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
@pytest.mark.parametrize(
    "script", [plan_attribution, plan_forward, plan_models, plan_pipeline, plan_transcoder]
)
def test_plans_need_the_compiler_of_tpus(script, places):
    with pytest.raises(MissingDependencyError, match="libtpu"):
        script.main(script.Config(**places))


def test_a_plan_is_a_row():
    plan = parallel.Plan("v5e:2x2", "data=4", 10, 20, 30, 5, 8, 100, 1.0, "")
    row = account(plan)
    assert row["total"] == plan.total
    assert row["fits"] is True
    assert json.dumps(row)


def test_own_processes_have_devices_of_their_own():
    environment = processes.environment(processes.host_devices(3))
    assert environment["XLA_FLAGS"].endswith("device_count=3")
    assert environment["PYTHONPATH"].startswith(str(processes.ROOT))
