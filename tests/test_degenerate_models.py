"""Models in which nothing, or all, is alike: a typed error or defined numbers, and no NaN."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import causal, graphs, hierarchy, models, pipeline
from hagd_jax.causal import Circuit, ValidateConfig
from hagd_jax.errors import InputError, NoCircuitError
from hagd_jax.models import DecoderConfig
from hagd_jax.report.graph_page import graph_page
from hagd_jax.tasks import SPLITS, Seen, Task, Text, make_prompts
from hagd_jax.units import neurons
from tests.pipeline.copier import make_copier, make_task
from tests.pipeline.test_executors import RICH

SIZES = {
    "vocab_size": 6, "n_layers": 1, "d_model": 4, "n_heads": 2, "d_mlp": 4, "max_positions": 8,
    "norm": "rms",
}  # fmt: skip


def filled(value, **changes):
    """A model all of whose weights are one number."""
    model = models.init(DecoderConfig(**SIZES | changes), jax.random.key(0), name="odd")
    params = jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), model.params)
    return model.replace(params=params)


def random(**changes):
    return models.init(DecoderConfig(**SIZES | changes), jax.random.key(0), name="odd")


# Name → the model.
ODD = {
    "zero weights": lambda: filled(0.0),
    "constant weights": lambda: filled(0.5),
    "constant weights, layer norm": lambda: filled(0.5, norm="layer"),
    "width 1": lambda: random(d_model=1, n_heads=1),
    "width 1, layer norm": lambda: random(d_model=1, n_heads=1, norm="layer"),
    "vocabulary 1": lambda: random(vocab_size=1),
    "one neuron": lambda: random(d_mlp=1, n_heads=1),
}


# Those whose neurons never fire.
SILENT = {"one neuron", "width 1, layer norm", "zero weights"}


def task_of(model):
    """Twelve prompts of each split; of a vocabulary of one word there can be none."""
    size = model.config.vocab_size
    rows = np.random.default_rng(0).integers(0, size, (3, 2, 12, 4))
    rows[:, 1] = (rows[:, 0] + 1) % size
    answers, others = [0] * 12, [1] * 12
    splits = {
        split: make_prompts(*pair.tolist(), answers, others, vocab_size=size)
        for split, pair in zip(SPLITS, rows, strict=True)
    }
    texts = dict.fromkeys(SPLITS, (Text(*"abcde"),) * 12)
    return Task("odd", "Nothing.", splits, texts)


def require_numbers(record):
    """JSON that knows no NaN."""
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("name", sorted(ODD))
def test_attribution_is_defined_or_refused(name, tmp_path):
    model = ODD[name]()
    size = model.config.vocab_size
    if name in SILENT:
        with pytest.raises(InputError, match="none active in this prompt"):
            graphs.attribute(model, None, [0, 1, 0], targets=0)
        return
    graph = graphs.attribute(model, None, [0, min(1, size - 1), 0], targets=0)
    for field in ("activation", "weight", "folded", "remainder"):
        assert np.isfinite(getattr(graph.nodes, field)).all(), field
    assert np.isfinite(graph.graph.edges).all()
    assert np.isfinite(graphs.influence(graph)).all()
    scores = graphs.graph_scores(graph)
    assert 0 <= scores.replacement <= 1
    assert 0 <= scores.completeness <= 1
    groups = hierarchy.supernodes(graph, most=4)
    assert "<h1" in graph_page(graph, supernodes=groups)
    graphs.save_graph(graph, tmp_path / "graph")
    require_numbers(dataclasses.asdict(graphs.load_graph(tmp_path / "graph").info))


@pytest.mark.parametrize("value", [0.5])
def test_there_is_no_circuit_where_nothing_differs(value):
    """All prompts are one to such a model; its sizes are those that other tests have compiled."""
    model = make_copier()
    model = model.replace(params=jax.tree.map(lambda x: jnp.full_like(x, value), model.params))
    with pytest.raises(NoCircuitError, match="got a loss of 0"):
        pipeline.extract(model, make_task(), RICH)


@pytest.mark.parametrize("name", sorted(set(ODD) - {"vocabulary 1", "one neuron"}))
def test_a_verdict_is_defined(name):
    model = ODD[name]()
    space = neurons(model).space
    circuit = Circuit(
        (causal.Node("neuron", 0, 0),), (1.0,), space, "odd", "odd", seen=Seen.nothing()
    )  # fmt: skip
    config = ValidateConfig(ablations=("mean",))
    report = causal.validate(model, circuit, task_of(model), config)
    assert report.verdict != "accepted"
    require_numbers(report.to_json())
