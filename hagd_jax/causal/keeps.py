"""What a circuit alone keeps, by the judge's gates, without a verdict."""

from __future__ import annotations

from hagd_jax.causal.bench import Bench
from hagd_jax.causal.config import ValidateConfig
from hagd_jax.causal.gates import Alone, alone
from hagd_jax.causal.inputs import parts_of, require_kinds, require_own, require_spans
from hagd_jax.causal.trials import AnyCircuit, Trials, make_trials
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.units import Source


def keeps(
    model: LanguageModel,
    circuit: AnyCircuit,
    task: Task,
    config: ValidateConfig = ValidateConfig(),
    *,
    dictionary: Source | None = None,
) -> dict[str, Alone]:
    """Measure what a circuit alone keeps under each ablation, and which of the gates it passes.

    It is measured as `validate` measures it, on the same prompts, also under ablations that the
    circuit was found with, which decide nothing there. Two circuits are run, where a verdict takes
    hundreds.

    Args:
        model: The model that the circuit was found in.
        circuit: The circuit.
        task: The behaviour.
        config: Which ablations, how many draws, and on which split.
        dictionary: As in `validate`.

    Returns:
        Ablation → the measures and the gates; those under which a prompt has no other to take
        values from are missing.

    Raises:
        InputError: As `validate`.

    Example:
        >>> from hagd_jax.tasks import Seen
        >>> from hagd_jax.testbeds import as_task, hand_built
        >>> case = hand_built()[0]
        >>> nodes = tuple(sorted(case.truth["mean"]))
        >>> space = hagd.units.neurons(case.model).space
        >>> circuit = hagd.causal.Circuit(nodes, (1.0,) * len(nodes), space, case.model.name,
        ...                               case.name, seen=Seen.nothing())
        >>> found = keeps(case.model, circuit, as_task(case), ValidateConfig(ablations=("mean",)))
        >>> found["mean"].good, round(found["mean"].faithfulness.ratio_of_means.value, 3)
        (True, 1.0)
    """
    require_kinds(model, circuit, task, config, (), ())
    parts = parts_of(model, circuit, dictionary)
    require_own(circuit, (), parts, task)
    require_spans(circuit, (task,))
    bench = Bench(model, parts, config)
    test = bench.test(task, circuit.seen)
    trials = make_trials(
        circuit, parts, controls=1, members=1, pairs=1, subsets=1, seed=config.seed
    )
    first = Trials.CIRCUIT  # the model comes before the masks
    return {name: alone(bench.runs(test, trials, name, first)) for name in test.decides}
