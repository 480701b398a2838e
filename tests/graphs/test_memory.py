"""The estimate against what is really kept, and that its advice helps."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.graphs import AttributionConfig
from hagd_jax.graphs.memory import free_memory, memory_of, require_memory
from hagd_jax.graphs.rows import TargetRows
from hagd_jax.graphs.stored_rows import Columns, stored_rows
from hagd_jax.models import DecoderConfig

MODEL = DecoderConfig(vocab_size=100, n_layers=12, d_model=256, n_heads=8, d_mlp=1024)


def need(columns, config, features=10**9):
    return memory_of(MODEL, columns, columns.layers, config, features=features)


@pytest.mark.parametrize("edges", [None, 7])
def test_kept_rows_are_as_large_as_was_said(edges):
    columns = Columns(3, 8, 5)
    config = AttributionConfig(max_feature_nodes=20, edges_per_node=edges)
    store = stored_rows(30, columns, edges)
    arrays = [store.matrix] if edges is None else [store.index, store.value]
    said = memory_of(MODEL, columns, 3, config, features=100).rows
    assert said == sum(array.nbytes for array in arrays)
    values = np.random.default_rng(0).normal(size=(2, columns.total)).astype(np.float32)
    mass = np.abs(values) @ np.eye(3)[np.repeat([0, 1, 2], [120, 24, 8])]
    store.add(TargetRows(values, values.sum(1), mass), np.array([-1, -1]), np.array([3, 3]))
    found = store.influence(np.array([0.5, 0.25]))
    if edges is None:
        expected = np.array([0.5, 0.25]) / mass.sum(1) @ np.abs(values)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    else:
        assert np.count_nonzero(found) <= 14


@given(
    length=st.sampled_from([8, 32, 256, 2048]),
    slots=st.sampled_from([8, 32, 96]),
    nodes=st.sampled_from([64, 512, 4096]),
    batch=st.sampled_from([1, 16, 64]),
    gigabytes=st.floats(0.05, 40),
)
@settings(max_examples=150)
def test_advice_is_enough_or_says_that_nothing_is(length, slots, nodes, batch, gigabytes):
    columns = Columns(12, length, slots)
    config = AttributionConfig(max_feature_nodes=nodes, batch_size=batch, memory_gb=gigabytes)
    message = refusal(columns, config)
    changes = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", message)}
    assert changes or not message or "Shorten the prompt" in message
    assert not changes or not refusal(columns, dataclasses.replace(config, **changes))


def refusal(columns, config):
    """Why a run does not fit, or nothing."""
    try:
        require_memory(lambda other: need(columns, other), config, on_host=True)
    except InputError as error:
        return str(error)
    return ""


def test_without_a_limit_it_is_what_the_machine_has():
    free = free_memory()
    assert free is None or 10**8 < free < 10**14
    huge = AttributionConfig(max_feature_nodes=10**6)
    columns = Columns(80, 65536, 64)
    with pytest.raises(InputError, match="GB"):
        require_memory(lambda c: need(columns, c), huge, on_host=True, available=10**10)
    small = AttributionConfig(max_feature_nodes=10)
    require_memory(lambda c: need(Columns(2, 8, 8), c), small, on_host=True)


def test_the_whole_is_the_sum_of_what_is_listed():
    found = need(Columns(12, 2048, 32), AttributionConfig(edges_per_node=512))
    units = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
    sizes = [float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) (.B)", str(found))]
    assert sizes[0] == pytest.approx(sum(sizes[1:]), rel=0.03)
