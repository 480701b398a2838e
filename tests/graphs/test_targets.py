"""What a graph is asked to explain: integers of any library, and tokens that have no text."""

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.graphs import (
    AttributionConfig,
    attribute,
    difference_target,
    edge_heads,
    neuronpedia_json,
)
from hagd_jax.graphs.graph import EMBEDDING, LogitTarget
from hagd_jax.models import Tokenizer, forward
from tests.graphs.test_attribute import GPT2, PROMPT
from tests.models.noise import noisy


@pytest.mark.parametrize("number", [int, np.int16, np.asarray, jnp.int32])
def test_a_target_is_an_integer_of_any_library(number):
    model = noisy(GPT2)
    expected = attribute(model, None, PROMPT, targets=[4])
    for asked in (number(4), [number(4)], LogitTarget("#4", (number(4),))):
        found = attribute(model, None, PROMPT, targets=asked)
        np.testing.assert_array_equal(found.to_dense(), expected.to_dense())
        assert found.info.targets[0].tokens == (4,)
    both = difference_target(model, number(4), number(9))
    assert both == difference_target(model, 4, [9])
    assert (both.tokens, both.coefficients) == ((4, 9), (1.0, -1.0))


@pytest.mark.parametrize(("right", "wrong"), [(4, 4), (4, [3, 4]), (4, [])])
def test_a_direction_of_nothing_is_refused(right, wrong):
    with pytest.raises(InputError, match="one or more, none of them the right one"):
        difference_target(noisy(GPT2), right, wrong)


def test_tokens_without_text_are_called_by_their_number():
    """A vocabulary of 24 whose tokenizer knows 20 words, as Pythia's is larger than its own."""
    words = [f"w{i}" for i in range(20)]
    model = noisy(GPT2).replace(tokenizer=Tokenizer.words(words))
    graph = attribute(model, None, [3, 22, 1, 12], targets=[21, 4, 23])
    assert graph.info.words == ("w3", "#22", "w1", "w12")
    assert [target.label for target in graph.info.targets] == ["#21", "w4", "#23"]
    assert difference_target(model, 20, "w4").label == "#20 - w4"
    embeddings = [graph.label(int(node)) for node in graph.of_kind(EMBEDDING)]
    assert embeddings[1] == "embedding '#22' @1"
    record = neuronpedia_json(graph)
    assert record["metadata"]["prompt_tokens"] == ["w3", "#22", "w1", "w12"]
    said = [node["clerp"] for node in record["nodes"] if node["feature_type"] == "logit"]
    assert [text.split(" (")[0] for text in said] == ['Output "#21"', 'Output "w4"', 'Output "#23"']
    everything = AttributionConfig(max_logits=24, logit_mass=1.0)
    likely = attribute(model, None, [3, 22, 1, 12], everything)
    assert {f"#{i}" for i in range(20, 24)} <= {target.label for target in likely.info.targets}


def test_a_target_whose_probability_underflows_is_explained_all_the_same():
    model = noisy(GPT2)
    params = dict(model.params)
    params["embed"] = {"embedding": params["embed"]["embedding"].at[7].multiply(-1e4)}
    model = model.replace(params=params)
    logits = np.asarray(forward(model, [PROMPT]).logits[0, -1], np.float64)
    token = int(np.argmin(logits))
    # Float32's smallest number is e^-103.
    assert logits[token] - logits.max() < -200
    graph = attribute(model, None, PROMPT, targets=token)
    # Given a weight of its own, the direction is the same.
    other = attribute(model, None, PROMPT, targets=LogitTarget("x", (token,)))
    np.testing.assert_allclose(graph.to_dense()[-1], other.to_dense()[-1], rtol=1e-6)
    assert np.abs(graph.to_dense()[-1]).max() > 0


@pytest.mark.parametrize("edges", [[0.5], ["a"], [-1], [10**6], [[1], [1, 2]], [True]])
def test_edges_are_numbered_by_integers(edges):
    model = noisy(GPT2)
    graph = attribute(model, None, PROMPT[:3])
    with pytest.raises(InputError, match="edges"):
        edge_heads(model, None, graph, edges)


def test_nodes_are_asked_for_by_number():
    graph = attribute(noisy(GPT2), None, PROMPT[:3], targets=[4, 9])
    last = len(graph.nodes.kind) - 1
    assert [graph.target(np.int64(last + k)).label for k in (-1, 0)] == ["#4", "#9"]
    for call, node in ((graph.label, last + 1), (graph.label, -1), (graph.target, 0)):
        with pytest.raises(InputError, match="node: got"):
            call(node)
