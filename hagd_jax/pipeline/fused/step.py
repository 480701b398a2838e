"""The fused step: one compiled, donated, sharded program in which data say which part acts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax.meta import Learner
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.pipeline.fused import parts, searching
from hagd_jax.pipeline.fused.parts import Given, Said, StepBatch
from hagd_jax.pipeline.fused.setting import Setting
from hagd_jax.pipeline.fused.state import State
from hagd_jax.pipeline.starts import chooses
from hagd_jax.units import Dictionary, Nodes

Part = Callable[[State, Given], tuple[State, Said]]

_LEARNING: dict[str, Part] = {
    "moments": parts.moments,
    "normalise": parts.normalise,
    "train": parts.train,
}
_THROUGH: dict[str, Part] = {"through": functools.partial(parts.train, through=True)}
_SCORE: dict[str, Part] = {"score": parts.score}
_ALWAYS: dict[str, Part] = {"open": parts.open_tables, "read": parts.read}
_GRAPH: dict[str, Part] = {
    "flow": parts.flow,
    "choose": parts.choose,
    "edges": parts.edges,
    "coarsen": parts.coarsen,
}
_MASKS: dict[str, Part] = {
    "begin": searching.begin,
    "search": searching.search,
    "compare": searching.compare,
    "pick": searching.pick,
}
_REPAIR: dict[str, Part] = {
    "before": searching.before,
    "repairing": searching.repairing,
    "still": searching.still,
    "slope": searching.slope,
    "propose": searching.propose,
    "take": searching.take,
    "take_pairs": searching.take_pairs,
}
_END: dict[str, Part] = {
    "settle": searching.settle,
    "measure": searching.measure,
    "check": searching.check,
    "note": searching.note,
}
PARTS = _LEARNING | _THROUGH | _SCORE | _ALWAYS | _GRAPH | _MASKS | _REPAIR | _END


def parts_of(setting: Setting) -> tuple[str, ...]:
    """List the parts of the step's program that its setting requires.

    Example:
        >>> from hagd_jax.pipeline import ExtractConfig
        >>> from hagd_jax.pipeline.fused.setting import setting_of
        >>> from hagd_jax.units import Space
        >>> parts_of(setting_of(ExtractConfig(search="top"), Space(2, 4, 16)))
        ('score', 'open', 'read', 'settle', 'measure', 'check', 'note')
    """
    learns = _LEARNING if setting.learns else {}
    score = {} if chooses(setting.config) else _SCORE
    through = _THROUGH if setting.learns and setting.config.train.through else {}
    graph = _GRAPH if setting.graph else {}
    masks = _MASKS if setting.masks else {}
    if setting.units:
        return tuple(learns | through | score | graph)
    repair = _REPAIR if setting.repairs is not None else {}
    return tuple(learns | through | score | _ALWAYS | graph | masks | repair | _END)


def step(
    state: State,
    model: LanguageModel,
    batch: StepBatch,
    nodes: Dictionary | None = None,
    learner: Learner | None = None,
) -> tuple[State, Said]:
    """Take one step of the whole method: the part that the batch names acts.

    All parts are in one compiled program, so that it serves all stages, on one device or on a mesh.

    Args:
        state: The state before; its memory is reused.
        model: The model, on its mesh.
        batch: From `batches`.
        nodes: The nodes inside MLPs, if they are neither neurons nor learned in the steps.
        learner: The meta-learner, if masks begin at its scores.

    Returns:
        The state after, and numbers that the part says; those of other parts are 0.

    Example:
        >>> from hagd_jax.pipeline import ExtractConfig, batches, init
        >>> from hagd_jax.search import MaskConfig
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.testbeds.case import as_task
        >>> case = hand_built()[0]
        >>> config = ExtractConfig(nodes="4", search="masks", masks=MaskConfig(steps=20))
        >>> state = init(case.model, config)
        >>> for batch in batches(case.model, as_task(case), config):
        ...     state, said = step(state, case.model, batch)
        >>> int(state.mask.sum())
        4
    """
    bare = None if nodes is None else nodes.bare()
    return step_arrays(state, model.bare(), batch, bare, learner)


@functools.partial(jax.jit, donate_argnames="state")
def step_arrays(
    state: State,
    model: LanguageModel,
    batch: StepBatch,
    nodes: Dictionary | None,
    learner: Learner | None,
) -> tuple[State, Said]:
    """Take a `step` with a model and nodes without names."""
    given = Given(model, batch, nodes, learner)
    branches = [_branch(PARTS[name], given) for name in parts_of(state.setting)]
    shapes = {n: x for each in branches for n, x in jax.eval_shape(each, state)[1].items()}

    def filled(branch: Any) -> Any:
        def act(state: State) -> tuple[State, Said]:
            after, said = branch(state)
            return after, {n: said.get(n, jnp.zeros(x.shape, x.dtype)) for n, x in shapes.items()}

        return act

    after, said = jax.lax.switch(batch.part, [filled(each) for each in branches], state)
    # Whatever is not the transcoder's lies whole on every device, before and after.
    return replicate(after.replace(learning=None), model.mesh).replace(
        learning=after.learning
    ), said


def _branch(part: Part, given: Given) -> Callable[[State], tuple[State, Said]]:
    """A part whose state keeps its dtypes, as all branches must agree."""

    def act(state: State) -> tuple[State, Said]:
        after, said = part(state, given)
        kept = jax.tree.map(_as_before, after, state)
        return kept, {name: jnp.asarray(value, jnp.float32) for name, value in said.items()}

    return act


def _as_before(new: Any, old: Any) -> Any:
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return new
    return jnp.asarray(new).astype(old.dtype)


def circuit_of(state: State) -> Nodes:
    """Read the circuit of a state after its last step.

    Args:
        state: The state.

    Returns:
        `Nodes` of bool, True for members.
    """
    return Nodes.from_flat(state.setting.space, state.mask)
