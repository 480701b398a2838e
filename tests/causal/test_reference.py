"""Reference values: never the prompt's own, never at padding, and by the rule as it is stated."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.causal.partners import partners
from hagd_jax.causal.reference import LEAST, others_of
from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig
from hagd_jax.tasks import make_prompts
from hagd_jax.units import Nodes
from tests.causal.plain import CONFIG, SPACE
from tests.causal.test_ablation import one_by_one, some_masks
from tests.models.noise import noisy

MODEL = noisy(CONFIG)
EMPTY = Nodes.full(SPACE, False)


def prompts_of(lengths, seed=0, group=None, **options):
    rng = np.random.default_rng(seed)
    clean, other = ([rng.integers(0, 11, n).tolist() for n in lengths] for _ in range(2))
    ones = [1] * len(lengths)
    return make_prompts(clean, other, ones, [2] * len(lengths), vocab_size=11, group=group,
                        **options)  # fmt: skip


def padded_with(token, prompts):
    """The same prompts with another token on their padding."""
    padding = np.arange(prompts.clean.shape[1]) >= prompts.length[:, None]
    sides = {"clean": prompts.clean, "corrupted": prompts.corrupted}
    return prompts.replace(**{name: np.where(padding, token, at) for name, at in sides.items()})


def measured(prompts, ablation="mean", **options):
    ablation = Ablation(ablation, **options)
    return behaviour(MODEL, prompts, some_masks(), ablation=ablation, batch_size=8)


@pytest.mark.parametrize("with_reference", [True, False])
def test_groups_of_both_splits_by_the_rule(with_reference):
    """Group a is in the reference; b only here; c has too few anywhere, so it is merged."""
    group = ["a"] * 3 + ["b"] * 8 + ["c"] * 5
    prompts = prompts_of([4] * 16, 1, group)
    reference = prompts_of([4] * 16, 2, ["a"] * 8 + ["c"] * 7 + ["d"] * 1)
    # Two prompts of group a are reference prompts themselves; the third is none.
    reference.clean[:2] = prompts.clean[:2]
    reference = reference if with_reference else prompts
    found = measured(prompts, reference=reference)
    want = one_by_one(MODEL.params, prompts, some_masks(), reference, "mean", None)
    np.testing.assert_allclose(found.metric, want[0], atol=2e-4)
    np.testing.assert_allclose(found.kl, want[2], atol=2e-4)
    assert want[2].max() > 0.01
    if not with_reference:
        np.testing.assert_array_equal(measured(prompts).metric, found.metric)


@pytest.mark.parametrize("ablation", ["mean", "mean_overall", "resample"])
def test_what_stands_at_padding_does_not_matter(ablation):
    """Prompts of 3 and 6 tokens; on the padding stands one token, another, or none at all."""
    lengths = [3, 6] * 5
    several = [
        measured(
            padded_with(token, prompts_of(lengths, 3, width=width)),
            ablation,
            reference=padded_with(token, prompts_of([6, 3, 2] * 4, 4, width=wide)),
            seed=2,
        )
        for token, width, wide in ((0, 6, 6), (7, 6, 8), (7, 8, 6))
    ]
    for other in several[1:]:
        np.testing.assert_allclose(other.metric, several[0].metric, atol=1e-5)
    assert np.ptp(several[0].metric) > 0.1


@pytest.mark.parametrize("ablation", ["mean", "mean_overall", "resample"])
def test_copies_of_a_prompt_in_the_reference_do_not_matter(ablation):
    prompts, reference = prompts_of([4] * 3, 5), prompts_of([4] * 9, 6)

    def with_copies(of):
        return make_prompts(
            [*reference.clean.tolist(), *of], [*reference.clean.tolist(), *of],
            [1] * (9 + len(of)), [2] * (9 + len(of)), vocab_size=11,
        )  # fmt: skip

    copies = with_copies([prompts.clean[0].tolist()] * 5)
    single = with_copies([prompts.clean[0].tolist()])
    one, other = (measured(prompts, ablation, reference=x) for x in (single, copies))
    np.testing.assert_allclose(one.metric, other.metric, atol=1e-5)
    if ablation != "resample":  # whose choice of a partner may be another
        without = measured(prompts, ablation, reference=reference)
        np.testing.assert_allclose(without.metric[:, 0], one.metric[:, 0], atol=1e-5)
        assert np.abs(without.metric[:, 1:] - one.metric[:, 1:]).max() > 1e-2


def test_prompts_alone_in_their_groups_are_no_reference_of_themselves():
    """Each group has one prompt: its own mean would be the prompt, and every circuit exact."""
    prompts = prompts_of([4] * 10, 7, [str(i) for i in range(10)])
    found = behaviour(MODEL, prompts, [EMPTY], ablation="mean", batch_size=16)
    assert found.kl.min() > 1e-3


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=24), st.integers(0, 9), st.booleans())
def test_partners(lengths, seed, same):
    prompts = prompts_of(lengths, seed)
    reference = prompts if same else prompts_of([4] * LEAST + [2, 3], seed + 1)
    of = lambda p: {tuple(c[:n]) for c, n in zip(p.clean.tolist(), p.length, strict=True)}  # noqa: E731
    pool = of(prompts) | of(reference)
    assume(len(pool) > 1)
    tokens, length = partners(prompts, reference, seed=seed)
    for i, (clean, n) in enumerate(zip(prompts.clean, prompts.length, strict=True)):
        mine, other = tuple(clean[:n].tolist()), tuple(tokens[i, : length[i]].tolist())
        others = [row for row in pool if row != mine]
        # Cut where the prompts are narrower than the reference.
        assert any(row[: prompts.clean.shape[1]] == other for row in others)
        alike = [row for row in others if len(row) == n]
        if len(alike) >= LEAST - 1:
            assert length[i] == n
        elif alike:
            # The nearest eight have those of its own length among them.
            nearest = sorted(abs(len(row) - n) for row in others)[:LEAST]
            assert abs(int(length[i]) - n) <= nearest[-1]


def test_partners_change_with_the_seed_and_not_with_the_batch():
    prompts = prompts_of([5] * 12, 8)
    drawn = [partners(prompts, seed=seed)[0] for seed in range(11)]
    for i in range(12):
        assert len({tuple(each[i]) for each in drawn}) == 11
    for each in drawn:
        assert len({tuple(row) for row in each}) == 12
    reference = prompts_of([5] * 9, 9)
    tokens, _ = partners(prompts, reference, seed=2)
    times = [(tokens == row).all(1).sum() for row in reference.clean]
    assert sum(times) == 12
    assert set(times) == {1, 2}
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(partners(prompts[order], seed=4)[0], drawn[4][order])


def test_how_many_others_there_are():
    prompts = prompts_of([4] * 5, 9)
    assert others_of(prompts) == 4
    assert others_of(prompts, prompts[np.array([0, 0, 1])]) == 1
    assert others_of(prompts, prompts_of([4] * 6, 10)) == 6


def test_a_model_that_reads_both_ways_is_not_given_padding():
    both = noisy(DecoderConfig(**(dataclasses.asdict(CONFIG) | {"causal": False})))
    prompts, longer = prompts_of([4] * 3, 11), prompts_of([5] * 9, 12)
    with pytest.raises(InputError, match="reads both ways"):
        behaviour(both, prompts, [EMPTY], ablation=Ablation("resample", longer))
