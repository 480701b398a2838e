"""Claims beside the verdict, on numbers: of what ablation does not change, nothing is said."""

import numpy as np
import pytest

from hagd_jax.causal.beside import BESIDE, control, equivalent, independent, specificity
from hagd_jax.causal.claims import TESTS
from tests.causal.made_up import made_up

COUNT = 80
MODEL = 5 + np.random.default_rng(0).normal(size=COUNT)
OTHER = np.random.default_rng(1).normal(size=COUNT)


def changed_on(prompts, lost=5.0):
    """An exact circuit of a model of which ablating everything changes so many prompts."""
    here = np.arange(COUNT) < prompts
    gone = np.where(here, MODEL - lost, MODEL)
    return made_up((MODEL, gone, MODEL, gone), (0, 2.0 * here, 0, 2.0 * here),
                   controls=[2.0 * here] * 40, others=[MODEL] * 40, members=[2.0 * here] * 2,
                   count=COUNT)  # fmt: skip


@pytest.mark.parametrize("prompts", [0, 4])
@pytest.mark.parametrize("claim", [*TESTS, *BESIDE, control], ids=lambda claim: claim.__name__)
def test_where_ablation_changes_too_few_prompts_no_claim_is_decided(claim, prompts):
    """Any circuit at all would be equal to the model there, and any complement, too."""
    assert claim(changed_on(prompts)).verdict == "not enough data"


@pytest.mark.parametrize("claim", [*TESTS, *BESIDE, control], ids=lambda claim: claim.__name__)
def test_numbers_that_are_none_decide_nothing(claim):
    nan = np.nan
    runs = made_up((MODEL, nan, MODEL, nan), (0, nan, nan, nan), controls=[nan] * 40,
                   others=[MODEL] * 40, members=[nan] * 2, count=COUNT)  # fmt: skip
    assert claim(runs).verdict == "not enough data"


def test_with_enough_of_them_the_same_claims_are_decided():
    runs = changed_on(COUNT)
    assert equivalent(runs).verdict == "holds"
    assert independent(runs).verdict == "fails"  # what is left is the model's, less five
    apart = made_up((MODEL, OTHER, MODEL, OTHER), (0, 2, 0, 2), count=COUNT)
    assert independent(apart).verdict == "holds"
    assert control(runs).verdict == "fails"


@pytest.mark.parametrize(
    ("right", "kl", "verdict"),
    [(0.04, 2, None), (0.04, 0, None), (0.5, 2, None), (0.55, 2, "holds"), (1, 2, "holds"),
     (1, 0.1, "fails")],
)  # fmt: skip
def test_a_negative_control_holds_only_where_a_circuit_could_have_passed(right, kl, verdict):
    """A model that is right on half of the prompts or fewer has no behaviour, and no circuit."""
    model = np.arange(COUNT) < right * COUNT
    runs = made_up((MODEL, 0, MODEL, 0), (0, 2, kl, 2), right=(model, 0, model, 0), count=COUNT)
    claim = control(runs)
    assert claim.verdict == (verdict or "not enough data")
    assert ("no circuit could pass there" in claim.says) == (verdict is None)


@pytest.mark.parametrize(("prompts", "verdict"), [(8, None), (24, None), (48, None), (64, "holds")])
def test_independence_is_not_claimed_for_lack_of_prompts(prompts, verdict):
    """Two that have nothing to do with each other; a correlation of .5 would show from 64 on."""
    model, rest = MODEL[:prompts], OTHER[:prompts]
    claim = independent(made_up((model, rest, model, rest), (0, 2, 0, 2), count=prompts))
    assert claim.p_value > 0.05
    assert claim.verdict == (verdict or "not enough data")
    # Dependence that shows needs no more prompts.
    same = independent(made_up((model, -model, model, -model), (0, 2, 0, 2), count=prompts))
    assert same.verdict == "fails"


def test_a_task_on_which_nothing_depends_does_not_show_specificity():
    own, nothing = changed_on(COUNT), changed_on(0)
    needed, spared = changed_on(COUNT), made_up((MODEL, 0, MODEL, MODEL), (0, 2, 2, 0), count=COUNT)
    assert specificity(own, {"spared": spared}).verdict == "holds"
    assert specificity(own, {"needed": needed}).verdict == "fails"
    for others in ({"nothing": nothing}, {"nothing": nothing, "spared": spared}):
        claim = specificity(own, others)
        assert claim.verdict == "not enough data"
        assert "of nothing, ablating everything changes the model's answer on 0" in claim.says
    assert specificity(own, {"nothing": nothing, "needed": needed}).verdict == "fails"
    assert specificity(nothing, {"spared": spared}).verdict == "not enough data"
