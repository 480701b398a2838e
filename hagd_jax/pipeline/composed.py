"""The whole method as one compiled step: what each step does is data.

activations → transcoder update → attribution graph → hierarchy → membership scores → mask update.

Every part is in the program; a plan, one row a step, says which of them act. The same program thus
serves all phases, on one device or on a mesh.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import ConfigError
from hagd_jax.meta import Learner
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline import step_parts as parts
from hagd_jax.pipeline.step_parts import State, StepBatch
from hagd_jax.pipeline.step_plan import StepConfig, plan
from hagd_jax.search import Tree, top_nodes
from hagd_jax.search.mask_steps import mask_ranks, start
from hagd_jax.transcoders import training as tc
from hagd_jax.transcoders.training.normalise import Normalisation
from hagd_jax.units import Dictionary, Nodes


def init(model: LanguageModel, config: StepConfig, stats: Normalisation | None = None) -> State:
    """The state before the first step.

    Args:
        model: The model, on any mesh.
        config: What is asked for.
        stats: How a transcoder's activations are normalised; not at all if None.

    Returns:
        The state.

    Raises:
        ConfigError: If the circuit has more nodes than the model.
    """
    c = model.config
    space = config.space(c)
    if max(config.kept) > space.nodes:
        raise ConfigError("nodes", got=max(config.kept), expected=f"at most {space.nodes}")
    transcoder = None
    if config.train is not None:
        own = config.train.transcoder(c)
        stats = stats or Normalisation.identity(own)
        transcoder = tc.init_state(own, config.train, stats, mesh=model.mesh)
    some = space.layers * space.heads + config.chosen(c)
    counts = (*config.counts(c), space.nodes)
    levels = [jnp.zeros(count) for count in counts]
    masks = start(jax.random.key(config.seed), levels, len(config.kept), config.masks)
    clusters = tuple(jnp.zeros(space.nodes, jnp.int32) for _ in range(config.levels))
    return State(
        transcoder, jnp.zeros(space.nodes), jnp.zeros((some, some)),
        jnp.arange(config.chosen(c), dtype=jnp.int32), clusters, masks,
        jnp.int32(0), config,
    )  # fmt: skip


@functools.partial(jax.jit, donate_argnames="state")
def step(
    state: State,
    model: LanguageModel,
    batch: StepBatch,
    nodes: Dictionary | None = None,
    learner: Learner | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of whatever phase it is time for.

    Args:
        state: Before; its memory is reused.
        model: The model, without name and tokenizer (`model.bare()`), on its mesh.
        batch: Tokens of a corpus, and prompts of the task.
        nodes: What the nodes inside MLPs are, where no transcoder is trained; neurons if None.
        learner: Whose membership scores masks begin at; the sums of first-order scores if None.

    Returns:
        The state after, and metrics; of parts that did not act they are 0.

    Example:
        >>> state = init(model, config)
        >>> for batch in batches:
        ...     state, metrics = step(state, model.bare(), batch)
        >>> circuits(state, model)[config.nodes]
    """
    now = jax.tree.map(lambda rows: jnp.asarray(rows)[state.step], plan(state.config, model.config))
    everything = model, batch, nodes, learner
    state, trained = _when(now.train, parts.train, state, *everything)
    state, _ = _when(now.choose, parts.choose, state, *everything)
    state, scored = _when(now.attribute, parts.attribute, state, *everything)
    state, _ = _when(now.coarsen, parts.coarsen, state, *everything)
    search = functools.partial(parts.search, size=now.size, opened=now.opened)
    state, searched = _when(now.search, search, state, *everything)
    return state.replace(step=state.step + 1), trained | scored | searched


def _when(flag: jax.Array, act: Any, state: State, *rest: Any) -> tuple[State, dict]:
    """Act or not: both leave a state and metrics of the same shapes."""
    shapes = jax.eval_shape(act, state, *rest)[1]
    idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.cond(flag, lambda s: act(s, *rest), lambda s: (s, idle), state)


def circuits(state: State, model: LanguageModel) -> dict[int, Nodes]:
    """The circuits that are left after the last step.

    Args:
        state: Of all steps.
        model: The model.

    Returns:
        Size → `Nodes` of bool, of every size asked for.
    """
    space, ranks = state.config.space(model.config), circuit_ranks(state, model)
    return {k: top_nodes(Nodes.from_flat(space, row), k).mask for k, row in ranks.items()}


def circuit_ranks(state: State, model: LanguageModel) -> dict[int, np.ndarray]:
    """Size → (N,) log-probabilities of being open, by which nodes are chosen; see `mask_ranks`."""
    tree = Tree(state.clusters, state.config.counts(model.config))
    sizes = state.config.kept
    return dict(zip(sizes, mask_ranks(state.masks, sizes, tree), strict=True))
