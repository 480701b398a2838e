"""The table of rules, and its counts against the record of the experiment that made them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.common.script import Places
from hagd_jax import roles
from hagd_jax.roles import NAMES, RULES, Rule, at_least, at_most

RECORD = Places().results / "roles.json"


def test_rules_name_columns_that_exist():
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.conditions
        assert {condition.column for condition in rule.conditions} <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    assert 25 <= len(NAMES) <= 40


def test_counts_are_those_of_the_record():
    tuning = json.loads(RECORD.read_text())["summary"]["tuning"]["rules"]
    for rule in RULES:
        own = tuning.get(rule.name, {"fired": 0, "wrong": 0})
        assert (rule.fired, rule.wrong) == (own["fired"], own["wrong"]), rule.name


def test_the_record_meets_what_is_asked_of_roles():
    found = json.loads(RECORD.read_text())["summary"]["held out"]
    assert found["units"] >= 60
    assert found["share_right"] >= 0.85
    assert found["random_heads"] >= 100
    assert found["share_random_named"] <= 0.05


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=8), st.floats(-1, 1))
def test_a_rule_holds_where_all_of_its_conditions_do(values, bound):
    table = np.zeros((len(values), len(NAMES)))
    table[:, NAMES.index("direct")] = values
    rule = Rule("r", "mover of the answer", (at_least("direct", bound), at_most("depth", 0.5)))
    assert rule.holds(table).tolist() == [value >= bound for value in values]
    table[:, NAMES.index("depth")] = 1
    assert not rule.holds(table).any()


def test_confidence_is_the_exact_lower_bound():
    """With n of n right the bound is α^(1/n)."""
    assert Rule("r", "x", (), fired=20).confidence == pytest.approx(0.05 ** (1 / 20))
    assert Rule("r", "x", (), fired=20, wrong=20).confidence == 0
    assert Rule("r", "x", (), fired=0).confidence == 0
    assert roles.Role("unnamed").confidence == 0
