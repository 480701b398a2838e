"""Requests of the judge that are refused by name, before anything is compiled."""

import numpy as np
import pytest

from hagd_jax.causal import Ablation, behaviour, size_curve
from hagd_jax.errors import ConfigError, HagdError, InputError
from hagd_jax.tasks.seen import Seen
from hagd_jax.testbeds import as_task, hand_built
from hagd_jax.units import Nodes, Scores, Space, neurons

CASE = hand_built()[0]
SPACE = neurons(CASE.model).space
MASK = Nodes.full(SPACE, True)
RIGHT = {"model": CASE.model, "prompts": CASE.prompts, "masks": [MASK], "ablation": "zero"}
NO_MASKS = [
    -1, None, MASK, [], [None], [Nodes.full(SPACE, float("nan"))], [Nodes.full(SPACE, 0.5)],
    [Scores(MASK, Seen.nothing())], [Nodes(None, None)], [Nodes.full(Space(1, 1, 1), True)],
    [Nodes(np.full((SPACE.layers, SPACE.heads), None), MASK.features)],
]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None},
        {"prompts": None},
        {"prompts": CASE.prompts.replace(length=CASE.prompts.length[:, None])},
        *({"masks": masks} for masks in NO_MASKS),
        *({"ablation": ablation} for ablation in (None, np.ones((3, 3)), [], "knockout")),
        *({"candidates": each} for each in ("x", 10**400, [10**400], [0.5], [-1], [[1]])),
        *({"batch_size": size} for size in (None, 1.5, 0, "x", True)),
    ],
)
def test_behaviour_refuses(wrong):
    with pytest.raises(HagdError):
        behaviour(**RIGHT | wrong)


def test_an_ablation_refuses_what_are_no_prompts():
    with pytest.raises(InputError, match="reference"):
        Ablation("mean", [1, 2])
    with pytest.raises(ConfigError, match="ablation"):
        Ablation(["mean"])


def test_masks_may_be_lists():
    rows = Nodes(np.asarray(MASK.heads).tolist(), np.asarray(MASK.features).tolist())
    found = behaviour(**RIGHT | {"masks": [rows], "batch_size": 16})
    np.testing.assert_array_equal(found.match, np.ones_like(found.match))


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None},
        {"task": None},
        *({"masks": masks} for masks in NO_MASKS if masks != []),
        *({"split": split} for split in ([99], 99, None, "none")),
        *({"batch_size": size} for size in (None, 1.5)),
        *({"seed": seed} for seed in (None, -1)),
    ],
)
def test_a_size_curve_refuses(wrong):
    right = {"model": CASE.model, "task": as_task(CASE, test=4), "masks": [MASK]}
    with pytest.raises(HagdError):
        size_curve(**right | wrong)
