"""Dictionaries split by span: masks that hold at some positions only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.errors import InputError
from hagd_jax.interventions import MaskHeads, MaskNeurons, chain, mask_heads
from hagd_jax.models import forward, init
from hagd_jax.parallel import make_mesh
from hagd_jax.scores import GradientConfig, eap_ig, mean_scores
from hagd_jax.scores.cuts import cuts
from hagd_jax.search import measured_losses
from hagd_jax.tasks import make_prompts, with_spans
from hagd_jax.units import Nodes, Space, Spanned, as_dictionary, blocks, components, neurons
from hagd_jax.units.dictionary import spanned_label, spans_of, whole_label
from tests.causal import plain
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import TOKENS
from tests.transcoders.test_replace import CASES, DEEP, made

NAMES = ("a", "b", "rest")
SPAN = np.array([[0, 1, 1, 2, 0], [2, 2, 2, 2, 1], [0, 0, 0, 0, 0], [1, 0, 2, 1, 2]])
LENGTHS = (6, 4, 5, 6, 6, 6, 3, 6, 6, 6)


@pytest.fixture(scope="module")
def small():
    """The model of `plain`, prompts with spans, and its parameters moved off their zeros."""
    rng = np.random.default_rng(3)
    model = noisy(plain.CONFIG)
    rows = [rng.integers(0, 11, n).tolist() for n in LENGTHS]
    others = [[(x + 1 + i) % 11 for i, x in enumerate(row)] for row in rows]
    prompts = make_prompts(rows, others, [1] * 10, [2] * 10, vocab_size=11)
    span = [rng.integers(0, 3, n) for n in LENGTHS]
    return model, with_spans(prompts, span, NAMES)


def dictionaries(model):
    return [neurons(model), blocks(model), as_dictionary(model, made(CASES["jump"])),
            as_dictionary(model, made(CASES["full"]), keep_error=False)]  # fmt: skip


def row_masks(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [Nodes.from_flat(space, rng.random(space.nodes) < 0.5) for _ in range(count)]


def repeated(mask, times):
    """The same mask at each of so many spans."""
    return Nodes(jnp.concatenate([mask.heads] * times, -1),
                 jnp.concatenate([mask.features] * times, -1))  # fmt: skip


@pytest.mark.parametrize(
    ("which", "per_prompt"), [(0, False), (0, True), (1, True), (2, False), (3, True)]
)
def test_a_mask_that_is_the_same_at_all_spans_is_the_plain_mask_bit_for_bit(which, per_prompt):
    model = noisy(DEEP)
    nodes = dictionaries(model)[which]
    split = nodes.by_span(NAMES).replace(span=jnp.asarray(SPAN))
    other = nodes.values(forward(model, TOKENS[:, ::-1], capture=nodes.capture).trace)
    rng = np.random.default_rng(1)
    shape = (4, 4) if per_prompt else (4,)
    mask = Nodes(jnp.asarray(rng.random((*shape, nodes.space.heads)), jnp.float32),
                 jnp.asarray(rng.random((*shape, nodes.space.features)), jnp.float32))  # fmt: skip
    whole = forward(model, TOKENS, nodes.mask(mask, other)).logits
    parts = forward(model, TOKENS, split.mask(repeated(mask, 3), other)).logits
    np.testing.assert_array_equal(parts, whole)
    assert np.abs(np.asarray(whole - forward(model, TOKENS).logits)).max() > 1e-3


@pytest.mark.parametrize("which", range(3))
def test_a_mask_of_ones_leaves_the_model_as_it_is(which):
    model = noisy(DEEP)
    nodes = dictionaries(model)[which]
    split = nodes.by_span(NAMES).replace(span=jnp.asarray(SPAN))
    other = nodes.values(forward(model, TOKENS[:, ::-1], capture=nodes.capture).trace)
    found = forward(model, TOKENS, split.mask(Nodes.full(split.space, 1.0), other)).logits
    np.testing.assert_array_equal(found, forward(model, TOKENS).logits)


def test_masks_hold_at_the_positions_of_their_span_in_float64(small):
    """Every prompt once more in NumPy, with the closed nodes replaced where they are closed."""
    model, prompts = small
    nodes = neurons(model).by_span(NAMES)
    (mask,) = row_masks(nodes.space, 1, seed=5)
    found = behaviour(model, prompts, [mask], ablation="counterfactual", dictionary=nodes,
                      batch_size=4)  # fmt: skip
    heads = np.asarray(mask.heads).reshape(2, 3, 2)
    features = np.asarray(mask.features).reshape(2, 3, 6)
    for i, n in enumerate(LENGTHS):
        own, other = (plain.forward(model.params, row[i, :n]) for row in
                      (prompts.clean, prompts.corrupted))  # fmt: skip
        span, now = prompts.span[i, :n], own
        edits = []
        for layer in range(2):
            # What comes before is closed already: values are those of the masked pass.
            for kind, open_ in (("head", heads), ("neuron", features)):
                now = plain.forward(model.params, prompts.clean[i, :n], edits)
                for index in range(open_.shape[2]):
                    kept = open_[layer, span, index]
                    kept = kept[:, None] if kind == "head" else kept
                    at = kind, layer, index
                    edits.append((*at, np.where(kept, now[1][at], other[1][at])))
        logits = plain.forward(model.params, prompts.clean[i, :n], edits)[0][-1]
        expected = logits[1] - logits[2]
        np.testing.assert_allclose(found.metric[0, i], expected, atol=2e-5)
        assert abs(expected - (own[0][-1, 1] - own[0][-1, 2])) > 1e-4


def test_closing_a_node_at_one_position_changes_nothing_before_it():
    model = noisy(DEEP)
    nodes = neurons(model)
    split = nodes.by_span(("last", "rest")).replace(span=jnp.asarray([[1, 1, 1, 0, 1]] * 4))
    other = nodes.values(forward(model, TOKENS[:, ::-1], capture=nodes.capture).trace)
    closed = Nodes(jnp.ones((4, 8)).at[:, :4].set(0), jnp.ones((4, 64)).at[:, :32].set(0))
    found = np.asarray(forward(model, TOKENS, split.mask(closed, other)).logits)
    own = np.asarray(forward(model, TOKENS).logits)
    np.testing.assert_array_equal(found[:, :3], own[:, :3])
    assert np.abs(found[:, 3:] - own[:, 3:]).min(-1).max() > 1e-3


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "counterfactual"])
def test_the_judge_runs_equal_masks_alike(ablation, small):
    model, prompts = small
    nodes = neurons(model)
    masks = row_masks(nodes.space, 3)
    bare = dataclasses.replace(prompts, span=None, spans=())
    one = behaviour(model, bare, masks, ablation=ablation, batch_size=4)
    two = behaviour(model, prompts, [repeated(m, 3) for m in masks], ablation=Ablation(ablation),
                    dictionary=nodes.by_span(NAMES), batch_size=4)  # fmt: skip
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_and_losses_are_of_each_node_at_each_span(small):
    model, prompts = small
    nodes = neurons(model)
    split = nodes.by_span(NAMES)
    config = GradientConfig(steps=(0.5,), batch_size=4)
    for scored in (mean_scores, eap_ig):
        whole = scored(model, prompts, config, dictionary=nodes).values
        parts = scored(model, prompts, config, dictionary=split)
        assert parts.seen.dictionaries == ("neurons@a,b,rest",)
        heads = np.asarray(parts.values.heads).reshape(2, 3, 2).sum(1)
        features = np.asarray(parts.values.features).reshape(2, 3, 6).sum(1)
        # The gradient of a mask that is one number at all spans is the sum of theirs.
        np.testing.assert_allclose(heads, whole.heads, atol=1e-5)
        np.testing.assert_allclose(features, whole.features, atol=1e-5)
        assert np.abs(features).max() > 1e-3
    effects = cuts(model, prompts, dictionary=split).alone
    assert effects.space == Space(2, 6, 18)
    everything = Nodes.full(split.space, True)
    assert measured_losses(model, prompts, [everything], dictionary=split).tolist() == [0.0]


def test_a_mesh_makes_no_difference(small):
    model, prompts = small
    masks = row_masks(Space(2, 6, 18), 2)
    one, many = (
        behaviour(m, prompts, masks, ablation="mean", dictionary=neurons(m).by_span(NAMES))
        for m in (model, on_mesh(model, make_mesh("data=4,model=2")))
    )
    np.testing.assert_allclose(one.metric, many.metric, atol=1e-4)


def test_labels_name_the_spans():
    model = init(plain.CONFIG, jax.random.key(0))
    nodes = neurons(model).by_span(NAMES)
    assert nodes.label == "neurons@a,b,rest" == spanned_label("neurons", NAMES)
    assert spans_of(nodes.label) == NAMES
    assert whole_label("x@y#12@a,b") == "x@y#12"
    assert whole_label("x@y#12") == "x@y#12"
    assert (spans_of("x@y#12"), spans_of("neurons")) == ((), ())
    assert nodes.space == Space(2, 6, 18)
    assert nodes.bare().label == nodes.label
    assert components(model).at(None) == components(model)
    assert neurons(model).by_span(["all"]).space == neurons(model).space


def test_spans_that_do_not_fit_are_refused(small):
    model, prompts = small
    nodes = neurons(model)
    split = nodes.by_span(NAMES)
    mask = Nodes.full(split.space, True)
    for names in ((), ("a", "a"), ("a", ""), ("a b",), "ab", 3):
        with pytest.raises(InputError, match="name"):
            nodes.by_span(names)
    with pytest.raises(InputError, match="not split"):
        split.by_span(("c", "d"))
    with pytest.raises(InputError, match=r"dictionary\.at"):
        split.mask(mask, {})
    bare = dataclasses.replace(prompts, span=None, spans=())
    other = dataclasses.replace(prompts, spans=("a", "c", "rest"))
    for given, says in ((bare, "got no spans"), (other, "got the spans a, c, rest; expected")):
        with pytest.raises(InputError, match=says):
            behaviour(model, given, [mask], ablation="zero", dictionary=split)
    broken = dataclasses.replace(prompts, span=np.asarray(prompts.span) + 1)
    with pytest.raises(InputError, match="span: got 3"):
        behaviour(model, broken, [mask], ablation="zero", dictionary=split)
    with pytest.raises(InputError, match="masks, heads"):
        behaviour(model, prompts, [Nodes.full(nodes.space, True)], ablation="zero",
                  dictionary=split)  # fmt: skip
    assert isinstance(split, Spanned)


@pytest.mark.parametrize(
    ("mask", "span", "says"),
    [
        (np.ones((2, 2)), SPAN, "the mask of heads by span"),
        (np.ones((2, 3, 3)), SPAN, "the mask of heads by span"),
        (np.ones((2, 3, 3, 2)), SPAN, "the mask of heads by span"),
        (np.ones((2, 2, 2)), SPAN, "numbers from 0 to 2; expected 0 to 1"),
        (np.ones((2, 3, 2)), SPAN - 1, "numbers from -1"),
        (np.ones((2, 3, 2)), SPAN[:, :4], "the spans of the tokens"),
        (np.ones((2, 3, 2)), SPAN[:3], "the spans of the tokens"),
    ],
)
def test_interventions_refuse_masks_and_spans_that_do_not_fit(mask, span, says):
    model = init(plain.CONFIG, jax.random.key(0))
    with pytest.raises(InputError, match=says):
        forward(model, np.ones((4, 5), int), mask_heads(mask, np.zeros((2, 1)), span))


def test_masks_by_span_and_prompt_are_taken_at_both():
    model = noisy(plain.CONFIG)
    rng = np.random.default_rng(2)
    heads, features = rng.random((2, 4, 3, 2)), rng.random((2, 4, 3, 6))
    tokens = rng.integers(0, 11, (4, 5))
    sites = ("head_out", "neuron")
    other = {
        k: np.asarray(v) for k, v in forward(model, tokens[:, ::-1], capture=sites).trace.items()
    }
    both = chain(MaskHeads(heads, other["head_out"], SPAN),
                 MaskNeurons(features, other["neuron"], SPAN))  # fmt: skip
    found = np.asarray(forward(model, tokens, both).logits)
    for i in range(4):
        one = chain(MaskHeads(heads[:, i], other["head_out"][:, [i]], SPAN[[i]]),
                    MaskNeurons(features[:, i], other["neuron"][:, [i]], SPAN[[i]]))  # fmt: skip
        alone = forward(model, tokens[[i]], one).logits
        np.testing.assert_allclose(found[[i]], alone, atol=1e-5)
