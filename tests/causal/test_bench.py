"""Which runs are averaged over draws of partners, and where random circuits are compared."""

import dataclasses

import numpy as np

from hagd_jax.causal import ValidateConfig
from hagd_jax.causal.bench import Bench
from hagd_jax.causal.claims import necessity, sufficiency
from hagd_jax.causal.evidence import evidence
from hagd_jax.causal.trials import Trials, make_trials
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import as_task
from hagd_jax.units import neurons
from tests.causal.test_validate import CASES, circuit

CONFIG = ValidateConfig(ablations=("resample",), controls=20, draws=3, batch_size=128)


def runs_of(config, first=None):
    case = CASES["either"]
    own = circuit(case, case.truth["mean"])
    trials = make_trials(
        own, neurons(case.model), controls=20, members=3, pairs=2, subsets=2, seed=0
    )
    bench = Bench(case.model, neurons(case.model), config)
    test = bench.test(as_task(case), Seen.nothing())
    return bench, test, trials, own, bench.runs(test, trials, "resample", first)


def test_random_circuits_are_compared_on_one_draw_and_all_else_is_averaged():
    bench, test, trials, own, runs = runs_of(CONFIG)
    draws = [bench.run(test, trials.masks, "resample", draw) for draw in range(3)]
    for field in ("metric", "correct", "kl", "match"):
        several = np.stack([getattr(draw, field) for draw in draws])
        expected, found = several.mean(0), getattr(runs.found, field)
        for part in (trials.controls, trials.without_others):
            expected[part] = several[0, part]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(getattr(runs.once, field), several[0])
    # The draws differ, so that it matters which of them are compared.
    kl = np.stack([draw.kl for draw in draws])
    assert np.ptp(kl.mean(2), 0)[trials.controls].max() > 1e-3
    single = bench.of(bench.model)
    alike = dataclasses.replace(single, config=dataclasses.replace(CONFIG, draws=1))
    one = alike.runs(test, trials, "resample")
    assert one.once is None
    for claim in (sufficiency, necessity):
        assert claim(runs).p_value == claim(one).p_value
    assert evidence(runs, own, "").controls == evidence(one, own, "").controls
    assert evidence(runs, own, "").others == evidence(one, own, "").others
    rows = range(trials.controls.start, trials.controls.stop)
    own_kl = float(one.kl(Trials.CIRCUIT).mean())
    better = sum(float(one.kl(row).mean()) <= own_kl for row in rows)
    assert sufficiency(runs).p_value == (1 + better) / (1 + len(rows))


def test_without_random_circuits_all_rows_are_averaged():
    bench, test, trials, _, runs = runs_of(CONFIG, Trials.CIRCUIT)
    draws = [bench.run(test, trials.masks[:2], "resample", draw).kl for draw in range(3)]
    np.testing.assert_allclose(runs.found.kl, np.mean(draws, 0), atol=1e-6)
    assert runs.found.kl.shape[0] == 3
