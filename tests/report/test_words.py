import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.causal import Estimate, Node
from hagd_jax.report.words import MINUS, inert, interval, node_name, number, percent, probability

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0%"),
        (-0.0, "0.0%"),
        (-0.0004, "0.0%"),
        (-0.07, MINUS + "7.0%"),
        (1.25, "125.0%"),
        (NAN, "not defined"),
        (math.inf, "∞"),
        (-math.inf, MINUS + "∞"),
    ],
)
def test_percent(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234567.0, "1,234,567"), (-0.001234, MINUS + "0.00123"), (5e-9, "5e-09")],
)
def test_number(value, text):
    assert number(value) == text


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_number_reads_back(value):
    shown = float(number(value).replace(MINUS, "-").replace(",", ""))
    assert shown == pytest.approx(value, rel=5.1e-3, abs=1e-300)


def test_p_values_never_read_as_zero():
    assert probability(0.0004) == "< 0.001"
    assert probability(0.001) == "0.001"
    assert probability(NAN) == "not defined"


def test_intervals():
    assert interval(Estimate(0.5, -0.25, 0.75)) == MINUS + "25.0 to 75.0"
    assert interval(Estimate(0.5, NAN, NAN)) == "no interval"


def test_node_names():
    assert node_name(Node("head", 29, 8)) == "L29.H8"
    assert node_name(Node("neuron", 0, 1535)) == "L0.N1535"
    assert node_name(Node("feature", 3, 1042)) == "L3.F1042"
    # Of a mixture only neurons have experts, and only in layers that are mixtures.
    assert node_name(Node("neuron", 3, 42), (0, 8, 8, 8)) == "L3.E5.N2"
    assert node_name(Node("neuron", 0, 42), (0, 8, 8, 8)) == "L0.N42"
    assert node_name(Node("head", 3, 42), (0, 8, 8, 8)) == "L3.H42"


@given(st.text(max_size=50))
def test_inert_text_can_be_written_and_hides_nothing(text):
    shown = inert(text)
    assert shown.encode("utf-8") is not None
    assert all(char in " \n\t" or char.isprintable() or not char.strip() for char in shown)
    assert inert(shown) == shown


def test_inert_names_what_it_hides():
    assert inert("a\u202eb\u2066\u200b\x00\ud800\U000e0001") == (
        "a\\u202eb\\u2066\\u200b\\x00\\ud800\\U000e0001"
    )
    assert inert("é 中 😀") == "é 中 😀"


def test_inert_cuts():
    shown = inert("y" * 100_000, 20)
    assert shown == "y" * 20 + "… (99,980 more characters)"
