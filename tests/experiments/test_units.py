"""Circuits of units: found, judged, and their edges pruned, at a small scale."""

from xml.etree import ElementTree

import numpy as np

import hagd_jax as hagd
from experiments.circuits import judged_units, picture, pruned_units, unit_edges, units
from hagd_jax.causal import Circuit, load_circuit
from hagd_jax.pipeline import DescribeConfig
from hagd_jax.search import UnitEdgeConfig, UnitMaskConfig, UnitPruneConfig
from hagd_jax.tasks import Sizes
from hagd_jax.units import load_tree, save_tree

SIZES = Sizes(discover=8, select=4, test=8)


def test_circuits_of_units_have_as_many_as_asked_and_are_tested(tiny, places, read):
    config = units.Config(
        **places, tasks=("ioi",), model=tiny, units=(6, 3), leaves=0.25, sizes=SIZES,
        search=UnitMaskConfig(steps=8, batch_size=6, check_every=4), scored=4,
        ablations=("counterfactual", "mean"),
    )  # fmt: skip
    units.main(config)
    rows = read("units")["rows"]
    assert [(row["asked"], row["ablation"]) for row in rows] == [
        (size, ablation) for size in (6, 3) for ablation in ("counterfactual", "mean")
    ]
    for row in rows:
        assert sum(row["kinds"].values()) == row["units"] <= row["asked"]
        assert row["nodes"] <= row["of"] / 4
        assert np.isfinite([row["faithfulness"], row["kl_share"]]).all()
        kept = Circuit.load(places["runs"] / "units" / "ioi-0-25" / f"{row['asked']}.json")
        assert (len(kept), kept.leaves) == (row["units"], row["nodes"])
        assert kept.seen.known
        assert not set(row["failed"]) & set(row["open"])
    whole = load_tree(places["runs"] / "units" / "ioi-0-25" / "tree.safetensors")
    assert len(whole.antichain([unit.name for unit in kept.units])) == row["units"]


def test_kept_circuits_are_pruned_and_tested(tiny, places, read):
    """Of all units of the model some do nothing, and what is left is what its file holds."""
    model = hagd.models.load(tiny)
    tree, folder = hagd.units.tree(model), places["runs"] / "units" / "ioi-0-20"
    folder.mkdir(parents=True)
    save_tree(tree, folder / "tree.safetensors")
    names = [f"{kind} {layer}" for layer in range(model.config.n_layers)
             for kind in ("attention", "mlp")]  # fmt: skip
    Circuit.of_units(tree, names, model=model.name, task="ioi").save(folder / "24.json")
    how = UnitPruneConfig(least=0.2, prompts=4, ablations=("counterfactual",))
    config = pruned_units.Config(
        **places, tasks=("ioi",), model=tiny, sizes=SIZES, prune=how,
        ablations=("counterfactual", "mean"),
    )  # fmt: skip
    pruned_units.main(config)
    rows = read("pruned_units")["rows"]
    kept = Circuit.load(folder / "24-pruned.json")
    own = [unit.name for unit in kept.units]
    assert [row["ablation"] for row in rows] == ["counterfactual", "mean"]
    for row in rows:
        assert (row["searched"], row["units"], row["nodes"]) == (len(names), len(own), kept.leaves)
        assert sorted([*own, *row["left_out"]]) == sorted(names)
        assert 0 < len(own) < len(names)
    assert kept.seen.known is False  # nobody recorded what the circuit was found with


def test_a_kept_circuit_is_described_and_drawn(tiny, places, read):
    model = hagd.models.load(tiny)
    tree, folder = hagd.units.tree(model), places["runs"] / "units" / "ioi-0-20"
    folder.mkdir(parents=True)
    names = ["attention 0", "mlp 0", "head 1.0"]
    Circuit.of_units(tree, names, model=model.name, task="ioi").save(folder / "24-pruned.json")
    how = DescribeConfig(prompts=4, ablated=4, subsets=8)
    picture.main(picture.Config(**places, task="ioi", model=tiny, sizes=SIZES, describe=how))
    (row,) = read("picture")["rows"]
    drawn = ElementTree.parse(places["results"] / "circuit.svg").getroot()
    said = "".join(drawn.itertext())
    assert row["units"] == len(names) == sum(row["roles"].values())
    assert all(name in said for name in names)
    described = Circuit.load(folder / "24-pruned-described.json").about
    assert {each.role for each in described} == set(row["roles"])


def test_kept_circuits_of_units_are_asked_of_the_judge(tiny, places, read):
    """All of the model is enough for itself, and it is not small."""
    model = hagd.models.load(tiny)
    tree = hagd.units.tree(model)
    folder = places["runs"] / "units" / "ioi-0-20"
    folder.mkdir(parents=True)
    names = [unit.name for unit in tree.roots]
    Circuit.of_units(tree, names, model=model.name, task="ioi").save(folder / "24-pruned.json")
    judged_units.main(judged_units.Config(**places, tasks=("ioi",), model=tiny, sizes=SIZES))
    rows = read("judged_units")["rows"]
    # Nobody recorded what it was found with, so that nothing decides.
    assert {(row["verdict"], row["decides"]) for row in rows} == {("not enough data", False)}
    assert [row["found"] for row in rows if row["claim"] == "size"] == ["fails"]
    assert {row["ablation"] for row in rows} >= {"counterfactual", "mean", "resample"}
    assert len({(row["claim"], row["ablation"]) for row in rows}) == len(rows) > 5
    assert all(row["nodes"] == row["of"] for row in rows)
    assert all(row["says"] for row in rows)


def test_edges_of_kept_circuits_are_pruned_and_tested(tiny, places, read):
    """The whole model needs no more than the edges it has, and keeps itself."""
    model = hagd.models.load(tiny)
    tree, folder = hagd.units.tree(model), places["runs"] / "units" / "ioi-0-20"
    folder.mkdir(parents=True)
    names = [f"{kind} {layer}" for layer in range(model.config.n_layers)
             for kind in ("attention", "mlp")]  # fmt: skip
    Circuit.of_units(tree, names, model=model.name, task="ioi").save(folder / "24.json")
    how = UnitEdgeConfig(steps=(1.0,), rounds=1, batch_size=8)
    config = unit_edges.Config(
        **places, tasks=("ioi",), model=tiny, sizes=SIZES, prompts=8, edges=how,
        ablations=("counterfactual", "mean"),
    )  # fmt: skip
    unit_edges.main(config)
    rows = read("unit_edges")["rows"]
    assert [row["ablation"] for row in rows] == ["counterfactual", "mean"]
    wiring = load_circuit(folder / "24-edges.json")
    for row in rows:
        assert (row["units"], row["edges"]) == (len(names), len(wiring))
        assert 0 < row["edges"] < row["of"]
        assert np.isfinite([row["faithfulness"], row["kl_share"]]).all()
