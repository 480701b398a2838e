"""Pruned edges against models whose edges are known, and gradients against differences."""

import numpy as np
import pytest

import hagd_jax as hagd
from hagd_jax.causal import Circuit, behaviour, named_edges
from hagd_jax.errors import InputError, NoCircuitError
from hagd_jax.search import UnitEdgeConfig, unit_edges
from hagd_jax.search.unit_edge_runs import Bench
from hagd_jax.tasks import look
from hagd_jax.testbeds import hand_built
from hagd_jax.testbeds.necessary import true_edges
from hagd_jax.units import UnitEdges, frame_of, wired

# With nothing to spare of any gate, edges go only if the model's behaviour stays as it is.
EXACT = UnitEdgeConfig(ablations=("counterfactual",), batch_size=128, margin=0.99, steps=(0.5, 1.0))
CASES = {case.name: case for case in hand_built()}


def circuit_of(case, names, **fields):
    seen = look(case.prompts, ablation="counterfactual", model=case.model)
    return Circuit.of_units(
        hagd.units.tree(case.model), names, model=case.model.name, task=case.name, seen=seen,
        **fields,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["either", "both", "suppressed", "parity", "rotation"])
def test_the_edges_left_are_those_that_the_behaviour_needs(name):
    """What is needed was found by other code: `mask_edges` between components, one at a time."""
    case = CASES[name]
    truth = {tuple(e) for e in named_edges(case.model.config, true_edges(case, "counterfactual"))}
    names = sorted({end for edge in truth for end in edge[:2]} - {"embed", "logits"})
    found = unit_edges(case.model, case.prompts, circuit_of(case, names), EXACT)
    assert {edge[:3] for edge in found.edges} == truth
    assert 2 < len(found) < len(found.frame)
    assert found.per_unit <= 4
    assert found.config["gates_hold"]
    assert min(edge.weight for edge in found.edges) > 0.01
    assert found.seen.ablations == ("counterfactual",)
    assert found == unit_edges(case.model, case.prompts, circuit_of(case, names), EXACT)


def bench_of(case, names, config):
    circuit = circuit_of(case, names)
    frame = frame_of(circuit.space, circuit.units, False)
    return frame, Bench(case.model, case.prompts, wired(case.model, frame), config, None)


def test_gradients_are_those_of_the_loss():
    """Central differences of KL over a mask, in float32; and filled-up batches weigh nothing."""
    case = CASES["either"]
    config = UnitEdgeConfig(ablations=("counterfactual",), batch_size=50, steps=(0.6,))
    frame, bench = bench_of(case, ["attention 0", "mlp 0"], config)
    found = bench.gradients()

    def kl(row):
        parts = bench.parts
        corrupted = hagd.models.forward(
            case.model, case.prompts.corrupted, capture=parts.capture
        ).trace
        read = case.prompts.reads
        clean = hagd.models.forward(case.model, case.prompts.clean, read=read).logits
        masked = parts.mask(UnitEdges(row), parts.values(corrupted))
        graph = hagd.models.forward(case.model, case.prompts.clean, masked, read=read).logits
        p, q = (np.asarray(x[:, 0], np.float64) for x in (clean, graph))
        p, q = (x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
                - x.max(-1, keepdims=True) for x in (p, q))  # fmt: skip
        return (np.exp(p) * (p - q)).sum(-1).mean()

    at, step = np.full(len(frame), 0.6, np.float32), 1e-2
    scale = kl(0 * at)
    expected = [-(kl(at + step * unit) - kl(at - step * unit)) / (2 * step * scale)
                for unit in np.eye(len(frame), dtype=np.float32)]  # fmt: skip
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_measures_are_those_of_the_behaviour():
    case = CASES["either"]
    config = UnitEdgeConfig(ablations=("counterfactual", "mean"), batch_size=81)
    frame, bench = bench_of(case, ["attention 0", "mlp 0"], config)
    rows = np.random.default_rng(0).random((3, len(frame))) < 0.7
    found = bench.measures(rows)
    empty = np.zeros(len(frame), bool)
    empty[frame.direct] = True
    worst = np.zeros(3)
    for name in config.ablations:
        own = behaviour(
            case.model, case.prompts, [UnitEdges(row) for row in (empty, *rows)], ablation=name,
            dictionary=bench.parts, batch_size=81,
        )  # fmt: skip
        worst = np.maximum(worst, own.kl[1:].mean(1) / own.kl[0].mean())
    assert worst.max() > 0.1
    np.testing.assert_allclose(found.kl, worst, rtol=1e-5)
    assert (found.strain >= found.kl / 0.3 - 1e-9).all()


def test_what_is_no_circuit_is_refused():
    case = CASES["either"]
    with pytest.raises(NoCircuitError, match="with all edges"):
        unit_edges(case.model, case.prompts, circuit_of(case, ["neuron 0.3"]), EXACT)
    with pytest.raises(InputError, match="circuit"):
        unit_edges(case.model, case.prompts, None)
    other = circuit_of(CASES["parity"], ["mlp 0"])
    with pytest.raises(InputError, match="circuit of"):
        unit_edges(case.model, case.prompts, other, EXACT)
