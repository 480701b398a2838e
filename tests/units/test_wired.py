"""Units that read by their own edges, against NumPy in float64 and passes that exist already."""

import jax
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hagd_jax as hagd
from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig, abstract, forward
from hagd_jax.models.model import _forward
from hagd_jax.parallel import make_mesh
from hagd_jax.units import (
    WRITES,
    Edges,
    Nodes,
    UnitEdge,
    UnitEdges,
    frame_of,
    mask_edges,
    mask_nodes,
    neurons,
    wired,
)
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import GEMMA, LLAMA, NEOX, OLMO
from tests.units.test_edges import GPT2, PLAIN

CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "neox": NEOX, "gemma": GEMMA, "olmo": OLMO}


def clustered(model, seed=0, band=1):
    """A tree with three clusters in every MLP and two in every attention block."""
    layers, heads, features = neurons(model).space
    rng = np.random.default_rng(seed)
    labels = [rng.integers(2, size=layers * heads), rng.integers(3, size=layers * features)]
    return hagd.units.tree(model, clusters=[np.concatenate(labels)], band=band)


def units_of(tree, layer):
    return [*tree.children(f"attention {layer}"), *tree.children(f"mlp {layer}")]


def tokens_of(config, seed, rows=2):
    return np.random.default_rng(seed).integers(config.vocab_size, size=(2, rows, 5))


def kept(tree, units):
    flat = np.zeros(tree.space.nodes, bool)
    for unit in units:
        flat[unit.places()] = True
    return Nodes.from_flat(tree.space, flat)


@pytest.mark.parametrize("name", CONFIGS)
def test_with_all_edges_it_is_the_circuit_of_nodes(name):
    """A band, whole blocks and clusters; and with no edge at all it is the other prompt's pass."""
    config = CONFIGS[name]
    model = noisy(config, 0)
    tree = clustered(model)
    tokens, corrupted = tokens_of(config, 0)
    units = [tree.unit("layers 0-0"), *units_of(tree, 1)[::2]]
    if config.n_layers > 2:
        units.append(tree.unit("mlp 2"))
    parts = wired(model, frame_of(tree.space, units, config.parallel_residual))
    other = forward(model, corrupted, capture=parts.capture)
    found = forward(model, tokens, parts.mask(parts.space, parts.values(other.trace))).logits
    expected = forward(model, tokens, mask_nodes(kept(tree, units), other.trace)).logits
    assert np.abs(expected - forward(model, tokens).logits).max() > 0.05
    # The same sums in the same order; a hundred roundings of float32 at most.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    none = UnitEdges(np.zeros(parts.count, bool))
    shut = forward(model, tokens, parts.mask(none, parts.values(other.trace))).logits
    np.testing.assert_allclose(shut, other.logits, atol=2e-5)
    assert np.abs(shut - found).max() > 0.05


@pytest.mark.parametrize("config", [LLAMA, NEOX])
def test_with_all_units_and_all_edges_it_is_the_model(config):
    model = noisy(config, 1)
    tree = clustered(model)
    tokens, corrupted = tokens_of(config, 1)
    units = [unit for layer in range(config.n_layers) for unit in units_of(tree, layer)]
    parts = wired(model, frame_of(tree.space, units, config.parallel_residual))
    other = parts.values(forward(model, corrupted, capture=parts.capture).trace)
    found = forward(model, tokens, parts.mask(parts.space, other)).logits
    np.testing.assert_allclose(found, forward(model, tokens).logits, atol=1e-5)
    assert parts.count > 50


@pytest.mark.parametrize("seed", range(3))
def test_heads_and_whole_mlps_are_the_edges_between_components(seed):
    """What `mask_edges` cuts by another way, with readers in the place of the model's own."""
    config = GPT2.replace(attn_out_bias=False, n_layers=2)
    model = noisy(config, seed)
    tree = hagd.units.tree(model)
    names = [f"head {i}.{h}" for i in range(2) for h in range(2)] + ["mlp 0", "mlp 1"]
    frame = frame_of(tree.space, tree.antichain(names), False)
    rng = np.random.default_rng(seed)
    row = rng.random(len(frame)) < 0.5
    writer = {name: i for i, name in enumerate(["embed", *names])}
    mask = jax.tree.map(lambda there: np.zeros(there.shape, bool), Edges.existing(config))
    for edge in np.array(frame.edges, object)[row]:
        place = edge[1].split()[-1].split(".")
        where = () if edge[2] == "logits" else tuple(map(int, place))
        field = getattr(mask, {"logits": "final"}.get(edge[2], edge[2]))
        field[(*where, writer[edge[0]])] = True
    assert mask.count() == row.sum() < Edges.existing(config).count() == len(frame)
    tokens, corrupted = tokens_of(config, seed)
    other = forward(model, corrupted, capture=(*WRITES, "head_out", "neuron")).trace
    parts = wired(model, frame)
    found = forward(model, tokens, parts.mask(UnitEdges(row), parts.values(other))).logits
    expected = forward(model, tokens, mask_edges(config, mask, other)).logits
    assert np.abs(expected - forward(model, tokens).logits).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)


def by_hand(model, frame, mask, tokens, other):
    """Two layers without norms, one prompt, unit by unit, in float64."""
    c, p = model.config, jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)
    layers, heads, features = frame.space
    open_ = {edge for edge, is_open in zip(frame.edges, mask, strict=True) if is_open}
    embed = p["embed"]["embedding"][tokens] + p["positions"]["embedding"][: len(tokens)]
    written, ablated = {"embed": embed}, {"embed": np.asarray(other["embed"][0, 0], np.float64)}
    constant = np.zeros(c.d_model)
    members = {unit.name: set(unit.places().tolist()) for unit in frame.units}

    def read(name, port):
        total = constant.copy()
        for source in written:
            is_open = UnitEdge(source, name, port) in open_
            total = total + (written[source] if is_open else ablated[source])
        return total

    for layer in range(layers):
        block = jax.tree.map(lambda x, own=layer: x[own], p["blocks"])
        new, attn, mlp, shut = {}, block["attn"], block["mlp"], np.zeros(c.d_model)
        alt = np.asarray(other["head_out"][layer, 0], np.float64)
        for h in range(heads):
            owner = next((n for n, m in members.items() if layer * heads + h in m), None)
            write = alt[:, h] @ attn["o"]["kernel"][h]
            if owner is None:
                shut = shut + write  # which heads of its own layer do not read
                continue
            ablated[owner] = ablated.get(owner, 0) + write
            q, k, v = (read(owner, n) @ attn[n]["kernel"][:, h] + attn[n]["bias"][h] for n in "qkv")
            weights = np.exp(q @ k.T / np.sqrt(c.d_head))
            pattern = weights / weights.sum(-1, keepdims=True)
            new[owner] = new.get(owner, 0) + pattern @ v @ attn["o"]["kernel"][h]
        written |= new
        constant = constant + shut + attn["o"]["bias"]
        alt = np.asarray(other["neuron"][layer, 0], np.float64)
        new, begin = {}, layers * heads + layer * features
        taken = np.zeros(features, bool)
        for name, held in members.items():
            own = [place - begin for place in held if 0 <= place - begin < features]
            if own:
                pre = read(name, "mlp") @ mlp["in"]["kernel"] + mlp["in"]["bias"]
                rows = mlp["out"]["kernel"][own]
                new[name] = np.maximum(pre, 0)[:, own] @ rows
                ablated[name] = alt[:, own] @ rows
                taken[own] = True
        written |= new
        constant = constant + alt[:, ~taken] @ mlp["out"]["kernel"][~taken] + mlp["out"]["bias"]
    return read("logits", "logits") @ p["unembed"]["kernel"]


@pytest.mark.parametrize("seed", range(5))
def test_readers_see_what_their_edges_say(seed):
    model = noisy(PLAIN, seed)
    tree = clustered(model, seed)
    units = [unit for layer in range(2) for unit in units_of(tree, layer)]
    rng = np.random.default_rng(seed)
    units = [units[i] for i in rng.permutation(len(units))[:7]]
    frame = frame_of(tree.space, units, False)
    tokens, corrupted = tokens_of(PLAIN, seed, rows=1)
    parts = wired(model, frame)
    other = parts.values(forward(model, corrupted, capture=parts.capture).trace)
    row = rng.random(len(frame)) < 0.6
    found = forward(model, tokens, parts.mask(UnitEdges(row), other)).logits[0]
    expected = by_hand(model, frame, row, tokens[0], other)
    assert np.abs(found - forward(model, tokens).logits[0]).max() > 0.05
    # Sums of some dozens of float32 terms of order one.
    np.testing.assert_allclose(found, expected, atol=3e-5)
    # Path patching: one edge closed alone.
    place = int(rng.integers(len(frame)))
    alone = np.arange(len(frame)) != place
    found = forward(model, tokens, parts.mask(UnitEdges(alone), other)).logits[0]
    np.testing.assert_allclose(found, by_hand(model, frame, alone, tokens[0], other), atol=3e-5)


def test_masks_are_data_and_a_mesh_changes_nothing():
    model = noisy(LLAMA, 2)
    tree = clustered(model)
    frame = frame_of(tree.space, [*units_of(tree, 0)[1:], *units_of(tree, 2)], False)
    tokens, corrupted = tokens_of(LLAMA, 2, rows=4)
    parts, rows, programs = wired(model, frame), [], []
    other = parts.values(forward(model, corrupted, capture=parts.capture).trace)
    for seed in range(4):
        row = np.random.default_rng(seed).random(len(frame)) < 0.7
        rows.append(forward(model, tokens, parts.mask(UnitEdges(row), other)).logits)
        programs.append(_forward._cache_size())
    assert len(set(programs)) == 1
    assert np.abs(rows[0] - rows[1]).max() > 0.01
    spread = on_mesh(model, make_mesh("data=4,model=2"))
    there = wired(spread, frame)
    found = forward(spread, tokens, there.mask(UnitEdges(row), other)).logits
    np.testing.assert_allclose(found, rows[-1], atol=1e-5)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.booleans())
def test_edges_go_upwards_only(seed, parallel):
    """One unit can read another if all leaves of the other have written before it reads."""
    rng = np.random.default_rng(seed)
    config = DecoderConfig(vocab_size=9, n_layers=4, d_model=8, n_heads=2, d_mlp=6,
                           parallel_residual=parallel)  # fmt: skip
    tree = clustered(abstract(config), seed, band=2)
    units = list(tree.roots)
    for _ in range(rng.integers(0, 7)):
        inner = [unit for unit in units if not unit.leaf]
        units = list(tree.opened(units, inner[rng.integers(len(inner))]))
    units = [units[i] for i in rng.permutation(len(units))[: rng.integers(1, 12)]]
    frame = frame_of(tree.space, units, parallel)
    layers, heads, features = tree.space
    start = layers * heads

    def times(place):
        """When a leaf reads, and when it has written."""
        if place < start:
            return 2 * (place // heads), 2 * (place // heads) + 1
        layer = (place - start) // features
        return 2 * layer + (not parallel), 2 * layer + 2

    pairs = {(edge.source, edge.reader) for edge in frame.edges}
    for one in units:
        for other in units:
            last = max(times(place)[1] for place in one.places().tolist())
            first = min(times(place)[0] for place in other.places().tolist())
            assert ((one.name, other.name) in pairs) == (last <= first)
    graph = networkx.DiGraph(pairs)
    assert networkx.is_directed_acyclic_graph(graph)
    assert len(frame) == len(frame.places)
    assert set(graph.predecessors("logits")) == {"embed", *(unit.name for unit in units)}


def test_what_does_not_fit_is_refused():
    model = noisy(PLAIN, 0)
    tree = hagd.units.tree(model)
    units = tree.antichain(["head 0.0", "mlp 1"])
    frame = frame_of(tree.space, units, False)
    parts = wired(model, frame)
    with pytest.raises(InputError, match="overlap"):
        frame_of(tree.space, [tree.unit("mlp 0"), tree.unit("neuron 0.1")], False)
    with pytest.raises(InputError, match="1 to 512"):
        frame_of(tree.space, [], False)
    with pytest.raises(InputError, match="parallel blocks"):
        wired(noisy(GPT2, 0), frame)
    mixture = LLAMA.replace(experts=4, experts_per_token=2)
    with pytest.raises(InputError, match="4 experts a layer"):
        wired(abstract(mixture), frame)
    with pytest.raises(InputError, match="mask of edges"):
        parts.mask(UnitEdges(np.ones(3, bool)), {s: np.zeros((2, 1, 1)) for s in parts.capture})
    other = parts.values(forward(model, [[1, 2, 3]], capture=parts.capture).trace)
    with pytest.raises(InputError, match="alternative of neuron"):
        forward(model, [[1, 2, 3]], parts.mask(parts.space, other | {"neuron": other["head_out"]}))
    with pytest.raises(InputError, match="values of edges"):
        parts.space.like(np.zeros(2))
