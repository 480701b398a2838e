"""Numbers that no search can use are refused by name before they overflow or fill the memory."""

import jax
import numpy as np
import pytest

from hagd_jax.causal import Circuit, Node, curve_areas, sizes_of
from hagd_jax.errors import HagdError
from hagd_jax.search import MaskConfig, init_masks, is_found, require_found, schedule
from hagd_jax.units import Space


@pytest.mark.parametrize(
    "call",
    [
        lambda: is_found(None, 1.0),
        lambda: is_found(1.0, "x"),
        lambda: require_found(None, 1.0),
        lambda: require_found(np.inf, np.inf),
        lambda: schedule(MaskConfig(steps=2), 10, 2, 2**63),
        lambda: schedule(MaskConfig(steps=2), 10**400, 2, 0),
        lambda: init_masks(jax.random.key(0), np.ones(2), MaskConfig(), sizes=10**400),
        lambda: sizes_of(10**400),
        lambda: curve_areas([], 10**400),
        lambda: Circuit((), (), Space(1, 1, 1), "m", "t", dictionary=[]),
        lambda: Circuit.from_mask(None, None, model="m", task="t", dictionary=[]),
    ],
)
def test_they_are_refused(call):
    with pytest.raises(HagdError):
        call()


def test_an_infinite_loss_is_no_circuit():
    assert not is_found(np.inf, np.inf)
    assert not is_found(1.0, np.inf)
    assert not is_found(np.nan, 1.0)
    assert is_found(np.float32(0.1), 1)


def test_a_circuit_may_be_given_its_parts_once():
    made = Circuit(iter([Node("head", 0, 0)]), iter([1]), Space(1, 1, 1), "m", "t")
    assert made.nodes == (Node("head", 0, 0),)
    assert made.scores == (1,)
