"""Prompts that were seen in another guise decide nothing."""

import dataclasses
import itertools

import numpy as np
import pytest

from hagd_jax.causal import Ablation, Circuit, ValidateConfig, behaviour, validate
from hagd_jax.tasks import Seen, Task, Text
from hagd_jax.tasks.seen import look
from hagd_jax.testbeds import as_task, hand_built
from hagd_jax.units import Nodes, Scores, neurons

CASE = hand_built()[0]
PROMPTS = as_task(CASE).splits["test"]
SPACE = neurons(CASE.model).space
NODES = tuple(sorted(CASE.truth["mean"]))
TRUE = Circuit(
    NODES, (1.0,) * len(NODES), SPACE, CASE.model.name, CASE.name, seen=Seen.nothing()
)  # fmt: skip
CONFIG = ValidateConfig(claims="core", ablations=("mean",), batch_size=128)


def task_of(test, discover=PROMPTS):
    texts = {name: (Text(*"abcde"),) * len(x) for name, x in (("test", test), ("d", discover))}
    splits = {"test": test, "discover": discover}
    return Task(CASE.name, "d", splits, {"test": texts["test"], "discover": texts["d"]})


def with_tails(prompts, tails):
    """Tokens behind the position of the answer, which a causal model cannot read there."""
    length, wide = np.asarray(prompts.length), len(tails[0])
    rows = [np.pad(np.asarray(x), ((0, 0), (0, wide))) for x in (prompts.clean, prompts.corrupted)]
    for i, tail in enumerate(tails):
        for side in rows:
            side[i, length[i] : length[i] + wide] = tail
    clean, corrupted = rows
    longer = (length + wide).astype(np.int32)
    return dataclasses.replace(prompts, clean=clean, corrupted=corrupted, length=longer)


def test_a_true_circuit_is_accepted_on_what_it_has_not_seen():
    assert validate(CASE.model, TRUE, task_of(PROMPTS), CONFIG).verdict == "accepted"


def test_a_token_behind_the_answer_makes_no_new_prompt():
    seen = look(PROMPTS, ablation="counterfactual", task=CASE.name, model=CASE.model)
    found = dataclasses.replace(TRUE, seen=seen)
    test = with_tails(PROMPTS, [[0]] * len(PROMPTS))
    report = validate(CASE.model, found, task_of(test), CONFIG)
    assert report.verdict == "not enough data"
    assert any("has seen them" in why for why in report.aside)


def test_two_prompts_with_many_tails_are_two():
    rows = np.repeat([0, len(PROMPTS) - 1], 32)
    tails = 2 * [list(x) for x in itertools.islice(itertools.product(range(7), repeat=2), 32)]
    report = validate(CASE.model, TRUE, task_of(with_tails(PROMPTS[rows], tails)), CONFIG)
    assert report.verdict == "not enough data"


def test_a_plain_mask_does_not_hide_what_its_scores_have_seen():
    seen = look(PROMPTS, ablation="mean", split="test", task=CASE.name, model=CASE.model)
    scores = Scores(Nodes.full(SPACE, 1.0), seen)
    for more in ({}, {"seen": Seen.nothing()}):
        found = Circuit.from_mask(
            TRUE.mask(), scores, model=CASE.model.name, task=CASE.name, **more
        )
        assert set(found.seen.prompts) == set(seen.prompts)
        assert validate(CASE.model, found, task_of(PROMPTS), CONFIG).verdict == "not enough data"


@pytest.mark.parametrize(("found", "judged"), [("mean", "mean_overall"), ("mean_overall", "mean")])
def test_means_are_of_one_kind(found, judged):
    alone = dataclasses.replace(PROMPTS, group=np.arange(len(PROMPTS)).astype(np.int32))
    mask = [TRUE.mask()]
    one, two = (
        behaviour(CASE.model, alone, mask, ablation=Ablation(name, alone), batch_size=128).metric
        for name in (found, judged)
    )
    np.testing.assert_array_equal(one, two)  # templates of one prompt take the mean over all
    seen = Seen(ablations=(found,), prompts=("00000000",))
    circuit = dataclasses.replace(TRUE, seen=seen)
    config = dataclasses.replace(CONFIG, ablations=(judged,))
    assert validate(CASE.model, circuit, task_of(alone), config).verdict == "not enough data"
