"""Runs made up from numbers, without a model."""

import itertools

import numpy as np

from hagd_jax.causal import Behaviour
from hagd_jax.causal.claim import Runs
from hagd_jax.causal.trials import Trials


def made_up(metric, kl, *, right=None, controls=(), others=(), members=(), **changes):
    """Runs of so many prompts; every row is a number or one value for each prompt.

    Args:
        metric: Of model, empty circuit, circuit, complement.
        kl: Of the same.
        right: Of the same; all right by default.
        controls: KL of each random circuit.
        others: Metric of the model without each random set outside.
        members: KL of the circuit without each member.
        **changes: Other fields of `Runs`, and `count`, the prompts.
    """
    count = changes.pop("count", 20)
    groups = [list(kl), list(controls), [1.0] * len(others), list(members)]
    far = [np.broadcast_to(np.asarray(row, float), count) for group in groups for row in group]
    ends = np.cumsum([1, 3, *map(len, groups[1:])]).tolist()
    slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
    value = np.zeros((len(far), count))
    for row, own in zip([*range(4), *range(slices[2].start, slices[2].stop)], [*metric, *others],
                        strict=True):  # fmt: skip
        value[row] = own
    correct = np.ones((len(far), count))
    for row, own in enumerate(right or ()):
        correct[row] = own
    none = slice(len(far), len(far))
    trials = Trials((), *slices[1:4], none, none, (none, none), none, np.arange(len(members)),
                    np.zeros((0, 2), int), (), members=len(members), ends=3,
                    core=len(far) - 1)  # fmt: skip
    found = Behaviour(value, correct, np.array(far), np.ones((len(far), count)))
    options = {"members": max(len(members), 1), "alpha": 0.05, "ablation": "mean",
               "split": "test", "seed": 0, "decides": True}  # fmt: skip
    return Runs(found, trials, **options | changes)
