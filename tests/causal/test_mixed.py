"""Known circuits at mixed resolution: what is accepted by single nodes is accepted by units."""

import dataclasses

import jax
import numpy as np
import pytest

from hagd_jax.causal import Circuit, Node, ValidateConfig, validate
from hagd_jax.errors import ConfigError
from hagd_jax.models import DecoderConfig
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import as_task, hand_built
from hagd_jax.testbeds.guise import hidden_in
from hagd_jax.units import neurons, tree

CASES = {case.name: case for case in hand_built()}
CORE = ValidateConfig(claims="core", ablations=("mean",), batch_size=128)
NOTHING = Seen.nothing()


def whole_block(name):
    """A case whose circuit has all neurons of one layer of three, and not all of its heads."""
    case = CASES[name]
    kept = sorted(node.index for node in case.truth["mean"] if node.kind == "neuron")
    # Other neurons do nothing: they are taken out, and idle layers are put above what is left.
    params = jax.tree.map(np.array, case.model.params)
    mlp = params["blocks"]["mlp"]
    for part in mlp:
        for leaf, axis in (("kernel", 1 if part == "out" else 2), ("bias", 1)):
            if leaf in mlp[part] and (part != "out" or leaf == "kernel"):
                mlp[part][leaf] = np.take(mlp[part][leaf], kept, axis)
    config = case.model.config.replace(d_mlp=len(kept))
    truth = frozenset(
        Node(n.kind, n.layer, kept.index(n.index)) if n.kind == "neuron" else n
        for n in case.truth["mean"]
    )
    cut = case._replace(model=case.model.replace(config=config, params=params),
                        truth={"mean": truth})  # fmt: skip
    host = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    wide = DecoderConfig(**host | {"n_layers": 3, "d_model": config.d_model + 16,
                                   "unembed_bias": True, "positions": "learned"})  # fmt: skip
    return hidden_in(cut, wide, 0)


def plain(case, nodes):
    chosen = tuple(sorted(nodes))
    return Circuit(chosen, (1.0,) * len(chosen), neurons(case.model).space, case.model.name,
                   case.name, seen=NOTHING)  # fmt: skip


def of_units(case, names, **options):
    own = tree(case.model, **options)
    return Circuit.of_units(own, names, model=case.model.name, task=case.name, seen=NOTHING)


def claims(report):
    return {claim.name: claim for claim in report.claims}


def parts_of_truth(case):
    """Names of units that hold the true circuit: the MLP of a layer, and heads."""
    truth = case.truth["mean"]
    (layer,) = {node.layer for node in truth if node.kind == "neuron"}
    heads = [f"head {node.layer}.{node.index}" for node in sorted(truth) if node.kind == "head"]
    return layer, heads


@pytest.mark.parametrize("name", ["rotation", "both"])
def test_a_true_circuit_of_whole_blocks_is_accepted_like_its_nodes(name):
    case = whole_block(name)
    layer, heads = parts_of_truth(case)
    task = as_task(case)
    single, mixed = plain(case, case.truth["mean"]), of_units(case, [f"mlp {layer}", *heads])
    assert set(mixed.nodes) == set(single.nodes)
    assert len(mixed) == 1 + len(heads) <= len(single) == mixed.leaves
    one, other = (validate(case.model, each, task, CORE) for each in (single, mixed))
    assert one.verdict == other.verdict == "accepted"
    assert one.share == other.share == pytest.approx(len(single) / neurons(case.model).space.nodes)
    # What is left out is the same, and so is all that is measured of the two ends.
    for claim in ("sufficiency", "necessity"):
        assert claims(one)[claim].effect == claims(other)[claim].effect
    assert one.evidence[0].kl[:4] == other.evidence[0].kl[:4]
    assert other.evidence[0].members == tuple(unit.name for unit in mixed.units)
    assert set(other.evidence[0].standing) == {"needed"}
    if len(mixed) < mixed.leaves:
        assert f"its {len(mixed)} units hold {mixed.leaves} of" in claims(other)["size"].says


def test_another_whole_block_is_rejected_and_a_needless_one_is_not_accepted():
    case = whole_block("rotation")
    layer, heads = parts_of_truth(case)
    task, other = as_task(case), (layer + 1) % 3
    wrong = validate(case.model, of_units(case, [f"mlp {other}", *heads]), task, CORE)
    assert wrong.verdict == "rejected"
    assert claims(wrong)["sufficiency"].verdict == "fails"
    both = of_units(case, [f"mlp {layer}", f"mlp {other}", *heads])
    more = validate(case.model, both, task, CORE)
    assert more.verdict == "not enough data"  # 25 prompts are too few to call a member idle
    told = more.evidence[0]
    for name, word, far in zip(told.members, told.standing, told.without, strict=True):
        needless = name == f"mlp {other}"
        assert word == ("undecided" if needless else "needed")
        assert (far == pytest.approx(told.kl[2], abs=1e-6)) == needless


@pytest.mark.parametrize("name", ["parity", "rotation"])
def test_true_clusters_are_accepted_and_mixed_ones_are_not(name):
    """A cluster is left out whole, so one with half of the needed neurons is not enough."""
    case, task = CASES[name], as_task(CASES[name])
    space = neurons(case.model).space
    inside = plain(case, case.truth["mean"]).mask().flat().astype(int)
    config = dataclasses.replace(CORE, controls=30)
    options = {"clusters": [1 - inside], "seen": NOTHING}
    own = tree(case.model, **options)
    chosen = [unit.name for unit in own.rest(
        map(own.leaf, np.flatnonzero(1 - inside).tolist())
    )]  # fmt: skip
    assert len(chosen) == 2
    good = of_units(case, chosen, **options)
    report = validate(case.model, good, task, config)
    assert report.verdict == "accepted"
    assert len(report.evidence[0].members) == 2
    # Neurons of the circuit are divided among clusters of twos, and one of those is left out.
    split = np.where(np.arange(space.nodes) < space.layers * space.heads, 99,
                     np.arange(space.nodes) // 2)  # fmt: skip
    twos = tree(case.model, clusters=[split], seen=NOTHING)
    needed = [u.name for u in twos.of_kind("cluster") if inside[u.places()].any()][:1]
    needed += [f"head {n.layer}.{n.index}" for n in case.truth["mean"] if n.kind == "head"]
    few = of_units(case, sorted(needed), clusters=[split], seen=NOTHING)
    assert validate(case.model, few, task, config).verdict == "rejected"


def test_all_claims_are_about_units():
    case = whole_block("rotation")
    layer, heads = parts_of_truth(case)
    config = ValidateConfig(ablations=("mean",), permuted=0, greedy=1, subsets=4, supersets=4,
                            batch_size=128)  # fmt: skip
    mixed = of_units(case, [f"mlp {layer}", *heads])
    report = validate(case.model, mixed, as_task(case), config)
    assert report.verdict == "accepted"
    found, evidence = claims(report), report.evidence[0]
    assert "3 members tested of 3" in found["minimality"].says
    assert [row[0] for row in evidence.sizes] == [1.0, 2.0, 3.0]
    assert len(evidence.greedy) == 1
    assert len(evidence.supersets) == 4
    robust = found["robustness to supersets"]
    # Other nodes write where nothing reads.
    assert (robust.verdict, robust.effect.value, robust.decides) == ("holds", 1.0, False)
    record = report.to_json()
    assert (record["members"], record["leaves"]) == (3, 6)


def test_robustness_decides_where_it_is_asked_for():
    case = CASES["suppressed"]
    task = as_task(case)
    config = dataclasses.replace(CORE, robust=True, supersets=12)
    report = validate(case.model, plain(case, case.truth["mean"]), task, config)
    robust = claims(report)["robustness to supersets"]
    assert robust.decides
    assert report.verdict == "accepted"
    assert "of 12 supersets with a random 10% of the nodes outside, 12 pass" in robust.says
    usual = validate(case.model, plain(case, case.truth["mean"]), task, CORE)
    assert "robustness to supersets" not in claims(usual)
    # Of a circuit that fails by itself it says nothing.
    few = validate(case.model, plain(case, sorted(case.truth["mean"])[:1]), task, config)
    assert claims(few)["robustness to supersets"].verdict == "not enough data"
    assert few.verdict == "rejected"
    with pytest.raises(ConfigError, match="supersets"):
        ValidateConfig(robust=True, supersets=0)


def test_without_its_tree_the_report_says_what_stands_in_for_clusters(tmp_path):
    case = CASES["parity"]
    inside = plain(case, case.truth["mean"]).mask().flat().astype(int)
    circuit = of_units(case, ["cluster 0.0", "head 0.0"], clusters=[1 - inside], seen=NOTHING)
    circuit.save(tmp_path / "c.json")
    read = dataclasses.replace(Circuit.load(tmp_path / "c.json"), seen=NOTHING)
    config = dataclasses.replace(CORE, controls=20)
    report = validate(case.model, read, as_task(case), config)
    assert any("the clusters of the circuit's tree" in each for each in report.aside)
    whole = validate(case.model, circuit, as_task(case), config)
    assert not whole.aside
    assert report.verdict == whole.verdict == "accepted"
