import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hagd_jax import transcoders
from hagd_jax.causal import ABLATIONS, Ablation, behaviour
from hagd_jax.causal import ablation as ablation_module
from hagd_jax.causal.partners import partners
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward, init
from hagd_jax.parallel import make_mesh
from hagd_jax.tasks import logit_difference, make_prompts
from hagd_jax.transcoders import TranscoderConfig, replace_mlps
from hagd_jax.units import Nodes, as_dictionary, blocks, components
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
    """What each node of each prompt is set to, computed prompt by prompt, by the rule as stated."""
    tokens, length = partners(prompts, reference, seed=3)
    for i, (clean, corrupted, *_) in enumerate(rows(prompts)):
        n = len(clean)
        if ablation.startswith("mean"):
            yield reference_means(params, prompts, reference, i, ablation == "mean")
            continue
        if ablation == "resample":
            corrupted = tokens[i, : length[i]]
        _, seen = plain.forward(params, clean if ablation == "zero" else corrupted)
        # A position that the partner lacks reads its last token.
        places = np.minimum(np.arange(n), len(corrupted) - 1)
        factor = 0 if ablation == "zero" else 1
        yield {node: factor * value[places] for node, value in seen.items()}


def reference_means(params, prompts, reference, i, each):
    """Means without prompt i: of its group in the reference, of its group here, or of all."""
    mine, n = tuple(prompts.clean[i, : prompts.length[i]]), prompts.length[i]

    def others(pool, group):
        """Distinct prompts of a group, and whether each is this one."""
        kept = {
            tuple(clean): clean
            for k, (clean, *_) in enumerate(rows(pool))
            if group is None or pool.group is None or pool.group[k] == group
        }
        return [(key == mine, plain.forward(params, x)[1]) for key, x in kept.items()]

    group = None if prompts.group is None else prompts.group[i]
    near, own, far = others(reference, group), others(prompts, group), others(reference, None)
    means = {}
    for node in far[0][1]:
        whole = np.concatenate([seen[node] for own_, seen in far if not own_]).mean(0)

        def at(t, node=node, whole=whole):
            for pool in (near, own) if each else ():
                there = [(own_, seen[node][t]) for own_, seen in pool if len(seen[node]) > t]
                if len(there) >= 8:
                    return np.mean([x for own_, x in there if not own_], axis=0)
            return whole

        means[node] = np.stack([at(t) for t in range(n)])
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
    if not isinstance(ablation, Ablation):
        # The reference is shorter than the measured prompts, so that some positions have no token.
        ablation = Ablation(ablation, some_prompts(14, 2, longest=4), seed=3)
    options = {
        "candidates": CANDIDATES[ablation.kind],
        "ablation": ablation,
        # Seven prompts: the second batch is filled up.
        "batch_size": 4,
    }
    return behaviour(model, prompts, masks, **options | changes)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_against_editing_one_node_after_the_other(model, prompts, ablation):
    reference, masks = some_prompts(14, 2, longest=4), some_masks()
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
    reference = some_prompts(14, 2, longest=4)
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


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_many_masks_read_no_padding_and_say_the_same(model, ablation, monkeypatch):
    """Sixteen masks are run on batches as wide as their prompts, eight on whole ones."""
    prompts, masks, widths = some_prompts(13, 5), some_masks(16), []
    judge = ablation_module._judge
    monkeypatch.setattr(
        ablation_module, "_judge",
        lambda *given: widths.append(given[2].clean.shape[1]) or judge(*given),
    )  # fmt: skip
    many = measure(model, prompts, masks, ablation, with_model=True)
    assert len(set(widths)) > 1
    assert max(widths) == 6
    first = measure(model, prompts, masks[:8], ablation, with_model=True)
    rest = measure(model, prompts, masks[8:], ablation)
    assert set(widths[-8:]) == {6}
    assert np.std(many.metric, 1).min() > 0.1
    for name, found in many._asdict().items():
        both = np.concatenate([getattr(first, name), getattr(rest, name)])
        np.testing.assert_allclose(found, both, atol=1e-5)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_means_that_are_known_are_not_summed_again(model, prompts, ablation, monkeypatch):
    reference = some_prompts(14, 2, longest=4)
    known = Ablation(ablation, reference, seed=3).knowing(model, prompts, batch_size=4)
    assert (known.known is None) == (not ablation.startswith("mean"))
    expected = measure(model, prompts, some_masks(), ablation)
    other = some_prompts(7, 9)
    elsewhere = measure(model, other, some_masks(), ablation)
    assert_same(measure(model, other, some_masks(), known), elsewhere)
    # On other prompts, with other parts or another model they are of no use.
    mlps = [Nodes(mask.heads, mask.features[:, :1]) for mask in some_masks()]
    options = {"dictionary": blocks(model)}
    whole = measure(model, prompts, mlps, ablation, **options)
    assert_same(measure(model, prompts, mlps, known, **options), whole)
    monkeypatch.setattr(ablation_module, "reference_means", None)
    assert_same(measure(model, prompts, some_masks(), known), expected)


def test_known_means_are_those_of_the_same_parts(model, prompts):
    """Neurons of a model are made anew for every call; of other parts only the object itself is."""
    first, second = components(model), components(model)
    known = Ablation("mean").knowing(model, prompts, first).known
    assert known.of(model, prompts, first)
    assert not known.of(model, prompts, second)
    assert not known.of(model, prompts, as_dictionary(model, None))
    plain = Ablation("mean").knowing(model, prompts).known
    assert plain.of(model, prompts, as_dictionary(model, None))
    assert not plain.of(model, prompts, blocks(model))
    assert not plain.of(model, some_prompts(7, 1), as_dictionary(model, None))


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
    for ablation in ("mean", "mean_overall", "resample"):
        with pytest.raises(InputError, match="reference: got no prompt but the measured one"):
            behaviour(model, prompts[np.zeros(4, int)], [FULL], ablation=ablation)
