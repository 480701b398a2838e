"""Models whose units have known roles: they answer, and the units do what their roles say."""

import jax
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import mask_heads
from hagd_jax.models import forward
from hagd_jax.roles import ROLES
from hagd_jax.testbeds import PROGRAMS, role_case, role_program
from hagd_jax.testbeds.role_models import BEHAVIOURS
from hagd_jax.testbeds.sketch import STYLES


def metric(case, heads=None):
    """Mean metric, with the outputs of some heads at zero."""
    c, prompts = case.model.config, case.prompts
    mask = np.ones((c.n_layers, c.n_heads))
    for layer, head in heads or ():
        mask[layer, head] = 0
    zero = np.zeros((c.n_layers, 1, 1, 1, 1))
    at = forward(case.model, prompts.clean, mask_heads(mask, zero), read=prompts.reads).logits
    return float(np.mean(prompts.metric(at)))


def heads_of(case, *roles):
    named = (name for name, role in case.roles.items() if role in roles)
    return [tuple(map(int, name.split()[1].split("."))) for name in named if name[0] == "h"]


@pytest.mark.parametrize("style", STYLES)
def test_heads_do_what_their_roles_say_in_every_family(style):
    case = role_case("names", style, 1)
    prompts = case.prompts
    whole = metric(case)
    assert whole > 1
    assert metric(case, heads_of(case, "mover of the answer")) < 0.5 * whole
    # Norms that all heads share move, and what the duplicate head writes multiplies that.
    assert metric(case, heads_of(case, "inert", "first token")) == pytest.approx(whole, rel=0.15)
    if heads_of(case, "suppressor"):
        assert metric(case, heads_of(case, "suppressor")) > 1.1 * whole
    pattern = forward(case.model, prompts.clean, capture=["attn_pattern"]).trace["attn_pattern"]
    ((layer, head),) = heads_of(case, "mover of the answer")
    rows = np.arange(len(prompts))
    at = np.asarray(pattern)[layer, rows, head, prompts.position]
    there = prompts.clean == prompts.answer[:, None]
    assert (at * there).sum(-1).mean() > 0.8


def test_every_behaviour_has_roles_that_have_rules():
    found = {role for behaviour in BEHAVIOURS
             for role in role_case(behaviour, "plain", 0).roles.values()}  # fmt: skip
    assert found <= set(ROLES)
    assert len(found) >= 10


def test_a_seed_gives_the_same_model_and_another_one_another():
    one, same, other = (role_case("lookup", "plain", seed) for seed in (4, 4, 5))
    assert one.roles == same.roles
    for a, b in zip(
        jax.tree.leaves(one.model.params), jax.tree.leaves(same.model.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    table = "embed", "embedding"
    assert not np.allclose(
        one.model.params[table[0]][table[1]], other.model.params[table[0]][table[1]]
    )


@pytest.mark.parametrize(
    ("program", "roles"),
    [
        ("shift", {"head 0.0": "previous token"}),
        ("shift_two", {"head 0.0": "positional"}),
        ("first", {"head 0.0": "positional"}),
        ("hist", {"head 0.0": "duplicate token", "mlp 0": "writer of the answer"}),
        ("count_a", {"head 0.0": "token finder", "mlp 0": "writer of the answer"}),
        ("vowel", {"mlp 0": "token lookup"}),
        ("after_a", {"head 0.0": "previous token", "mlp 0": "writer of the answer"}),
        ("twice", {"head 0.0": "duplicate token", "mlp 0": "unnamed",
                   "mlp 1": "writer of the answer"}),
    ],
)  # fmt: skip
def test_roles_of_programs_are_what_a_reader_of_their_source_says(program, roles):
    assert role_program(PROGRAMS[program]).roles == roles


def test_roles_move_with_the_heads_of_a_hidden_program():
    case = role_program(PROGRAMS["shift"], seed=3)
    assert sorted(case.roles.values()) == ["inert", "inert", "previous token"]
    ((layer, head),) = heads_of(case, "previous token")
    pattern = np.asarray(
        forward(case.model, case.prompts.clean, capture=["attn_pattern"]).trace["attn_pattern"]
    )
    later = np.arange(2, pattern.shape[-1])
    assert pattern[layer, :, head, later, later - 1].min() > 0.99
    whole = metric(case)
    assert metric(case, heads_of(case, "inert")) == pytest.approx(whole, rel=1e-4)
    assert metric(case, heads_of(case, "previous token")) < 0.5 * whole


def test_what_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="behaviour"):
        role_case("names of things", "plain", 0)
    with pytest.raises(ConfigError, match="style"):
        role_case("names", "gpt5", 0)
    with pytest.raises(ConfigError, match="size"):
        role_case("names", "plain", 0, size="huge")
    with pytest.raises(InputError, match="seed"):
        role_case("names", "plain", -1)
    with pytest.raises(InputError, match="program"):
        role_program("shift")
