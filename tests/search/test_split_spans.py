"""Units split by span: the spans that a planted circuit needs are found, and no others."""

import dataclasses
import itertools

import numpy as np
import pytest

from hagd_jax.causal import Circuit
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.search import SpanConfig, measured_losses, split_spans
from hagd_jax.tasks import Seen, prompt_digests, with_spans
from hagd_jax.testbeds import hand_built
from hagd_jax.units import Nodes, Selection, neurons, tree
from tests.units.spans import SPANS, induction, without_spans

ZERO = SpanConfig(ablations=("zero",))


@pytest.fixture(scope="module")
def planted():
    model, prompts, names = induction()
    return model, prompts[:16], names


@pytest.fixture(scope="module")
def either():
    """An OR of two heads, written by hand; prompts have spans in which nothing happens."""
    case = hand_built()[0]
    width = case.prompts.clean.shape[1]
    row = np.array([0, *[1] * (width - 2), 2])
    prompts = with_spans(case.prompts, [row] * len(case.prompts), ("begin", "letters", "end", "no"))
    return case.model, prompts[::4]


def names(circuit):
    return {unit.name for unit in circuit.units}


def test_heads_are_found_where_they_were_planted(planted):
    model, prompts, (before, after) = planted
    found = tree(model)
    whole = Circuit.of_units(found, [before, after, "mlp 0"], [3.0, 2.0, 1.0], model=model.name,
                             task="t", seen=Seen.nothing(), config={"kept": 1})  # fmt: skip
    small = split_spans(model, prompts, whole, ZERO)
    assert names(small) == {f"{before} at next", f"{after} at end"}
    assert small.parts().scores.tolist() == [3.0, 2.0]
    assert small.spans == SPANS
    assert small.seen.ablations == ("zero",)
    assert set(small.seen.prompts) == set(prompt_digests(prompts))
    assert "neurons@first,next,end,rest" in small.seen.dictionaries
    told = small.config["spans"]
    assert small.config["kept"] == 1
    assert (told["pairs"], told["kept"]) == (12, 2)
    loss = told["losses"]["zero"]
    assert loss["split"] <= loss["whole"] + 0.01 * loss["empty"] + 1e-5
    # The same again, and from a file, whose tree is not at hand.
    bare = dataclasses.replace(whole, grouping=dataclasses.replace(whole.grouping, tree=None))
    assert split_spans(model, prompts, bare, ZERO) == small


def test_what_is_left_is_within_the_tolerance_and_nothing_else_could_leave(either):
    """Every subset of the pairs, measured: the split is one from which no single pair may go."""
    model, prompts = either
    config = SpanConfig(ablations=("zero", "counterfactual"), tolerance=0.05)
    units = ["head 0.0", "head 0.1", "neuron 0.0"]
    whole = Circuit.of_units(tree(model), units, model="m", task="t")
    small = split_spans(model, prompts, whole, config)
    nodes = neurons(model).by_span(prompts.spans)
    pairs = [f"{unit} at {span}" for unit, span in itertools.product(units, prompts.spans[:3])]
    rows = np.array(list(itertools.product([False, True], repeat=len(pairs))))
    places = [tree(model, nodes).unit(pair).places()[0] for pair in pairs]
    masks = []
    for row in rows:
        flat = np.zeros(nodes.space.nodes, bool)
        flat[np.array(places)[row]] = True
        masks.append(Nodes.from_flat(nodes.space, flat))
    excess = []
    for name in config.ablations:
        loss = measured_losses(model, prompts, masks, dictionary=nodes, ablation=name)
        excess.append((loss - loss[-1]) / loss[0])
    excess = np.max(excess, 0)
    kept = np.array([pair in names(small) for pair in pairs])
    assert kept.sum() == len(small)
    number = {row.tobytes(): i for i, row in enumerate(rows)}
    assert excess[number[kept.tobytes()]] <= 0.05 + 1e-6
    for i in np.flatnonzero(kept):
        less = kept.copy()
        less[i] = False
        assert excess[number[less.tobytes()]] > 0.05
    # Nor is there a smaller circuit at all.
    assert rows[excess <= 0.05].sum(1).min() == kept.sum()


def test_units_that_are_needed_everywhere_are_whole_again(planted):
    model, prompts, (before, after) = planted
    whole = Circuit.of_units(tree(model), [before, after], model=model.name, task="t")
    two = with_spans(
        without_spans(prompts), np.where(prompts.span == 1, 0, 1), ("next", "other", "rest")
    )
    # Where a partner's token stands behind another one, the induction head would look there.
    found = split_spans(model, two, whole, SpanConfig(ablations=("resample",)))
    assert names(found) == {before, f"{after} at other"}
    # No token is in the last span, which is a part of what is whole.
    assert found.config["spans"]["pairs"] == 4
    assert found.leaves == 4


def test_clusters_and_blocks_stay_units_at_their_spans(either):
    model, prompts = either
    nodes = neurons(model)
    found = tree(model, clusters=[np.arange(nodes.space.nodes) % 2])
    units = ["attention 0", "cluster 0.2", "neuron 0.1"]
    assert found.unit("cluster 0.2").block == "mlp"
    whole = Circuit.of_units(found, units, model="m", task="t")
    small = split_spans(model, prompts, whole, ZERO)
    assert names(small) == {f"{unit} at end" for unit in units}
    assert len(small) == 3


def test_many_at_once_end_where_one_at_a_time_does(planted):
    model, prompts, (before, after) = planted
    whole = Circuit.of_units(tree(model), [before, after], model=model.name, task="t")
    fast, slow = (split_spans(model, prompts, whole, dataclasses.replace(ZERO, at_once=share))
                  for share in (0.6, 0.0))  # fmt: skip
    assert names(fast) == names(slow)


def test_bad_requests_are_refused(planted):
    model, prompts, (before, _) = planted
    whole = Circuit.of_units(tree(model), [before], model=model.name, task="t")
    empty = Circuit((), (), whole.space, model=model.name, task="t")
    cases = [
        ((model, without_spans(prompts), whole), "got no spans"),
        ((model, prompts, whole.by_span(SPANS)), "is split by the spans first"),
        ((model, prompts, empty), "an empty one"),
        ((model, prompts, whole, SpanConfig(most=3)), "at most 3"),
        ((model, prompts, Selection(whole.mask(), Seen.nothing())), "circuit"),
        ((model, prompts, whole, 3), "config"),
        ((model, dataclasses.replace(prompts, span=prompts.span + 1), whole), "span: got 4"),
    ]
    for given, says in cases:
        with pytest.raises(InputError, match=says):
            split_spans(*given)
    other = dataclasses.replace(whole, dictionary="mlps", nodes=(), scores=(), grouping=None)
    with pytest.raises(InputError, match="dictionary"):
        split_spans(model, prompts, other)


@pytest.mark.parametrize(
    "fields",
    [{"tolerance": -0.1}, {"tolerance": 2}, {"at_once": 1.0}, {"ablations": ()}, {"most": 0},
     {"ablations": ("nothing",)}, {"batch_size": 0}, {"metric": -1}, {"prompts": 0}],
)  # fmt: skip
def test_configurations_that_make_no_sense_are_refused(fields):
    with pytest.raises(ConfigError):
        SpanConfig(**fields)
