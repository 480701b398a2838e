"""Circuits of our prompts on those of a file, at toy size."""

import json

import pytest

import hagd_jax as hagd
from experiments.circuits import other_authors
from hagd_jax.causal import Circuit
from hagd_jax.errors import ConfigError
from hagd_jax.tasks import Sizes

NOUNS = (("key", "keys"), ("book", "books"), ("letter", "letters"), ("ticket", "tickets"),
         ("bag", "bags"), ("coat", "coats"), ("flower", "flowers"), ("door", "doors"))  # fmt: skip


@pytest.fixture
def source(tmp_path):
    rows = [
        {"clean_prefix": f"The {own}", "patch_prefix": f"The {other}",
         "clean_answer": f" {verb}", "patch_answer": f" {wrong}", "case": "a"}
        for one, many in NOUNS
        for own, other, verb, wrong in ((one, many, "is", "are"), (many, one, "are", "is"))
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_kept_circuits_are_tested_on_every_row(tiny, places, read, source):
    model = hagd.models.load(tiny)
    space = hagd.units.neurons(model).space
    folder = places["runs"] / "units" / "agreement-0-20"
    folder.mkdir(parents=True)
    whole = hagd.units.tree(model)
    Circuit.of_units(
        whole, [unit.name for unit in whole.roots], model=model.name, task="agreement"
    ).save(folder / "24.json")
    config = other_authors.Config(
        (f"agreement=sva:{source}",), **places, model=tiny, rows=Sizes(3, 2, 3),
        sizes=Sizes(8, 4, 8), ablations=("counterfactual", "mean"),
    )  # fmt: skip
    other_authors.main(config)
    rows = read("other_authors")["rows"]
    assert [row["ablation"] for row in rows] == ["counterfactual", "mean"]
    for row in rows:
        # All of the model is its own circuit, on every one of the file's parts.
        assert (row["prompts"], row["nodes"]) == (8, space.nodes)
        assert row["faithfulness"] == pytest.approx(1, abs=1e-3)
        assert 0 <= row["names"] <= 1
        assert row["kl_share"] == pytest.approx(0, abs=1e-4)
        assert "kl" not in row["failed"]


@pytest.mark.parametrize("pair", ["ioi", "ioi=", "=eap:x.csv", "ioi=rows.csv"])
def test_a_pair_names_a_task_and_a_file(pair):
    with pytest.raises(ConfigError, match="--pairs"):
        other_authors.Config((pair,))
