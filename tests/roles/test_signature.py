"""Signatures of a model whose parts are known: effects by brute force, tables, typed errors."""

import jax
import numpy as np
import pytest

from hagd_jax import roles, units
from hagd_jax.causal import Circuit
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import chain, freeze, mask_heads
from hagd_jax.models import forward
from hagd_jax.roles.effects import effects
from hagd_jax.testbeds import role_case


@pytest.fixture(scope="module")
def case():
    return role_case("names", "gpt2", 3)


@pytest.fixture(scope="module")
def found(case):
    return roles.signatures(case.model, case.prompts, list(case.roles))


def metric(case, *args):
    prompts = case.prompts
    return np.asarray(
        prompts.metric(forward(case.model, prompts.clean, *args, read=prompts.reads).logits)
    )


def head_named(case, role):
    name = next(name for name, own in case.roles.items() if own == role)
    return name, tuple(map(int, name.split()[1].split(".")))


def test_necessity_is_what_patching_the_head_loses(case, found):
    prompts = case.prompts
    other = forward(case.model, prompts.corrupted, capture=["head_out"]).trace["head_out"]
    clean = metric(case)
    change = clean - np.asarray(
        prompts.metric(forward(case.model, prompts.corrupted, read=prompts.reads).logits)
    )
    for i, role in enumerate(case.roles.values()):
        if role not in ("mover of the answer", "suppressor"):
            continue
        _, (layer, head) = head_named(case, role)
        mask = np.ones((len(other), case.model.config.n_heads))
        mask[layer, head] = 0
        lost = clean - metric(case, mask_heads(mask, other))
        expected = lost.sum() / abs(change).sum()
        assert found.column("necessity")[i] == pytest.approx(expected, abs=1e-4)
        assert abs(expected) > 0.05


def test_a_direct_effect_is_what_the_logits_lose_with_all_else_held(case, found):
    """The mover reads no other head, so to patch it with norms held changes the logits alone."""
    prompts = case.prompts
    name, (layer, head) = head_named(case, "mover of the answer")
    sites = ["head_out", "normf_scale", "mlp_out"]
    other = forward(case.model, prompts.corrupted, capture=["head_out"]).trace["head_out"]
    own = forward(case.model, prompts.clean, capture=sites).trace
    mask = np.ones((case.model.config.n_layers, case.model.config.n_heads))
    mask[layer, head] = 0
    held = freeze(own, ["normf_scale", "mlp_out"])
    lost = metric(case) - metric(case, chain(mask_heads(mask, other), held))
    change = metric(case) - np.asarray(
        prompts.metric(forward(case.model, prompts.corrupted, read=prompts.reads).logits)
    )
    index = list(case.roles).index(name)
    assert found.column("direct")[index] == pytest.approx(lost.sum() / abs(change).sum(), rel=2e-2)
    assert found.column("direct")[index] > 0.5


def test_shares_sum_to_one_and_columns_of_heads_are_unknown_elsewhere(case):
    tree = units.tree(case.model)
    every = [unit for layer in range(case.model.config.n_layers)
             for unit in (f"attention {layer}", f"mlp {layer}")]  # fmt: skip
    found = roles.signatures(case.model, case.prompts, every, tree=tree)
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()
    for prefix in ("to_", "at_"):
        own = [i for i, name in enumerate(roles.NAMES) if name.startswith(prefix)]
        sums = found.values[:, own].sum(1)
        assert set(sums.round(4)) <= {0.0, 1.0}
        assert 1.0 in sums.round(4)
    mlps = found.column("attention") == 0
    copies = roles.NAMES.index("copying")
    assert not found.known[mlps][:, copies].any()
    assert found.known[~mlps].all()


def test_effects_of_units_add_up_over_their_parts(case):
    """First-order effects are linear: a block's direct effect is the sum of its heads'."""
    space = units.neurons(case.model).space
    tree = units.tree(case.model)
    block = [tree.unit("attention 2")]
    heads = tree.leaves("attention 2")
    whole, parts = (
        effects(case.model, case.prompts, space, own, batch_size=16) for own in (block, heads)
    )
    assert whole.direct[0] == pytest.approx(parts.direct.sum(), rel=1e-4)
    assert abs(whole.direct[0]) > 0.1


def test_standardised_columns_have_mean_zero_where_they_are_known(found):
    standard = found.standardised()
    assert standard.standard
    mean, deviation = standard.values.mean(0), standard.values.std(0)
    varies = found.values.std(0) > 1e-6
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(deviation[varies], 1, atol=1e-4)
    assert varies.sum() > 10
    with pytest.raises(InputError, match="standardised ones"):
        roles.roles_of(standard)


def test_the_known_roles_of_a_model_are_found_and_printed(case, found):
    said = roles.roles_of(found)
    assert [role.name for role in said] == list(case.roles.values())
    text = str(said).splitlines()
    assert len(text) == len(case.roles)
    mover = list(case.roles.values()).index("mover of the answer")
    assert text[mover].startswith(f"{list(case.roles)[mover]}: mover of the answer (")
    assert said.of(next(iter(case.roles))) == said[0]
    with pytest.raises(InputError, match="one that has a role"):
        said.of("head 99.0")


def test_a_circuit_is_described_unit_by_unit(case, found):
    tree = units.tree(case.model)
    circuit = Circuit.of_units(tree, list(case.roles), model="m", task="t")
    rows = roles.described(case.model, case.prompts, circuit)
    by_name = {row.unit: row for row in rows}
    assert by_name.keys() == case.roles.keys()
    assert {name: row.role.name for name, row in by_name.items()} == case.roles
    assert max(row.necessity for row in rows) > 0.5


def test_the_seed_of_the_rows_is_explicit(case):
    name = head_named(case, "duplicate token")[0]
    same = [
        roles.signatures(case.model, case.prompts, [name], key=jax.random.key(key)).values
        for key in (1, 1, 2)
    ]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()


def test_bad_input_is_refused_before_anything_runs(case):
    def measure(*names, **more):
        return roles.signatures(case.model, case.prompts, list(names), **more)

    with pytest.raises(InputError, match="overlap"):
        measure("attention 0", "head 0.0")
    with pytest.raises(InputError, match="expected one of"):
        measure("head 99.0")
    with pytest.raises(InputError, match="got none; expected one or more"):
        measure()
    with pytest.raises(InputError, match="key"):
        measure("head 0.0", key=3)
    with pytest.raises(InputError, match="task"):
        roles.signatures(case.model, "names", ["head 0.0"])
    with pytest.raises(InputError, match="split"):
        roles.SignatureConfig(split="train")
    with pytest.raises(ConfigError, match="prompts"):
        roles.SignatureConfig(prompts=0)
    features = units.tree(case.model).__class__(units.Space(1, 1, 1), "neurons", 1)
    with pytest.raises(InputError, match="Signatures exist for heads and neurons"):
        measure("head 0.0", tree=features)
