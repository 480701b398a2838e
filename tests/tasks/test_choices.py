"""Prompts answered by choosing: scores by a plain loop, and what runs on them."""

import dataclasses

import jax
import numpy as np
import pytest

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig, forward, init
from hagd_jax.parallel import make_mesh
from hagd_jax.scores import GradientConfig, mean_scores
from hagd_jax.tasks import Choice, make_choices
from hagd_jax.units import Nodes, neurons
from tests.models.noise import on_mesh

VOCAB = 13
CONFIG = DecoderConfig(
    vocab_size=VOCAB, n_layers=2, d_model=8, n_heads=2, d_mlp=12, max_positions=12
)


@pytest.fixture(scope="module")
def model():
    made = init(CONFIG, jax.random.key(0))
    return made.replace(params=jax.tree.map(lambda x: 4 * x, made.params))


@pytest.fixture(scope="module")
def choices():
    """Five prompts of three choices, of many lengths."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(5):
        begin = rng.integers(0, VOCAB, rng.integers(2, 5)).tolist()
        other = rng.integers(0, VOCAB, len(begin)).tolist()
        row = []
        for _ in range(3):
            end = rng.integers(0, VOCAB, rng.integers(1, 4)).tolist()
            scored = len(begin), len(begin) + len(end)
            row.append(Choice(begin + end, other + end, scored, 2.0 * len(end)))
        rows.append(row)
    made = make_choices(rows, [0, 2, 1, 1, 0], vocab_size=VOCAB)
    return rows, made


def plain(model, rows):
    """Scores and distributions by one forward pass a row, in float64."""
    scores, said = [], []
    for row in rows:
        own, words = [], []
        for choice in row:
            logits = np.asarray(forward(model, [choice.clean]).logits[0], np.float64)
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            places = range(choice.scored[0] - 1, choice.scored[1] - 1)
            own.append(sum(logp[t, choice.clean[t + 1]] for t in places) / choice.unit)
            words += [logp[t] for t in places]
        scores.append(own)
        said.append(np.array(words))
    return np.array(scores), said


def test_scores_are_those_of_a_plain_loop(model, choices):
    rows, made = choices
    scores, said = plain(model, rows)
    at = forward(model, made.inputs(), read=made.reads).logits
    np.testing.assert_allclose(made.scores(at), scores, atol=1e-5)
    right = np.array([row[i] for row, i in zip(scores, made.answer, strict=True)])
    others = [np.delete(row, i) for row, i in zip(scores, made.answer, strict=True)]
    expected = right - np.log(np.exp(others).mean(1))
    np.testing.assert_allclose(made.metric(at), expected, atol=1e-5)
    np.testing.assert_array_equal(made.correct(at), right > np.max(others, 1))
    assert np.abs(expected).max() > 0.1
    # Another model, for what is measured between two.
    changed = model.replace(params=jax.tree.map(lambda x: 0.8 * x, model.params))
    far = forward(changed, made.inputs(), read=made.reads).logits
    theirs, heard = plain(changed, rows)
    kl = [(np.exp(p) * (p - q)).sum(1).mean() for p, q in zip(said, heard, strict=True)]
    np.testing.assert_allclose(made.kl(at, far), kl, atol=1e-5)
    np.testing.assert_array_equal(made.match(at, far), scores.argmax(1) == theirs.argmax(1))


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "counterfactual"])
def test_circuits_are_judged_on_them(model, choices, ablation):
    _, made = choices
    space = neurons(model).space
    full, empty = Nodes.full(space, True), Nodes.full(space, False)
    options = {"ablation": Ablation(ablation, made), "batch_size": 2}
    found = behaviour(model, made, [full, empty], **options)
    at = forward(model, made.inputs(), read=made.reads).logits
    np.testing.assert_allclose(found.metric[0], made.metric(at), atol=1e-5)
    assert found.metric.shape == (2, 5)
    assert found.kl[0].max() < 1e-6 < found.kl[1].min()
    # Sixteen masks are run on batches without padding.
    many = behaviour(model, made, [full, empty] * 8, **options)
    np.testing.assert_allclose(many.metric, np.tile(found.metric, (8, 1)), atol=1e-5)
    np.testing.assert_allclose(many.kl, np.tile(found.kl, (8, 1)), atol=1e-5)
    if ablation == "mean":
        spread = on_mesh(model, make_mesh("data=4,model=2"))
        again = behaviour(spread, made, [full, empty], **options)
        np.testing.assert_allclose(again.metric, found.metric, atol=1e-5)


def test_scores_of_nodes_add_up_to_the_difference(choices):
    """Integrated gradients over many steps sum to m(full) − m(empty): 1% after 200 of them."""
    _, made = choices
    # Sharp attention would need thousands of steps.
    model = init(CONFIG, jax.random.key(0))
    space = neurons(model).space
    masks = [Nodes.full(space, value) for value in (True, False)]
    ends = behaviour(model, made, masks, ablation="counterfactual").metric.mean(1)
    steps = tuple((np.arange(200) + 0.5) / 200)
    found = mean_scores(model, made, GradientConfig(steps=steps))
    assert abs(ends[0] - ends[1]) > 0.2
    np.testing.assert_allclose(found.flat().sum(), ends[0] - ends[1], rtol=2e-2)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("clean", lambda x: x + VOCAB),
        ("corrupted", lambda x: x[:, :2]),
        ("position", lambda x: x + 9),
        ("answer", lambda x: x + 3),
        ("distractor", lambda x: x * 0),
        ("length", lambda x: x[:1]),
        ("unit", lambda x: x[:, 0]),
    ],
)
def test_what_does_not_fit_is_refused(choices, field, change):
    broken = dataclasses.replace(choices[1], **{field: change(getattr(choices[1], field))})
    with pytest.raises(InputError):
        broken.check(VOCAB)


def test_rows_of_different_numbers_are_refused(choices):
    rows, _ = choices
    with pytest.raises(InputError, match="as many choices each"):
        make_choices([rows[0], rows[1][:2]], [0, 0], vocab_size=VOCAB)
    uneven = rows[0][0]._replace(corrupted=[1])
    with pytest.raises(InputError, match="and 1 tokens"):
        make_choices([[uneven, *rows[0][1:]]], [0], vocab_size=VOCAB)
