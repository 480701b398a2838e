"""What a run says of each unit: known roles, and numbers that are computed again by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from hagd_jax import units
from hagd_jax.causal import Ablation, Circuit, ValidateConfig, behaviour
from hagd_jax.errors import ConfigError, HagdError, InputError
from hagd_jax.models import DecoderConfig, forward
from hagd_jax.parallel import make_mesh
from hagd_jax.pipeline import (
    DescribeConfig,
    ExtractConfig,
    describe_units,
    describing,
    extract,
    open_extraction,
    open_run,
    run_fused,
    run_staged,
)
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.describing import certified, describe, rivals
from hagd_jax.pipeline.extract import prepare
from hagd_jax.roles.role import of_neurons
from hagd_jax.scores import GradientConfig, prompt_scores
from hagd_jax.search import CoreConfig, UnitMaskConfig, core
from hagd_jax.tasks import Choice, Task, Text, make_choices, make_prompts
from hagd_jax.testbeds import role_case
from hagd_jax.units import Nodes, Space, as_dictionary, blocks, neurons
from tests.models.noise import noisy, on_mesh
from tests.pipeline.copier import EXTRACT, make_copier, make_task
from tests.transcoders.basis import neuron_basis

GRADIENT = GradientConfig(batch_size=8)
FEW = DescribeConfig(prompts=20, ablated=20, subsets=200)
SEARCH = UnitMaskConfig(
    steps=20, check_every=10, batch_size=8, ablations=("counterfactual", "mean")
)
CONFIG = ExtractConfig(units=6, nodes="8", gradient=GRADIENT, unit_masks=SEARCH, describe=FEW)
# Every head and neuron has a score and an effect of its own here.
NOISY = DecoderConfig(
    vocab_size=11, n_layers=2, d_model=8, n_heads=2, d_mlp=6, activation="relu", max_positions=8
)


def make(prompts, name="again"):
    """A task whose last third is its test split."""
    cut = len(prompts) * 2 // 3
    splits = {"discover": prompts[:cut], "test": prompts[cut:]}
    texts = {split: (Text("", "", "", "", ""),) * len(own) for split, own in splits.items()}
    return Task(name, "Made up.", splits, texts)


def random_prompts(count=30, seed=1):
    rng = np.random.default_rng(seed)
    clean, corrupted = rng.integers(0, 11, (2, count, 5))
    answer = rng.integers(0, 11, count)
    return make_prompts(clean, corrupted, answer, (answer + 1) % 11, vocab_size=11)


def run(execute, model, task, config, out=None, until="select", **changes):
    context, _ = prepare(model, task, config, out=out)
    return execute(dataclasses.replace(context, **changes), until)["select"]


@pytest.fixture(scope="module")
def case():
    return role_case("induction", "plain", 0)


@pytest.fixture(scope="module")
def task(case):
    return make(case.prompts)


@pytest.fixture(scope="module")
def found(case, task, tmp_path_factory):
    """A run up to the circuit that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(run_staged, case.model, task, CONFIG, open_run(folder, {}))


@pytest.fixture(scope="module")
def model():
    return noisy(NOISY)


def described(model, names, dictionary=None, prompts=None, config=CONFIG):
    """A circuit of units, as the select stage would describe it, and the note."""
    nodes = as_dictionary(model, dictionary)
    tree = units.tree(model, dictionary=dictionary)
    circuit = Circuit.of_units(tree, names, model=model.name, task="again")
    task = make(random_prompts() if prompts is None else prompts)
    return describe(Context(model, task, config), circuit, nodes)


def test_known_roles_end_in_the_circuit_and_in_its_file(case, found):
    folder, left = found
    circuit = left.circuit
    names = [unit.name for unit in circuit.units]
    told = dict(zip(names, circuit.about, strict=True))
    known = {name: role for name, role in case.roles.items() if name in told}
    assert {"induction", "previous token"} <= set(known.values())
    for name, role in known.items():
        assert told[name].role == role
    (head,) = [name for name, role in known.items() if role == "induction"]
    assert told[head].necessity == pytest.approx(1, abs=0.01)
    assert told[head].radius >= 2
    again = Circuit.load(folder / "circuit.json")
    assert again == circuit
    lines = str(again).splitlines()
    assert lines[1].split() == [
        "layer", "unit", "kind", "nodes", "score", "role", "necessity", "radius"
    ]  # fmt: skip
    (line,) = [line.split() for line in lines if head in line]
    assert line[-3:] == ["induction", "100.0%", str(told[head].radius)]
    assert not left.note


def test_a_description_changes_neither_the_nodes_nor_what_was_seen(case, task, found):
    _, left = found
    off = dataclasses.replace(CONFIG, describe=DescribeConfig(prompts=0))
    bare = run(run_staged, case.model, task, off)
    assert bare.circuit.about is None
    assert bare.note == ""
    for name in ("nodes", "scores", "seen", "grouping", "seed"):
        assert getattr(bare.circuit, name) == getattr(left.circuit, name)


def same(one, other):
    for row, again in zip(one.about, other.about, strict=True):
        assert again.role == row.role
        assert again.necessity == pytest.approx(row.necessity, abs=1e-4)
        assert again.radius == row.radius


def test_both_executors_say_the_same():
    config = dataclasses.replace(EXTRACT, search="top", nodes="3", describe=FEW)
    one, other = (run(execute, make_copier(), make_task(), config).circuit
                  for execute in (run_staged, run_fused))  # fmt: skip
    assert one.nodes == other.nodes
    assert "mover of the answer" in [row.role for row in one.about]
    same(one, other)


def test_devices_do_not_matter(model):
    far = on_mesh(model, make_mesh("data=2,model=2", devices=jax.devices()[:4]))
    one, other = (described(where, ["head 0.1", "mlp 1"])[0] for where in (model, far))
    assert any(row.radius is not None for row in one.about)
    same(one, other)


class Killed(BaseException):
    pass


def test_a_run_killed_in_the_midst_of_it_describes_again(case, task, found, tmp_path):
    folder, _ = found

    def kill(stage, done, total):
        if (stage, done) == ("describe", 1):
            raise Killed

    with pytest.raises(Killed):
        run(run_staged, case.model, task, CONFIG, open_run(tmp_path, {}), progress=kill)
    assert not (tmp_path / "circuit.json").exists()
    told = []
    run(run_staged, case.model, task, CONFIG, open_run(tmp_path, {}),
        progress=lambda *now: told.append(now))  # fmt: skip
    assert (tmp_path / "circuit.json").read_bytes() == (folder / "circuit.json").read_bytes()
    assert [now for now in told if now[0] == "describe"] == [("describe", i, 2) for i in range(3)]
    assert {stage for stage, *_ in told} == {"select", "describe"}


def lost(model, prompts, circuit, dictionary=None):
    """Necessity by patching, from nothing but `behaviour` and two forward passes."""
    nodes = as_dictionary(model, dictionary)
    clean, other = (
        np.asarray(prompts.metric(forward(model, rows, read=prompts.reads).logits), np.float64)
        for rows in (prompts.clean, prompts.corrupted)
    )
    kept = np.ones((len(circuit), nodes.space.nodes), bool)
    for row, unit in zip(kept, circuit.units, strict=True):
        row[unit.places()] = False
    masks = [Nodes.from_flat(nodes.space, row) for row in kept]
    without = behaviour(model, prompts, masks, ablation=Ablation("counterfactual"),
                        dictionary=dictionary).metric  # fmt: skip
    return (clean - without).sum(1) / np.abs(clean - other).sum()


def test_necessity_is_what_ablating_the_unit_alone_loses(model):
    """Features have no role, but heads beside them have that of the model's own heads."""
    found = []
    for dictionary, names in (
        (None, ["head 0.1", "mlp 0", "neuron 1.2"]),
        (neuron_basis(model), ["head 0.1", "mlp 0", "feature 1.2"]),
    ):
        circuit, note = described(model, names, dictionary)
        assert not note
        expected = lost(model, random_prompts()[:20], circuit, dictionary)
        np.testing.assert_allclose([row.necessity for row in circuit.about], expected, atol=1e-4)
        assert np.abs(expected).min() > 0.01
        found.append([row.role for row in circuit.about])
    assert found[1] == [found[0][0], "unnamed", "unnamed"]


def test_an_mlp_as_a_node_has_the_role_of_its_neurons_together():
    case, rows = role_case("subject", "plain", 0), []
    (name,) = [name for name, role in case.roles.items() if role == "subject lookup"]
    for whole, dictionary in ((name, None), (f"{name}.0", blocks(case.model))):
        circuit, _ = described(case.model, [whole, "head 2.2"], dictionary, prompts=case.prompts)
        assert [unit.name for unit in circuit.units] == ["head 2.2", whole]
        rows.append(circuit.about)
        assert [row.role for row in circuit.about] == ["mover of the answer", "subject lookup"]
    for one, other in zip(*rows, strict=True):
        assert other.necessity == pytest.approx(one.necessity, abs=1e-4)
        assert one.necessity > 0.2


def test_bands_of_blocks_are_the_bands_of_neurons(model):
    space, own = neurons(model).space, units.tree(model)
    tree = units.tree(model, dictionary=blocks(model))
    for one, other in (("layers 0-1", "layers 0-1"), ("mlp 1.0", "mlp 1"), ("head 1.0",) * 2):
        assert of_neurons(tree.unit(one), space, "mlps") == own.unit(other)
    assert of_neurons(own.unit("mlp 1"), space, "features#1a2b3c4d") is None


def test_the_radius_is_the_cores(model):
    """All scores of all nodes at once, and groups written by hand."""
    names = ["head 0.1", "neuron 0.2", "mlp 1", "head 1.0"]
    config = dataclasses.replace(
        CONFIG, describe=DescribeConfig(prompts=20, ablated=20, kept=3), seed=5
    )
    circuit, _ = described(model, names, config=config)
    prompts = random_prompts()[:20]
    scores = prompt_scores(model, prompts, GRADIENT, method="ig")
    # Heads are 0 to 3, neurons of layer 0 are 4 to 9, those of layer 1 are 10 to 15.
    groups = [[0], [3], [4, 5, 7, 8, 9], [1], [2], [6], [*range(10, 16)]]
    assert [unit.name for unit in circuit.units] == ["head 0.1", "head 1.0", "neuron 0.2", "mlp 1"]
    own = CoreConfig(3, 1000, "magnitude")
    expected = core(scores, 4, own, groups=groups, seed=5).radius[-4:].tolist()
    assert [row.radius for row in circuit.about] == [r if r >= 0 else None for r in expected]
    assert len(set(expected)) > 1
    assert max(expected) >= 2


def test_some_prompts_are_drawn_and_not_the_first_ones(model):
    """Those of one template, or of one order of names, stand side by side."""
    names, few = ["head 0.1", "mlp 1"], DescribeConfig(prompts=10, ablated=4, subsets=50)
    circuit, note = described(model, names, config=dataclasses.replace(CONFIG, describe=few))
    assert not note
    rows = np.sort(np.random.default_rng(0).permutation(20)[:4])
    assert rows.tolist() != [0, 1, 2, 3]
    places = [unit.places() for unit in circuit.units]
    masks = [Nodes.full(Space(2, 2, 6), True)]
    for own in places:
        kept = np.ones(16, bool)
        kept[own] = False
        masks.append(Nodes.from_flat(Space(2, 2, 6), kept))
    prompts = random_prompts()[rows]
    metric = np.asarray(behaviour(model, prompts, masks, ablation="counterfactual").metric)
    other = prompts.metric(forward(model, prompts.corrupted, read=prompts.reads).logits)
    expected = (metric[0] - metric[1:]).sum(1) / np.abs(metric[0] - np.asarray(other)).sum()
    found = [row.necessity for row in circuit.about]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).min() > 1e-3


def test_units_and_their_rivals_are_all_nodes_once(model):
    tree = units.tree(model)
    for names in (["layers 0-1"], ["attention 0", "neuron 1.5"], ["mlp 0", "mlp 1"], []):
        circuit = Circuit.of_units(tree, names, model="m", task="t")
        groups = rivals(circuit)
        assert sorted(np.concatenate(groups)) == list(range(16))
        for unit, places in zip(circuit.units, groups[len(groups) - len(names) :], strict=True):
            np.testing.assert_array_equal(places, unit.places())
    none = Circuit((), (), Space(1, 2, 0), model="m", task="t")
    assert [places.tolist() for places in rivals(none)] == [[0], [1]]


def test_a_prompt_that_comes_twice_counts_once(model):
    prompts = random_prompts()
    twice = prompts[np.repeat(np.arange(20), 2)]
    circuit = Circuit.of_units(units.tree(model), ["head 0.1", "mlp 1"], model="m", task="t")
    at = {"gradient": GRADIENT, "dictionary": neurons(model), "seed": 0}
    one, other = (certified(model, own, circuit, FEW, **at) for own in (prompts[:20], twice))
    assert one == other
    # So few that not even a unit that is always found has a radius of 1.
    few = prompts[np.repeat(np.arange(4), 9)]
    assert certified(model, few, circuit, FEW, **at) == [None, None]


def test_too_few_prompts_certify_nothing_and_say_the_rest(model):
    circuit, note = described(model, ["head 0.1"], prompts=random_prompts(6))
    assert not note
    (row,) = circuit.about
    assert row.radius is None
    assert abs(row.necessity) > 0.01


@pytest.mark.parametrize("kind", ["mixture", "choices"])
def test_mixtures_and_choices_are_described_too(kind):
    own, prompts = NOISY, random_prompts()
    if kind == "mixture":
        own = own.replace(experts=3, experts_per_token=1, mlp_bias=False)
    else:
        rng = np.random.default_rng(0)
        texts, others = rng.integers(0, 11, (2, 30, 2, 4)).tolist()
        rows = [[Choice(one, [*other[:3], one[3]], (3, 4), 2.0)
                 for one, other in zip(*pair, strict=True)]
                for pair in zip(texts, others, strict=True)]  # fmt: skip
        prompts = make_choices(rows, [0, 1] * 15, vocab_size=11)
    circuit, note = described(noisy(own), ["head 0.1", "neuron 0.2"], prompts=prompts)
    assert not note
    assert len(circuit.about) == 2
    assert any(abs(row.necessity) > 1e-3 for row in circuit.about)


def test_large_circuits_are_left_as_they_are(model):
    config = dataclasses.replace(CONFIG, describe=DescribeConfig(most=3))
    names = [f"neuron 0.{i}" for i in range(4)]
    circuit, note = described(model, names, config=config)
    assert circuit.about is None
    assert "4 of them; --describe.most is 3" in note


def refusing(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


def test_a_search_that_has_ended_does_not_fail(monkeypatch, tmp_path):
    """The circuit is kept without these columns, and the user is told so, also when it is read."""
    monkeypatch.setattr(describing, "described", refusing(InputError("tree", got="a bonsai")))
    model, own = make_copier(), make_task()
    judge = ValidateConfig(claims="core", ablations=("resample",), controls=3, draws=1)
    config = dataclasses.replace(EXTRACT, search="top", describe=FEW, judge=judge)
    result = extract(model, own, config, out=tmp_path)
    assert result.circuit.about is None
    assert "radius: tree: got a bonsai" in result.notes[-1]
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["note"] for line in lines if line["stage"] == "describe"] == [result.notes[-1]]
    folder = open_extraction(tmp_path, model, own, config)
    assert "metrics.jsonl" in run(run_staged, model, own, config, folder).note


def test_a_full_memory_leaves_the_columns_out_and_mistakes_are_not_hidden(monkeypatch, model):
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes")
    monkeypatch.setattr(describing, "described", refusing(full))
    circuit, note = described(model, ["head 0.1"])
    assert circuit.about is None
    assert "--gradient.batch-size" in note
    for error in (jax.errors.JaxRuntimeError("INTERNAL"), ZeroDivisionError("1 / 0")):
        monkeypatch.setattr(describing, "described", refusing(error))
        with pytest.raises(type(error)):
            described(model, ["head 0.1"])


def test_settings_may_change_where_the_circuit_is_chosen_again(tmp_path):
    model, own = make_copier(), make_task()
    config = dataclasses.replace(EXTRACT, search="top")
    run(run_staged, model, own, config, open_extraction(tmp_path, model, own, config))
    more = dataclasses.replace(config, describe=FEW)
    folder = open_extraction(tmp_path, model, own, more, begin="select")
    circuit = run(run_staged, model, own, more, folder).circuit
    assert circuit.about[0].role == "mover of the answer"
    assert circuit.config["describe"]["prompts"] == 20


@pytest.mark.parametrize(
    "wrong",
    [{"prompts": -1}, {"prompts": 1}, {"prompts": 1.5}, {"ablated": 1}, {"most": 0},
     {"subsets": 0}, {"kept": 0},
     {"threshold": 1.0}, {"alpha": 0.0}, {"subsets": 10**12}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DescribeConfig(**wrong)
    with pytest.raises(ConfigError, match="describe"):
        ExtractConfig(describe=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"task": None}, {"task": random_prompts()}, {"circuit": 3}, {"gradient": None},
     {"gradient": 3}, {"seed": -1}, {"seed": "a"}, {"seed": None}, {"seed": 2**70},
     {"config": DescribeConfig(prompts=0)}],
)  # fmt: skip
def test_other_arguments_are_refused_by_name(model, wrong):
    circuit = Circuit.of_units(units.tree(model), ["head 0.1"], model="m", task="t")
    given = {"task": make(random_prompts()), "circuit": circuit, **wrong}
    with pytest.raises(HagdError, match="prompts" if "config" in wrong else next(iter(wrong))):
        describe_units(model, **given)


def test_a_circuit_of_nothing_is_described(model):
    circuit, note = described(model, [])
    assert not note
    assert circuit.about == ()
