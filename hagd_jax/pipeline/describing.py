"""What the select stage says of each unit of its circuit: role, necessity and certified radius."""

from __future__ import annotations

import jax
import numpy as np

from hagd_jax.causal import About, Circuit
from hagd_jax.errors import (
    HagdError,
    InputError,
    require_config,
    require_index,
    require_is,
    require_number,
)
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline.config import Progress
from hagd_jax.pipeline.context import Context, silent
from hagd_jax.pipeline.describe_config import DescribeConfig
from hagd_jax.roles import SignatureConfig, described
from hagd_jax.scores import GradientConfig, prompt_score_rows
from hagd_jax.search import CoreConfig, core
from hagd_jax.search.certificate import require_radius_one
from hagd_jax.search.discoveries import grouped
from hagd_jax.tasks import Prompts, Task, prompt_digests
from hagd_jax.units import Dictionary, Source, Spanned, as_dictionary

_NOTE = "note: units have no role, necessity and radius"
# What a device says, in the midst of a computation, whose memory is full.
_FULL = "RESOURCE_EXHAUSTED"


def describe(context: Context, circuit: Circuit, nodes: Dictionary) -> tuple[Circuit, str]:
    """Describe the units of a circuit, on the first prompts that it was found on.

    Which nodes are in it, and what it has seen, stay as they are. A search that has ended does not
    fail here: what cannot be described is left as it is, and a note says why.

    Args:
        context: The inputs.
        circuit: The circuit that was found.
        nodes: Its dictionary.

    Returns:
        The circuit with what is known of its units, and a note for the user; empty if all is well,
        or if the configuration asks for no description.
    """
    config = context.config.describe
    reason = ""
    if config.prompts and len(circuit) > config.most:
        reason = (
            f"the circuit has {len(circuit):,} of them; --describe.most is {config.most:,}, since "
            "each is ablated alone"
        )
    elif config.prompts:
        try:
            circuit = describe_units(
                context.model, context.task, circuit, config, gradient=context.config.gradient,
                dictionary=nodes, seed=context.config.seed, progress=context.progress,
            )  # fmt: skip
        except HagdError as error:
            reason = str(error)
        except jax.errors.JaxRuntimeError as error:
            # Other processes of a cluster may have room, and would wait for this one.
            if _FULL not in str(error) or jax.process_count() > 1:
                raise
            reason = "a device's memory is full; a smaller --gradient.batch-size needs less"
    if not reason:
        return circuit, ""
    note = f"{_NOTE}: {reason.rstrip('.')}"
    context.log_once("describe", note=note)
    return circuit, note


def kept_note(context: Context, circuit: Circuit) -> str:
    """Say of a circuit that was read back that its units could not be described, if so it is."""
    if circuit.about is not None or not context.config.describe.prompts:
        return ""
    return f"{_NOTE}: metrics.jsonl says why"


def describe_units(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    config: DescribeConfig = DescribeConfig(),
    *,
    gradient: GradientConfig = GradientConfig(),
    dictionary: Source | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Circuit:
    """Measure the role, the necessity and the certified radius of each unit of a circuit.

    Args:
        model: The model.
        task: The behaviour; some prompts of its discover split are read.
        circuit: The circuit.
        config: How many prompts are read, and the certificate.
        gradient: How the scores are taken that the certificate is of; prompts in a call.
        dictionary: The circuit's nodes; neurons if None.
        seed: Seed of synthetic prompts and of the subsets.
        progress: Called with (`describe`, steps done, steps in all).

    Returns:
        The circuit with an `About` of each unit.

    Raises:
        ConfigError: If no prompt is to be read.
        InputError: If the circuit is of another model, or its units cannot be described.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree, task = hagd.units.tree(case.model), hagd.testbeds.as_task(case, test=27)
        >>> circuit = Circuit.of_units(tree, ["head 0.0"], model=case.model.name, task="or")
        >>> describe_units(case.model, task, circuit, DescribeConfig(prompts=8)).about[0].radius
    """
    require_is("task", task, Task)
    require_is("circuit", circuit, Circuit)
    require_config("config", config, DescribeConfig)
    require_config("gradient", gradient, GradientConfig)
    # JAX's keys take no larger ones.
    require_index("seed", seed, 2**63)
    require_number("prompts", config.prompts, least=1)
    nodes = as_dictionary(model, dictionary)
    if circuit.spans and not isinstance(nodes, Spanned):
        nodes = nodes.by_span(circuit.spans)
    progress("describe", 0, 2)
    every = task.splits["discover"]
    # Prompts stand by template, so that the first ones may be alike.
    drawn = np.random.default_rng(seed).permutation(len(every))[: config.prompts]
    own = SignatureConfig(prompts=config.ablated, batch_size=gradient.batch_size)
    told = described(
        model, every[np.sort(drawn[: config.ablated])], circuit, own, key=jax.random.key(seed),
        dictionary=nodes,
    )  # fmt: skip
    progress("describe", 1, 2)
    radii = certified(
        model, every[np.sort(drawn)], circuit, config, gradient=gradient, dictionary=nodes,
        seed=seed,
    )  # fmt: skip
    progress("describe", 2, 2)
    return circuit.described(
        About(unit.role.name, unit.necessity, radius)
        for unit, radius in zip(told, radii, strict=True)
    )


def certified(
    model: LanguageModel,
    prompts: Prompts,
    circuit: Circuit,
    config: DescribeConfig,
    *,
    gradient: GradientConfig,
    dictionary: Dictionary,
    seed: int,
) -> list[int | None]:
    """Certify the units of a circuit, see `search.certificate`.

    From each of many random subsets of the prompts, as many units as the circuit has are found:
    those whose mean integrated gradients are furthest from zero, among the rivals of `rivals`.

    Args:
        model: The model.
        prompts: Where scores are taken; a prompt that comes twice counts once.
        circuit: The circuit.
        config: Subsets and confidence.
        gradient: How scores are taken.
        dictionary: The circuit's nodes.
        seed: Seed of the subsets.

    Returns:
        The radius of each unit, in their order: the most prompts whose change cannot evict it from
        the core. None where nothing is certified, which is so of all units where the prompts or
        the subsets are too few for a radius of 1.

    Raises:
        InputError: If the prompts or the dictionary do not fit the model, or a score is not finite.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree = hagd.units.tree(case.model)
        >>> circuit = Circuit.of_units(tree, ["head 0.0"], model="m", task="t")
        >>> nodes, gradient = hagd.units.neurons(case.model), GradientConfig()
        >>> certified(case.model, case.prompts[:1], circuit, DescribeConfig(), gradient=gradient,
        ...           dictionary=nodes, seed=0)
        [None]
    """
    if not len(circuit):
        return []
    _, first = np.unique(prompt_digests(prompts), return_index=True)
    prompts, groups = prompts[np.sort(first)], rivals(circuit)
    own = CoreConfig(config.kept, config.subsets, "magnitude", config.threshold, config.alpha)
    try:
        require_radius_one(
            len(prompts), own.kept, subsets=own.subsets, units=len(groups), alpha=own.alpha,
            threshold=own.threshold,
        )  # fmt: skip
    except InputError:
        return [None] * len(circuit)
    parts = prompt_score_rows(model, prompts, gradient, method="ig", dictionary=dictionary)
    rows = np.concatenate([grouped(part, groups)[0] for part in parts])
    found = core(rows, len(circuit), own, seed=seed).radius[-len(circuit) :].tolist()
    return [radius if radius >= 0 else None for radius in found]


def rivals(circuit: Circuit) -> list[np.ndarray]:
    """Divide all nodes of the model into the circuit's units and what could stand in their place.

    Args:
        circuit: The circuit.

    Returns:
        The places of the nodes of each: all other heads, what is left of each MLP as one (at each
        span, if the circuit is split by span), and the circuit's own units, in their order. They
        come last, since of equal scores the first wins: a tie certifies none of them.

    Example:
        >>> from hagd_jax.causal import Node
        >>> circuit = Circuit((Node("neuron", 0, 1),), (1.0,), (1, 2, 3), model="m", task="t")
        >>> [places.tolist() for places in rivals(circuit)]
        [[0], [1], [2, 4], [3]]
    """
    own, (layers, heads, features) = [unit.places() for unit in circuit.units], circuit.space
    taken = np.zeros(circuit.space.nodes, bool)
    for places in own:
        taken[places] = True
    first = layers * heads
    left = [np.array([place]) for place in np.flatnonzero(~taken[:first]).tolist()]
    width = max(features // max(len(circuit.spans), 1), 1)
    for start in range(first, len(taken), width):
        rest = start + np.flatnonzero(~taken[start : start + width])
        left += [rest] if len(rest) else []
    return [*left, *own]
