"""Portraits of real models: what is measured, against patching by hand; and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import hagd_jax as hagd
from hagd_jax.causal import Ablation, Circuit, Node, behaviour
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import DecoderConfig, init
from hagd_jax.parallel import make_mesh
from hagd_jax.testbeds import role_case
from hagd_jax.transfer import PortraitConfig, match, population, portrait
from hagd_jax.transfer.structure import edge_shares
from hagd_jax.units import UnitEdges, frame_of, neurons, wired
from tests.models.noise import on_mesh

CONFIG = PortraitConfig(prompts=32, batch_size=32)
IDLE = ("inert", "first token")


@pytest.fixture(scope="module")
def case():
    return role_case("names", "plain", 0)


@pytest.fixture(scope="module")
def units(case):
    return [name for name, role in case.roles.items() if role not in IDLE]


def test_the_same_algorithm_in_another_body_is_matched_unit_by_unit(case, units):
    other = role_case("names", "gpt2", 0)
    theirs = [name for name, role in other.roles.items() if role not in IDLE]
    found = match(portrait(case.model, case.prompts, units, CONFIG),
                  portrait(other.model, other.prompts, theirs, CONFIG))  # fmt: skip
    assert found.similarity > 0.8
    for name, partner, _ in found.partners():
        assert case.roles[name] == other.roles[partner]
    assert [name for name, *_ in found.partners()] == units != theirs


def test_shares_are_those_of_edges_closed_by_hand(case, units):
    model, prompts = case.model, case.prompts[:32]
    tree = hagd.units.tree(model)
    chosen = tuple(tree.unit(name) for name in units[::-1])
    found = edge_shares(model, prompts, chosen, CONFIG)
    frame = frame_of(neurons(model).space, chosen, False)
    parts, effect = wired(model, frame), {}
    for kind in CONFIG.ablations:
        how = {"ablation": Ablation(kind, prompts), "dictionary": parts, "batch_size": 32}
        whole = behaviour(model, prompts, [UnitEdges(np.ones(len(frame), bool))], **how).metric[0]
        for source, reader in {edge[:2] for edge in frame.edges}:
            row = np.array([edge[:2] != (source, reader) for edge in frame.edges])
            closed = behaviour(model, prompts, [UnitEdges(row)], **how).metric[0]
            own = effect.setdefault(reader, {})
            own[source] = own.get(source, 0.0) + float(np.abs(closed - whole).mean())
    names = ["embed", *(unit.name for unit in chosen), "logits"]
    assert found.sum() > len(units)
    for r, reader in enumerate(names):
        total = sum(effect.get(reader, {}).values())
        assert found[:, r].sum() == pytest.approx(1 if total > 1e-3 else 0, abs=1e-6)
        for s, source in enumerate(names):
            part = effect.get(reader, {}).get(source, 0.0)
            if total > 1e-3:
                assert found[s, r] == pytest.approx(part / total, abs=1e-4)
    with pytest.raises(
        InputError, match=r"at most 3 pairs\. Allow as many \(--portrait.edges 14\)"
    ):
        edge_shares(model, prompts, chosen, dataclasses.replace(CONFIG, edges=3))


def test_values_are_deviations_from_the_models_own_units(case, units):
    among = population(case.model, case.prompts, CONFIG)
    assert among.size == 15
    every = [f"head {layer}.{head}" for layer in range(3) for head in range(4)]
    config = dataclasses.replace(CONFIG, edges=0)
    found = portrait(case.model, case.prompts, every, config, among=among)
    assert found.shares is None
    assert repr(found).endswith("without structure)")
    previous = hagd.roles.NAMES.index("previous")
    # Heads alone know this column, so over all of them it has mean 0 and deviation 1 (but for what
    # is further than three deviations).
    column = found.values[:, previous]
    raw = hagd.roles.signatures(
        case.model, case.prompts, every, hagd.roles.SignatureConfig(prompts=32, batch_size=32)
    ).column("previous")
    expected = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(column, np.clip(expected, -3, 3), atol=1e-4)
    assert np.abs(found.values).max() <= 3
    some = population(case.model, case.prompts, dataclasses.replace(CONFIG, population=4))
    assert some.size == 4


@pytest.mark.parametrize("mesh", ["data=4,model=2", "data=8"])
def test_devices_do_not_matter(case, units, mesh):
    expected = portrait(case.model, case.prompts, units, CONFIG)
    found = portrait(on_mesh(case.model, make_mesh(mesh)), case.prompts, units, CONFIG)
    assert found.units == expected.units
    assert np.abs(expected.values).max() > 1
    # Signatures are float32 sums over prompts and layers, in units of their deviation.
    np.testing.assert_allclose(found.values, expected.values, atol=1e-4)
    np.testing.assert_allclose(found.shares, expected.shares, atol=1e-4)
    assert match(expected, found).similarity == pytest.approx(1, abs=1e-4)


def test_what_has_no_portrait_is_refused(case):
    model, prompts = case.model, case.prompts
    space = tuple(neurons(model).space)
    circuit = Circuit((Node("head", 0, 1),), (1.0,), space, model=model.name, task="t")
    with pytest.raises(InputError, match="split by the spans a, b"):
        portrait(model, prompts, circuit.by_span(["a", "b"]), CONFIG)
    other = Circuit((Node("head", 0, 1),), (1.0,), (2, 3, 4), model=model.name, task="t")
    with pytest.raises(InputError, match="layers"):
        portrait(model, prompts, other, CONFIG)
    features = dataclasses.replace(circuit, dictionary="coder#1a2b3c4d")
    with pytest.raises(InputError, match="coder"):
        portrait(model, prompts, features, CONFIG)
    with pytest.raises(InputError, match="none"):
        portrait(model, prompts, [], CONFIG)
    with pytest.raises(InputError, match=r"head 9\.9"):
        portrait(model, prompts, ["head 9.9"], CONFIG)
    with pytest.raises(InputError, match="among"):
        portrait(model, prompts, circuit, CONFIG, among=1.0)
    config = DecoderConfig(
        vocab_size=model.config.vocab_size, n_layers=1, d_model=8, n_heads=2, d_mlp=8, experts=2,
        experts_per_token=1, mlp_bias=False, gated_mlp=True, activation="silu",
    )  # fmt: skip
    mixture = init(config, jax.random.key(0))
    with pytest.raises(InputError, match="experts"):
        portrait(mixture, prompts, ["head 0.0"], CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [{"prompts": 0}, {"population": 1}, {"edges": -1}, {"ablations": ()}, {"ablations": ("no",)},
     {"seed": -1}, {"rows": True}, {"batch_size": 0}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PortraitConfig(**wrong)
    with pytest.raises(InputError, match="split"):
        PortraitConfig(split="train")
