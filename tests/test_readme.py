"""What README shows runs: its Python, on a small stand-in for SmolLM2."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import hagd_jax as hagd
from hagd_jax.models import DecoderConfig, Intervention, Tokenizer, forward, init
from hagd_jax.tasks import Text, make_prompts
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.testbeds import SmallTrainConfig
from hagd_jax.testbeds.small_training import decoder_config

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture
def model():
    words = sorted(set(re.findall(r"[A-Za-z]+", README)))
    config = DecoderConfig(
        vocab_size=len(words), n_layers=13, d_model=576, n_heads=1, d_head=8, d_mlp=4, norm="rms",
        positions="rotary",
    )  # fmt: skip
    return init(config, jax.random.key(0), tokenizer=Tokenizer.words(words), name="stand-in")


def test_the_first_snippet_composes_interventions(model, monkeypatch):
    monkeypatch.setattr(hagd.models, "load", lambda name: model)
    calls = {}
    monkeypatch.setattr(hagd, "extract", lambda *args: calls.setdefault("extract", args))
    lines = SNIPPETS[0].replace("result.", "# result.")
    names = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert names["out"].trace["neuron"].shape == (13, 1, 5, 4)
    assert names["out"].logits.shape == (1, 5, model.config.vocab_size)
    model_, task, config = calls["extract"]
    assert (model_, task, config.nodes) == (model, "ioi", "10%")


def test_the_second_snippet_is_an_intervention(model):
    names = {}
    exec(compile(SNIPPETS[1], "README.md", "exec"), names)
    scale = names["ScaleHeads"]
    assert issubclass(scale, Intervention)
    tokens = [model.tokenizer.encode("The capital of France is")]
    plain = forward(model, tokens, capture=["head_out"])
    doubled = forward(model, tokens, scale(2 * jax.numpy.ones((13, 1))), capture=["head_out"])
    ratio = doubled.trace["head_out"][0] / plain.trace["head_out"][0]
    assert abs(ratio - 2).max() < 1e-5


def test_the_attribution_snippet_writes_a_graph(model, tmp_path, monkeypatch):
    (snippet,) = [code for code in SNIPPETS if "graphs.attribute" in code]
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "transcoder": None}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["graph"].info.words == ("The", "capital", "of", "France", "is")
    assert json.loads((tmp_path / "paris.json").read_text())["nodes"]


def tiny_task(model):
    prompts = make_prompts(
        [[1, 2, 3]] * 4, [[1, 5, 3]] * 4, [1] * 4, [2] * 4, vocab_size=model.config.vocab_size
    )
    splits = dict.fromkeys(("discover", "select", "test"), prompts)
    return hagd.tasks.Task("t", "t", splits, dict.fromkeys(splits, (Text(*"abcde"),) * 4))


def test_the_method_is_composed_in_thirty_lines(model, monkeypatch):
    (snippet,) = [code for code in SNIPPETS if "search_masks" in code]
    assert len(snippet.splitlines()) <= 30
    monkeypatch.setattr(hagd.models, "load", lambda name: model)
    monkeypatch.setattr(hagd.tasks, "task", lambda name, own, sizes: tiny_task(own))
    code = snippet.replace("2318", "8").replace("steps=200", "steps=4").replace("4096", "20")
    code = code.replace("ratio=1 / 16", "ratio=0.5")
    assert len({snippet, code}) == 2
    names = {"hagd": hagd}
    exec(compile(code, "README.md", "exec"), names)
    assert names["circuits"][8].flat().sum() == 8
    assert len(names["tree"].clusters) == 2
    assert len(names["circuit"]) == 8
    assert {claim.name for claim in names["report"].claims} >= {"sufficiency", "necessity"}


def test_the_composed_step_runs(model):
    (snippet,) = [code for code in SNIPPETS if "pipeline.step" in code]
    task = tiny_task(model)
    ((prompts, _),) = padded_batches(model, task.splits["discover"], 4)
    batch = hagd.pipeline.StepBatch(prompts.clean, np.ones((4, 3), np.float32), prompts)
    code = snippet.replace("2318", "8").replace("1024", "20")
    names = {"hagd": hagd, "model": model, "batches": [batch] * 6}
    exec(compile(code, "README.md", "exec"), names)
    assert int(names["state"].step) == 6
    assert names["metrics"]["loss"] > 0


def test_the_task_snippet_trains_once(tmp_path, monkeypatch):
    (snippet,) = [code for code in SNIPPETS if "small_model" in code]
    algorithm = hagd.tasks.parity(10)
    made = init(decoder_config(algorithm, SmallTrainConfig()), jax.random.key(0))
    monkeypatch.setattr(hagd.tasks, "small_model", lambda rule: made)
    names = {"hagd": hagd}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["task"].name == "parity"
