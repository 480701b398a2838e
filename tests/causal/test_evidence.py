"""What stands behind the claims can be recomputed from itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Circuit
from hagd_jax.causal.evidence import evidence
from tests.causal.made_up import made_up

ENDS = {"metric": (5, 0, 5, 0), "kl": (0, 2, 0, 2)}
CIRCUIT = Circuit((), (), (1, 2, 3), model="small", task="copy")


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), draws=st.sampled_from([1, 2, 4]))
def test_shares_kept_follow_from_the_accuracies_beside_them(seed, draws):
    # Under `resample` a prompt is right on some of its draws: means of those, and no majorities.
    rng = np.random.default_rng(seed)
    right = rng.integers(0, draws + 1, (4, 20)) / draws
    runs = made_up(**ENDS, right=tuple(right))
    found = evidence(runs, CIRCUIT, "")
    model, empty, own, _ = (each.value for each in found.accuracy)
    # Sums of 20 numbers in float64.
    np.testing.assert_allclose([model, empty, own], right[:3].mean(1), rtol=1e-12, atol=1e-15)
    if abs(model - empty) > 1e-3:
        kept = (own - empty) / (model - empty)
        assert found.alone.kept.value == pytest.approx(kept, rel=1e-9, abs=1e-12)
    if model > 1e-3:
        assert found.alone.preservation.value == pytest.approx(own / model, rel=1e-9)
    assert found.alone.able == found.accuracy[0]
