"""Matching where the truth is known, at a small scale."""

import numpy as np

from experiments.readme import transfer as table
from experiments.transfer import calibrated, known, speed


def test_units_whose_counterparts_are_known_are_matched(places, read, monkeypatch):
    monkeypatch.setattr(known, "STYLES", ("plain", "gpt2"))
    config = known.Config(**places, programs=("either",), behaviours=("names", "find"), seeds=(0,))
    known.main(config)
    rows = read("transfer_known")["rows"]
    pairs = [row for row in rows if row["part"] != "alike"]
    assert {row["of"] for row in pairs} == {"either", "names", "find"}
    for row in pairs:
        assert row["right"] == row["known"] == row["units"] > 1
        assert 0 <= row["right_permuted"] < row["units"]
        assert row["similarity"] > 0.6
        assert row["chance"] >= 1
    alike = [row for row in rows if row["part"] == "alike"]
    # Two behaviours in two styles: two pairs of one behaviour, two of different ones.
    assert [(row["same"], row["others"], row["auroc"]) for row in alike] == [(2, 2, 1.0)] * 2
    made = table.known(read("transfer_known"))
    assert len(made) == 5
    assert "100.0% (by roles" in made[0][1]
    # Finished cells are not measured again.
    monkeypatch.setattr(known, "pairs", None)
    known.main(config)


def test_matches_are_timed(places, read):
    speed.main(speed.Config(**places, sizes=(4, 9), compared=5))
    small, large = read("transfer_speed")["rows"]
    assert (small["units"], large["units"]) == (4, 9)
    assert small["compare_seconds"] > small["match_seconds"] > 0
    assert "compare_seconds" not in large
    assert large["right"] > 0.5
    ((_, said, *_),) = table.speed(read("transfer_speed"))
    assert said.startswith("4 units 0.0")


def test_p_values_of_what_shares_nothing(places, read, monkeypatch):
    monkeypatch.setattr(calibrated, "STYLES", ("plain",))
    config = calibrated.Config(**places, behaviours=("names", "find"), pairs=12, units=3)
    calibrated.main(config)
    (row,) = read("transfer_calibrated")["rows"]
    assert (row["pairs"], row["models"]) == (12, 2)
    assert 0 <= row["above"] <= 2
    assert row["ks"] > 1e-3
    rng = np.random.default_rng(0)
    ranks = [calibrated.p_value(rng, rng.random(20)) for _ in range(400)]
    assert abs(np.mean(np.array(ranks) <= 0.25) - 0.25) < 0.07
    assert calibrated.p_value(rng, np.arange(20.0)) > 0.95  # the least similar of all
    assert calibrated.p_value(rng, -np.arange(20.0)) <= 0.05
    assert len(table.calibrated(read("transfer_calibrated"))) == 1


def test_a_plan_that_matches_nothing_is_right_in_nothing():
    class Nothing:
        plan = np.zeros((2, 2))

    found = known.right(Nothing, ("a", "b"), ("a", "b"))
    assert found == 0
    assert type(found) is int  # as records have it
