import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hagd_jax import transcoders
from hagd_jax.causal import ABLATIONS, behaviour
from hagd_jax.causal.ablation import partners
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward, init
from hagd_jax.parallel import make_mesh
from hagd_jax.tasks import logit_difference, make_prompts
from hagd_jax.transcoders import TranscoderConfig, replace_mlps
from hagd_jax.units import Nodes, as_dictionary, blocks
from tests.causal import plain
from tests.causal.plain import CONFIG, SPACE

# Both ways of being right, with two ablations each.
CANDIDATES = {"zero": None, "mean": tuple(range(6)), "resample": None}
CANDIDATES["counterfactual"] = CANDIDATES["mean_overall"] = CANDIDATES["mean"]
FULL, EMPTY = Nodes.full(SPACE, True), Nodes.full(SPACE, False)


def some_prompts(count, seed, longest=6):
    """Prompts of two to `longest` tokens whose answers are read at various places."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    draw = [[rng.integers(0, 11, n).tolist() for n in lengths] for _ in range(2)]
    answers = [rng.permutation(6)[:2] for _ in range(count)]
    return make_prompts(
        *draw,
        [int(a) for a, _ in answers],
        [int(b) for _, b in answers],
        vocab_size=11,
        position=[int(rng.integers(1, n)) for n in lengths],
    )


def some_masks(count=3, seed=0):
    rng = np.random.default_rng(seed)
    return [Nodes(rng.random((2, 2)) < 0.5, rng.random((2, 6)) < 0.5) for _ in range(count)]


@pytest.fixture(scope="module")
def model():
    """A model whose biases and norms are no neutral elements."""
    made = init(CONFIG, jax.random.key(0))
    leaves, tree = jax.tree.flatten(made.params)
    rng = np.random.default_rng(0)
    noisy = [x + 0.3 * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return made.replace(params=jax.tree.unflatten(tree, noisy))


@pytest.fixture(scope="module")
def prompts():
    return some_prompts(7, 1)


def rows(prompts):
    """(clean, corrupted, position, answer, distractor) of each prompt, without its padding."""
    for i, n in enumerate(prompts.length):
        yield (
            prompts.clean[i, :n],
            prompts.corrupted[i, :n],
            prompts.position[i],
            prompts.answer[i],
            prompts.distractor[i],
        )


def stand_ins(params, prompts, reference, ablation):
    """What each node of each prompt is set to, computed prompt by prompt."""
    if ablation.startswith("mean"):
        means = reference_means(params, reference, prompts.clean.shape[1], ablation == "mean")
    for i, (clean, corrupted, *_) in enumerate(rows(prompts)):
        n = len(clean)
        if ablation == "resample":
            # A partner shorter than this prompt is read with its padding.
            corrupted = prompts.clean[partners(prompts.length, 3)[i], :n]
        _, seen = plain.forward(params, clean if ablation == "zero" else corrupted)
        if ablation == "zero":
            yield {node: 0 * value for node, value in seen.items()}
        elif ablation.startswith("mean"):
            yield {node: means[node][:n] for node in seen}
        else:
            yield seen


def reference_means(params, reference, width, each):
    seen = [plain.forward(params, clean)[1] for clean, *_ in rows(reference)]
    means = {}
    for node in seen[0]:
        everything = np.concatenate([one[node][:width] for one in seen])
        means[node] = np.stack(
            [
                np.mean([one[node][t] for one in seen if len(one[node]) > t], axis=0)
                if each and any(len(one[node]) > t for one in seen)
                else everything.mean(0)
                for t in range(width)
            ]
        )
    return means


def one_by_one(params, prompts, masks, reference, ablation, candidates):
    """`behaviour` again: each ablated node is replaced by hand, in float64."""
    out = np.zeros((4, len(masks), len(prompts)))
    others = list(stand_ins(params, prompts, reference, ablation))
    for i, (clean, _, position, answer, distractor) in enumerate(rows(prompts)):
        target = plain.log_softmax(plain.forward(params, clean)[0][position])
        for k, mask in enumerate(masks):
            edits = [(*node, value) for node, value in others[i].items() if not kept(mask, *node)]
            logits = plain.forward(params, clean, edits)[0][position]
            rivals = [c for c in candidates or (distractor,) if c != answer]
            found = plain.log_softmax(logits)
            out[:, k, i] = (
                logits[answer] - logits[distractor],
                logits[answer] > max(logits[c] for c in rivals),
                np.sum(np.exp(target) * (target - found)),
                found.argmax() == target.argmax(),
            )
    return out


def kept(mask, kind, *place):
    """Whether a circuit has a node; nodes of other dictionaries stay."""
    if kind == "head":
        return mask.heads[place]
    own = {"neuron": CONFIG.d_mlp, "mlp": 1}[kind] == mask.features.shape[1]
    return mask.features[place] if own else True


def measure(model, prompts, masks, ablation, **changes):
    """`behaviour` with three masks of the same shapes everywhere: compiled once an ablation."""
    options = {
        "candidates": CANDIDATES[ablation],
        # Shorter than the measured prompts, so that some positions have no reference token.
        "reference": some_prompts(5, 2, longest=4),
        # Seven prompts: the second batch is filled up.
        "batch_size": 4,
        "seed": 3,
    }
    return behaviour(model, prompts, masks, ablation=ablation, **options | changes)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_against_editing_one_node_after_the_other(model, prompts, ablation):
    reference, masks = some_prompts(5, 2, longest=4), some_masks()
    found = measure(model, prompts, masks, ablation)
    assert prompts.clean.shape[1] > reference.clean.shape[1]
    expected = one_by_one(model.params, prompts, masks, reference, ablation, CANDIDATES[ablation])
    assert np.abs(expected[0]).min() > 1e-3
    assert expected[2].max() > 0.1
    for name, want in zip(found._fields, expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), want, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_whole_mlps_as_nodes(model, prompts, ablation):
    rng = np.random.default_rng(1)
    masks = [Nodes(rng.random((2, 2)) < 0.5, rng.random((2, 1)) < 0.5) for _ in range(3)]
    reference = some_prompts(5, 2, longest=4)
    found = measure(model, prompts, masks, ablation, dictionary=blocks(model))
    expected = one_by_one(model.params, prompts, masks, reference, ablation, CANDIDATES[ablation])
    assert expected[2].max() > 0.1
    for name, want in zip(found._fields, expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), want, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("window", [0, 1])
def test_without_errors_all_features_are_the_replacement_model(model, prompts, window):
    config = TranscoderConfig(n_layers=2, d_model=8, n_features=12, k=4, window=window)
    transcoder = transcoders.init(config, jax.random.key(1))
    parts = as_dictionary(model, transcoder, keep_error=False)
    full = Nodes.full(parts.space, True)
    found = measure(model, prompts, [full], "mean", dictionary=parts, with_model=True)
    model_row = logit_difference(forward(model, prompts.clean).logits, prompts)
    replaced = forward(model, prompts.clean, replace_mlps(transcoder)).logits
    np.testing.assert_allclose(found.metric[0], model_row, atol=1e-5)
    np.testing.assert_allclose(found.metric[1], logit_difference(replaced, prompts), atol=1e-5)
    assert found.kl[0].max() == 0
    assert np.abs(found.metric[0] - found.metric[1]).max() > 0.1
    kept_errors = as_dictionary(model, transcoder)
    same = measure(model, prompts, [full], "mean", dictionary=kept_errors)
    np.testing.assert_allclose(same.metric[0], model_row, atol=1e-5)
    assert parts.label != kept_errors.label


@pytest.mark.as_users
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_full_circuit_is_the_model_bit_for_bit(model, prompts, ablation):
    found = measure(model, prompts, [FULL, *some_masks(2)], ablation)
    ends = (prompts[:4], prompts[np.array([4, 5, 6, 6])])
    first, second = (np.asarray(direct(model.bare(), batch)) for batch in ends)
    assert found.metric[0].tolist() == [*first, *second[:3]]
    assert found.kl[0].tolist() == [0.0] * 7
    assert found.match[0].all()


@jax.jit
def direct(model, prompts):
    return logit_difference(forward(model, prompts.clean).logits, prompts)


def test_means_and_partners_are_of_the_same_group(model, prompts):
    """Groups of six and four prompts have means of their own; two single prompts have all's."""
    rng = np.random.default_rng(4)
    length = 4
    rows = [rng.integers(0, 11, (12, length)).tolist() for _ in range(2)]
    group = np.array([0, 1, 0, 2, 0, 0, 0, 3, 0, 2, 2, 2])
    made = make_prompts(*rows, [1] * 12, [2] * 12, vocab_size=11, group=group.tolist())
    np.testing.assert_array_equal(made.group, [0, 1, 0, 2, 0, 0, 0, 3, 0, 2, 2, 2])
    found = measure(model, made, some_masks(), "mean", candidates=None, reference=None)
    for i in range(12):
        alone = group[i] in (1, 3)
        same = made if alone else made[group == group[i]]
        means = reference_means(model.params, same, length, True)
        clean, _, position, answer, distractor = next(rows_of(made, i))
        for k, mask in enumerate(some_masks()):
            _, seen = plain.forward(model.params, clean)
            edits = [(*node, means[node]) for node in seen if not kept(mask, *node)]
            logits = plain.forward(model.params, clean, edits)[0][position]
            want = logits[answer] - logits[distractor]
            np.testing.assert_allclose(found.metric[k, i], want, atol=2e-4)
    other = partners(made.length, 0, made.group)
    alike = group[other] == group
    assert alike[np.isin(group, (0, 2))].all()
    assert (other != np.arange(12)).all()


def rows_of(prompts, i):
    return rows(prompts[np.array([i])])


def test_the_empty_circuit_is_what_replaces_it(model, prompts):
    """All nodes counterfactual: of the clean prompt, only the token at the end is still read."""
    corrupted = prompts.corrupted.copy()
    at = np.arange(len(prompts)), prompts.position
    corrupted[at] = prompts.clean[at]
    matched = prompts.replace(corrupted=corrupted)
    found = measure(model, matched, [EMPTY, *some_masks(2)], "counterfactual")
    replaced = np.asarray(logit_difference(forward(model, corrupted).logits, matched))
    clean = np.asarray(logit_difference(forward(model, prompts.clean).logits, prompts))
    np.testing.assert_allclose(found.metric[0], replaced, atol=1e-5)
    assert np.abs(replaced - clean).max() > 0.1


def assert_same(found, expected):
    assert np.abs(expected.metric).max() > 0.1
    np.testing.assert_allclose(found.metric, expected.metric, atol=1e-5)
    np.testing.assert_allclose(found.kl, expected.kl, atol=1e-5)
    assert (found.correct == expected.correct).all()
    assert found.metric.shape == expected.metric.shape == (3, 7)


def test_batches_and_their_filling_change_nothing(model, prompts):
    whole = measure(model, prompts, some_masks(), "resample", batch_size=64)
    assert_same(measure(model, prompts, some_masks(), "resample"), whole)


def test_padding_of_the_prompts_changes_nothing(model, prompts):
    room = ((0, 0), (0, 2))
    wide = prompts.replace(
        clean=np.pad(prompts.clean, room), corrupted=np.pad(prompts.corrupted, room)
    )
    found = measure(model, wide, some_masks(), "mean")
    assert_same(found, measure(model, prompts, some_masks(), "mean"))


def test_eight_devices_agree_with_one(model, prompts):
    """Neither the seven prompts nor the five references divide the mesh."""
    mesh = make_mesh("data=8")
    spread = model.replace(params=jax.device_put(model.params, NamedSharding(mesh, P())), mesh=mesh)
    found = measure(spread, prompts, some_masks(), "mean")
    assert_same(found, measure(model, prompts, some_masks(), "mean"))


def test_bad_requests(model, prompts):
    with pytest.raises(ConfigError, match="'knockout'; expected one of"):
        behaviour(model, prompts, [FULL], ablation="knockout")
    with pytest.raises(InputError, match="masks"):
        behaviour(model, prompts, [], ablation="zero")
    with pytest.raises(InputError, match="reference"):
        behaviour(model, prompts, [FULL], ablation="mean")
    with pytest.raises(InputError, match="at least two"):
        behaviour(model, prompts[:1], [FULL], ablation="resample")


@given(st.lists(st.integers(1, 6), min_size=2, max_size=30), st.integers(0, 5))
def test_partners(lengths, seed):
    lengths = np.array(lengths)
    partner = partners(lengths, seed)
    everyone = np.arange(len(lengths))
    assert sorted(partner) == everyone.tolist()
    assert (partner != everyone).all()
    # Whoever has somebody of its own length gets one, but for one who helps out a loner.
    shared = np.array([(lengths == n).sum() > 1 for n in lengths])
    helped = (lengths[partner] != lengths) & shared
    loners = (~shared).sum()
    assert helped.sum() == (1 if loners == 1 else 0)


def test_loners_are_paired_in_order_of_length():
    lengths = np.array([40, 2, 9, 3])
    assert lengths[partners(lengths, 0)].tolist() == [2, 3, 40, 9]
    # The only one of its length takes the partner of the next shorter prompt.
    lengths = np.array([3, 3, 9, 9, 8])
    assert lengths[partners(lengths, 0)[4]] == 3


def test_partners_depend_on_the_seed():
    lengths = np.full(20, 5)
    assert (partners(lengths, 0) == partners(lengths, 0)).all()
    assert (partners(lengths, 0) != partners(lengths, 1)).any()
