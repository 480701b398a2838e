"""What circuits are compared with by chance."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.transfer import MatchConfig, compare, lookalikes, reshuffled
from hagd_jax.transfer.compare import OTHERS, SHUFFLED
from hagd_jax.units import Space, Unit
from hagd_jax.units.unit import ATTENTION, CLUSTER, MLP, block_ranges, leaf, ranges_of
from tests.transfer.fakes import portrait

SPACES = st.builds(Space, st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))


def drawn(space, seed):
    """An antichain: random heads and neurons, those of some blocks as one unit, or whole."""
    rng, units = np.random.default_rng(seed), []
    for layer in range(space.layers):
        for block in (ATTENTION, MLP):
            ((start, stop),) = block_ranges(space, block, layer, layer)
            width = stop - start
            places = start + np.flatnonzero(rng.random(width) < 0.5)
            how = rng.integers(3)
            if how == 0 and len(places) > 1:
                units.append(Unit(CLUSTER, (layer, layer), 0, block, ranges_of(places)))
            elif how == 1:
                units.append(Unit(block, (layer, layer), 0, block,
                                  block_ranges(space, block, layer, layer)))  # fmt: skip
            else:
                units += [leaf(space, "neuron", int(place)) for place in places]
    return units


@settings(max_examples=40)
@given(SPACES, st.integers(0, 10_000))
def test_lookalikes_have_the_sizes_layers_and_blocks(space, seed):
    own = drawn(space, seed)
    found = lookalikes(space, own, seed)
    assert [(unit.layers, unit.block, len(unit)) for unit in found] == [
        (unit.layers, unit.block, len(unit)) for unit in own
    ]
    places = np.concatenate([unit.places() for unit in found] or [np.zeros(0, int)])
    assert len(set(places.tolist())) == len(places)
    for unit in found:
        first, last = block_ranges(space, unit.block, *unit.layers)[0]
        assert first <= unit.places().min() <= unit.places().max() < last
    whole = [unit for unit in own if len(unit) in (space.heads, space.features) and not unit.leaf]
    assert all(unit in found for unit in whole if unit.ranges == block_ranges(
        space, unit.block, *unit.layers))  # fmt: skip


def test_lookalikes_are_others_with_other_seeds():
    space = Space(3, 8, 64)
    own = [leaf(space, "neuron", place) for place in (0, 9, 30, 100)]
    found = {lookalikes(space, own, seed) for seed in range(20)}
    assert len(found) == 20
    # Every head of the layer comes up.
    found |= {lookalikes(space, own, seed) for seed in range(20, 99)}
    assert {units[0].index for units in found} == set(range(8))
    with pytest.raises(InputError, match="units"):
        lookalikes(Space(1, 1, 1), own, 0)


def test_signatures_stay_within_a_third_of_the_depth():
    own = portrait(12, 0)
    thirds = (own.depth * 3).astype(int).tolist()
    before = {row.tobytes(): third for row, third in zip(own.values, thirds, strict=True)}
    made = list(reshuffled(own, 30, seed=1))
    orders = set()
    for other in made:
        assert (other.shares == own.shares).all()
        assert [before[row.tobytes()] for row in other.values] == thirds
        assert sorted(row.tobytes() for row in other.values) == sorted(before)
        orders.add(other.values.tobytes())
    assert len(orders) > 25
    anywhere = {other.values[0].tobytes() for other in reshuffled(own, 60, seed=1, bands=1)}
    assert anywhere == set(before)
    with pytest.raises(ConfigError, match="bands"):
        next(reshuffled(own, 1, seed=1, bands=0))


def test_a_circuit_is_nearer_to_its_like_than_chance():
    own = portrait(8, 0)
    noise = 0.5 * np.random.default_rng(5).normal(size=own.values.shape)
    other = dataclasses.replace(own, values=np.clip(own.values + noise, -3, 3), model="another")
    strangers = [portrait(8, seed) for seed in range(10, 29)]
    found = compare(own, other, nulls={OTHERS: strangers}, twice=[(own, own)])
    assert found.match.similarity > 0.8
    assert found.p_value(OTHERS) == pytest.approx(1 / 20)
    assert found.p_value(SHUFFLED) < 0.05
    assert found.ceiling == (pytest.approx(1, abs=1e-6),)
    null = np.mean(found.nulls[OTHERS])
    assert found.normalised == pytest.approx((found.match.similarity - null) / (1 - null))
    said = str(found)
    for words in ("other tasks", "p = 0.05", "found twice in one model: 1.00", "structure alone"):
        assert words in said


def test_chance_gives_any_p_value():
    """Portraits that share nothing, beside strangers: ranks are uniform."""
    ranks = []
    for seed in range(40):
        drawn = [portrait(3, 1000 * seed + i) for i in range(11)]
        found = compare(drawn[0], drawn[1], MatchConfig(shuffles=0), nulls={OTHERS: drawn[2:]})
        ranks.append(found.p_value(OTHERS))
    # Ties, where nothing matches, make p-values larger, never smaller.
    assert np.mean(np.array(ranks) <= 0.2) <= 0.35
    assert min(ranks) < 0.5  # and not all of them are ties


def test_circuits_of_two_tasks_are_a_null_and_no_comparison():
    with pytest.raises(InputError, match="of one task"):
        compare(portrait(3, 0), portrait(3, 1, task="another"))
    with pytest.raises(InputError, match="one of signatures permuted"):
        compare(portrait(3, 0), portrait(3, 1)).p_value(OTHERS)
    with pytest.raises(ConfigError, match="shuffles"):
        MatchConfig(shuffles=-1)
    assert compare(portrait(3, 0), portrait(3, 1), MatchConfig(shuffles=0)).normalised is None


def test_what_is_no_portrait_is_refused_by_name():
    own = portrait(2, 0)
    for words, more in (
        ("twice", {"twice": [own]}),
        ("twice", {"twice": 3}),
        ("nulls", {"nulls": [own]}),
        ("portraits of others", {"nulls": {"others": [own.values]}}),
        ("measured by itself", {"nulls": {SHUFFLED: [own]}}),
        ("progress", {"progress": 3}),
    ):
        with pytest.raises((InputError, ConfigError), match=words):
            compare(own, own, **more)
    told = []
    compare(own, own, MatchConfig(shuffles=3), twice=[(own, own)],
            progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
