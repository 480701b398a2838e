"""ACDC against the algorithm in float64 NumPy, and against known circuits."""

import jax
import networkx as nx
import numpy as np
import pytest

from hagd_jax.baselines import acdc, edges_backwards
from hagd_jax.causal import named_edges
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.search import measured_losses
from hagd_jax.testbeds import (
    PROGRAMS,
    compile_program,
    compiled_prompts,
    hand_built,
    necessary_edges,
    program_edges,
    true_edges,
)
from hagd_jax.units import Edges, components
from tests.causal.edges_plain import GROUPED, Plain, some
from tests.models.test_decoder import NEOX

CASES = {case.name: case for case in hand_built()}


def by_name(name):
    """`head 1.0` → (layer, its place in the layer), as the forward pass goes."""
    kind, _, place = name.partition(" ")
    if not place:
        return (-1, 0) if kind == "embed" else (99, 0)
    layer, _, head = place.partition(".")
    return (int(layer), 10**3) if kind == "mlp" else (int(layer), int(head))


def brute(model, prompts, tau, loss_of):
    """The algorithm as it is written in the paper; no edge is dropped unseen."""
    c = model.config
    there = Edges.existing(c)
    names = named_edges(c, there)
    order = {name: i for i, name in enumerate(("q", "k", "v", "mlp", "logits"))}
    names.sort(key=lambda e: (by_name(e.reader)[0], order[e.input], by_name(e.reader)[1],
                              by_name(e.writer)), reverse=True)  # fmt: skip
    kept = jax.tree.map(np.array, there)
    now, steps = loss_of(kept), []
    for edge in names:
        layer, place = by_name(edge.writer)
        writer = 1 + layer * c.n_heads + place
        if edge.writer == "embed":
            writer = 0
        elif edge.writer.startswith("mlp"):
            writer = 1 + c.n_layers * c.n_heads + layer
        where = [int(x) for x in edge.reader.partition(" ")[2].split(".") if x]
        row = getattr(kept, {"logits": "final"}.get(edge.input, edge.input))
        row[(*where, writer)] = False
        found = loss_of(kept)
        steps.append(found - now)
        if found - now < tau:
            now = found
        else:
            row[(*where, writer)] = True
    return kept, now, np.array(steps)


@pytest.mark.parametrize(("metric", "tau"), [("kl", 0.0031), ("kl", 0.047),
                                             ("logit_difference", 0.011)])  # fmt: skip
def test_it_is_the_published_algorithm_where_heads_share_keys(metric, tau):
    model, prompts = some(count=3, seed=1)
    plain = Plain(model, prompts)
    loss_of = plain.kl if metric == "kl" else lambda keep: -plain.metric(keep)
    expected, loss, steps = brute(model, prompts, tau, loss_of)
    # No decision hangs on rounding: float32 losses are right to about 1e-6.
    assert np.abs(steps - tau).min() > 2e-5
    (found,) = acdc(model, prompts, [tau], metric=metric, batch_size=2)
    np.testing.assert_array_equal(found.circuit.flat(), expected.flat())
    total = int(Edges.existing(GROUPED).count())
    assert 5 < len(found.circuit) < total - 5
    assert found.loss == pytest.approx(loss, abs=1e-4)
    assert len(found.circuit) < found.evaluations <= total + 1
    assert found.circuit.seen.ablations == ("counterfactual",)


def test_known_circuits_of_hand_built_models_are_found_exactly():
    for name in ("either", "both"):
        case = CASES[name]
        (found,) = acdc(case.model, case.prompts, [1e-3], batch_size=81)
        truth = true_edges(case, "counterfactual")
        np.testing.assert_array_equal(found.circuit.flat(), truth.flat().astype(bool))
        assert len(found.circuit) == 7
        # Without the shortcut every edge would be run.
        assert found.evaluations < int(components(case.model).space.count())


def test_compiled_programs_keep_their_answers_on_known_edges():
    """The sweep has to keep what is needed, and may keep nothing that carries nothing."""
    compiled = compile_program(PROGRAMS["reverse"])
    model, prompts = compiled.model, compiled_prompts(compiled)
    prompts = prompts[np.arange(0, len(prompts), len(prompts) // 32)]
    (found,) = acdc(model, prompts, [1e-4], batch_size=len(prompts))
    known = program_edges(model)
    assert not (found.circuit.flat() & ~known.flat().astype(bool)).any()
    needed = necessary_edges(model, [prompts], "counterfactual", among=known)
    assert needed.flat().sum() > 0
    assert not (needed.flat().astype(bool) & ~found.circuit.flat()).any()
    (loss,) = measured_losses(model, prompts, [found.circuit], dictionary=components(model))
    assert loss < 1e-2


@pytest.mark.parametrize("config", [GROUPED, NEOX])
def test_the_order_is_reverse_topological(config):
    order, there = edges_backwards(config), Edges.existing(config)
    assert sorted(order.places.tolist()) == np.flatnonzero(there.flat()).tolist()
    graph = nx.DiGraph()
    for writer, listeners in zip(order.writer, order.listeners, strict=True):
        graph.add_edges_from((int(writer), int(reader)) for reader in listeners)
    assert nx.is_directed_acyclic_graph(graph)
    # Whenever an edge is tried, all edges out of its listeners have been.
    last = {int(w): i for i, w in enumerate(order.writer)}
    for i, listeners in enumerate(order.listeners):
        assert all(last.get(int(reader), -1) < i for reader in listeners)


def test_a_sweep_among_some_edges_keeps_only_these_and_their_history():
    case = CASES["either"]
    there = components(case.model).space
    truth = true_edges(case, "counterfactual")
    extra = there.like(truth.flat().astype(bool) | (np.arange(len(there.flat())) % 3 == 0))
    among = there.like(extra.flat() & there.flat())
    few, many = acdc(case.model, case.prompts, [10.0, 1e-3], among=among, batch_size=81)
    np.testing.assert_array_equal(many.circuit.flat(), truth.flat().astype(bool))
    assert len(few.circuit) < 7 < among.flat().sum()
    assert few.evaluations < many.evaluations
    assert not many.circuit.seen.known  # nobody says where `among` comes from


def test_bad_requests_are_refused():
    case = CASES["either"]
    with pytest.raises(InputError, match="thresholds"):
        acdc(case.model, case.prompts, [])
    with pytest.raises(ConfigError, match="above 0"):
        acdc(case.model, case.prompts, [0.0])
    with pytest.raises(ConfigError, match="metric"):
        acdc(case.model, case.prompts, [0.1], metric="accuracy")
    with pytest.raises(InputError, match="circuit"):
        acdc(case.model, case.prompts, [0.1], among=Edges.existing(GROUPED))
