"""What results have seen: unions, digests of prompts and models, and what is refused."""

import dataclasses
import hashlib
import importlib
import json

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig
from hagd_jax.models.digest import digest
from hagd_jax.parallel import checksum, make_mesh
from hagd_jax.tasks import Choice, Seen, Task, Text, look, make_choices, make_prompts
from hagd_jax.tasks.seen import as_read, distinct, prompt_digests
from hagd_jax.units import Edges, Nodes, Scores, Selection, Space
from tests.models.noise import noisy, on_mesh

VOCAB = 50
CONFIG = DecoderConfig(vocab_size=VOCAB, n_layers=2, d_model=8, n_heads=4, d_mlp=16)
words = st.lists(st.sampled_from(["mean", "zero", "counterfactual"]), max_size=3)
hexes = st.lists(st.integers(0, 2**32 - 1).map("{:08x}".format), max_size=4)
seens = st.builds(
    Seen,
    st.booleans(),
    words,
    words,
    hexes,
    hexes,
    words,
    st.just(["m#01234567"]),
    st.just(["neurons"]),
)
rows = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6), min_size=1, max_size=6)


def prompts(clean, **options):
    other = [[(t + 1) % VOCAB for t in row] for row in clean]
    ones = [1] * len(clean)
    return make_prompts(clean, other, ones, [0] * len(clean), vocab_size=VOCAB, **options)


@settings(max_examples=60)
@given(seens, seens, seens)
def test_union_is_that_of_sets_and_unknown_stays(a, b, c):
    both = a | b
    assert both == b | a
    assert (a | b) | c == a | (b | c)
    assert a | a == a == a | Seen.nothing()
    assert set(both.prompts) == set(a.prompts) | set(b.prompts)
    assert set(both.ablations) == set(a.ablations) | set(b.ablations)
    assert not (a | Seen.unknown()).known
    assert both.known == (a.known and b.known)
    assert set(a.ablations) <= set((a | Seen.unknown()).ablations)
    assert hash(a | b) == hash(b | a)


@settings(max_examples=60)
@given(seens)
def test_files_give_it_back(seen):
    assert Seen.from_json(json.loads(json.dumps(seen.to_json()))) == seen
    assert "\n" not in repr(seen)
    assert ("unknown" in repr(seen)) == (not seen.known)


@settings(max_examples=60)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x, max_size=2)
                    | st.dictionaries(st.sampled_from(["known", "prompts", "x"]), x)))  # fmt: skip
def test_anything_else_in_a_file_is_refused(value):
    if value is None:
        assert Seen.from_json(value) == Seen.unknown()
        return
    with pytest.raises(InputError, match="seen"):
        Seen.from_json(value)


@pytest.mark.parametrize(
    "change",
    [{"known": 1}, {"ablations": "mean"}, {"splits": [1]}, {"prompts": ["xyz"]}, {"tasks": None},
     {"models": [""]}, {"prompts": ["0123456"]}, {"dictionaries": 3}],
)  # fmt: skip
def test_wrong_fields_are_refused(change):
    with pytest.raises(InputError, match=f"{next(iter(change))} of Seen"):
        Seen(**change)
    broken = Seen().to_json() | change
    with pytest.raises(InputError, match=next(iter(change))):
        Seen.from_json(broken)


@settings(max_examples=40)
@given(rows, st.integers(0, 5), st.integers(0, VOCAB - 1), st.sampled_from([np.int8, np.int64]))
def test_a_prompt_has_one_digest_whatever_it_is_padded_with(clean, more, pad, dtype):
    """Equal digests exactly where tokens are equal, by comparing lists of tokens."""
    made = prompts(clean, width=6 + more)
    padding = np.arange(6 + more) >= made.length[:, None]
    made = made.replace(clean=np.where(padding, pad, made.clean))
    found = prompt_digests(made)
    plain = make = [
        hashlib.blake2b(
            (8 * len(row)).to_bytes(8, "little") + b"".join(t.to_bytes(8, "little") for t in row),
            digest_size=4,
        ).hexdigest()
        for row in clean
    ]
    assert list(found) == plain == make
    other = made.replace(clean=made.clean.astype(dtype))
    assert prompt_digests(other) == found
    assert prompt_digests(made[::-1]) == found[::-1]
    for i, one in enumerate(clean):
        for j, two in enumerate(clean):
            assert (found[i] == found[j]) == (one == two)
    once = distinct(made)
    kept = [tuple(row[:n]) for row, n in zip(once.clean.tolist(), once.length, strict=True)]
    assert kept == list(dict.fromkeys(map(tuple, clean)))


def test_choices_have_one_digest_over_all_rows():
    def choice(*tokens):
        return Choice(list(tokens), [9, *tokens[1:]], (1, 2), 1.0)

    table = [[choice(1, 2), choice(1, 3, 4)], [choice(1, 3, 4), choice(1, 2)],
             [choice(1, 2), choice(1, 3, 5)]]  # fmt: skip
    found = prompt_digests(make_choices(table, [0, 1, 0], vocab_size=10, width=7))
    assert found[0] == found[1] != found[2]
    assert found == prompt_digests(make_choices(table, [1, 0, 1], vocab_size=10))


def test_what_a_task_was_looked_at_with():
    splits = {"discover": prompts([[1, 2], [3]]), "test": prompts([[3], [4, 5, 6]])}
    texts = {name: (Text("", "", "", "", ""),) * 2 for name in splits}
    task = Task("mine", "", splits, texts)
    model = noisy(CONFIG).replace(name="small")
    seen = task.look("discover", ablation=("mean", "zero"), model=model, dictionary="neurons")
    assert (seen.ablations, seen.splits) == (("mean", "zero"), ("discover",))
    assert (seen.tasks, seen.dictionaries) == (("mine",), ("neurons",))
    assert seen.models == (f"small#{digest(model)}",)
    # [3] stands in both splits.
    assert seen.has(splits["test"]).tolist() == [True, False]
    assert seen.has(splits["discover"]).all()
    with pytest.raises(InputError, match=r"'nowhere'; expected one of its splits, \['discover'"):
        task.look("nowhere")
    assert look() == Seen.nothing()


def test_models_are_told_apart_and_their_mesh_does_not_matter():
    model = noisy(CONFIG)
    own = digest(model)
    assert own == digest(model.replace(name="another"))
    for mesh in ("replica=8", "data=2,model=4"):
        assert digest(on_mesh(model, make_mesh(mesh))) == own
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    for name, array in flat.items():
        changed = np.array(array)
        changed.flat[-1] = np.nextafter(changed.flat[-1], 9)
        params = flax.traverse_util.unflatten_dict(flat | {name: changed}, sep="/")
        assert digest(model.replace(params=params)) != own, name
    assert digest(model.replace(config=CONFIG.replace(norm_eps=1e-3))) != own


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 2), (2, 1, 3, 2), (1, 2, 2, 2, 2)])
def test_numpy_and_xla_agree_on_checksums(shape, monkeypatch):
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape).astype(np.float32)
    found = checksum({"a": array})
    assert found == checksum({"a": jnp.asarray(array)})
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("hagd_jax.parallel.checksum"), "_SMALL", 0)
        assert checksum({"a": array}) == found
    assert 0 <= found < 2**32
    if array.size > 1:
        turned = np.roll(array.ravel(), 1).reshape(shape)
        assert checksum({"a": turned}) != found
    assert checksum({"a": array}, "x") != found != checksum({"b": array})


def test_scores_and_selections_carry_what_was_seen():
    seen, more = look(ablation="mean"), look(ablation="zero")
    nodes = Nodes.full(Space(2, 2, 3), 1.0)
    edges = Edges.existing(CONFIG)
    for scores in (Scores(nodes, seen), Scores(edges, seen)):
        again = scores.like(2 * scores.flat())
        assert again.seen == seen
        np.testing.assert_array_equal(again.flat(), 2 * scores.flat())
        assert scores.after(more).seen == seen | more
        assert again.space == scores.space
    chosen = Selection(nodes.like(np.arange(10) < 4), seen)
    assert (len(chosen), chosen.space) == (4, Space(2, 2, 3))
    assert chosen.like(np.arange(10) < 7).after(more).seen == seen | more
    assert repr(chosen) == "Selection(4 of 10, Seen(ablations mean; the rest unknown))"


def test_selections_join_with_what_both_have_seen():
    nodes = Nodes.full(Space(2, 2, 3), 1.0)
    one = Selection(nodes.like(np.arange(10) < 4), Seen(prompts=["00000001"]))
    two = Selection(nodes.like(np.arange(10) > 2), Seen(prompts=["00000002"]))
    for found, members in ((one | two, 10), (one & two, 1), (one - two, 3)):
        assert (len(found), found.seen) == (members, one.seen | two.seen)
    with pytest.raises(InputError, match="units"):
        one | Selection(Nodes.full(Space(2, 2, 4), True), Seen.nothing())


def test_ablations_without_prompts_are_not_all_that_was_seen():
    for part in (look(ablation="mean"), Seen(splits=["test"], tasks=["old"])):
        assert not part.known
        assert not (part | look(prompts([[1, 2]]), ablation="zero", split="discover")).known
    old = Seen(prompts=["00000001"]).to_json()
    del old["others"]
    assert not Seen.from_json(old).known


@settings(max_examples=40)
@given(rows, st.integers(0, VOCAB - 1))
def test_counterfactuals_and_what_follows_the_answer_were_seen(clean, token):
    few = prompts(clean)
    seen = look(few, ablation="mean")
    assert seen.has(dataclasses.replace(few, clean=few.corrupted)).all()
    at = [len(row) - 1 for row in clean]
    longer = prompts([[*row, token] for row in clean], position=at)
    assert seen.has(as_read(longer)).all()
    assert look(longer).has(few).all()
