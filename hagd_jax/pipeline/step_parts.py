"""The parts of the composed step, each of which turns a state into a state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.hierarchy import Weights, embed, kmeans
from hagd_jax.meta import Learner, describe_arrays, logits
from hagd_jax.models import LanguageModel, forward
from hagd_jax.pipeline.step_plan import StepConfig
from hagd_jax.scores.flow import directions, flow_arrays
from hagd_jax.scores.flow_edges import chosen_edges
from hagd_jax.scores.node_graph import EDGES_PER_NODE
from hagd_jax.search import MaskState, Tree
from hagd_jax.search.mask_steps import Search, start_logits, update
from hagd_jax.search.objective import Target
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import training as tc
from hagd_jax.transcoders.training.normalise import fold
from hagd_jax.transcoders.transcoder import Transcoder
from hagd_jax.units import Directed, Space, neurons
from hagd_jax.units.features import Features


class State(struct.PyTreeNode):
    """Everything that a step changes.

    Attributes:
        transcoder: In training, or None for neurons.
        score: (N,) sums over prompts.
        edges: (H + M, H + M) sums over prompts, between all heads and the chosen features.
        chosen: (M,) int32 which features those are.
        clusters: (N,) int32 of every level, coarsest first.
        masks: As a search by itself has them.
        step: () int32 steps done.
        config: What was asked for.
    """

    transcoder: Any
    score: Any
    edges: Any
    chosen: Any
    clusters: tuple[Any, ...]
    masks: MaskState
    step: Any
    config: StepConfig = struct.field(pytree_node=False)

    __repr__ = one_line


class StepBatch(NamedTuple):
    """What a step reads.

    Attributes:
        tokens: (B, T) of a corpus, for the transcoder.
        weight: (B, T) 1 for tokens that count.
        prompts: Of the task.
    """

    tokens: Any
    weight: Any
    prompts: Prompts

    __repr__ = one_line


def dictionary(state: State, model: LanguageModel, nodes: Directed | None = None) -> Directed:
    """The nodes as they are now: those given, or the features of the transcoder in training."""
    if state.transcoder is None or state.config.train is None:
        return neurons(model).bare() if nodes is None else nodes
    own = state.config.train.transcoder(model.config)
    params = fold(state.transcoder.params, state.transcoder.stats, own)
    return Features(model.config, "", Transcoder(params, own, model.mesh))


def train(state: State, model: LanguageModel, batch: StepBatch, *_: Any) -> tuple[State, dict]:
    """One update of the transcoder, if one is trained."""
    if state.transcoder is None or state.config.train is None:
        return state, {}
    after, metrics = tc.step(
        state.transcoder, model, batch.tokens, batch.weight,
        config=state.config.train.transcoder(model.config), train=state.config.train,
        steps=state.config.train_steps,
    )  # fmt: skip
    return state.replace(transcoder=after), {
        "transcoder_loss": metrics.terms.loss, "fvu": metrics.terms.fvu.mean()
    }  # fmt: skip


def choose(state: State, *_: Any) -> tuple[State, dict]:
    """Choose features by their scores so far, and begin edges anew."""
    heads = len(state.edges) - len(state.chosen)
    chosen = jax.lax.top_k(jnp.abs(state.score[heads:]), len(state.chosen))[1]
    return state.replace(chosen=chosen.astype(jnp.int32), edges=jnp.zeros_like(state.edges)), {}


def attribute(
    state: State, model: LanguageModel, batch: StepBatch, nodes: Directed | None, *_: Any
) -> tuple[State, dict]:
    """Add prompts to scores, and to edges between heads and the chosen features."""
    nodes = dictionary(state, model, nodes)
    rows = len(batch.prompts)
    found = flow_arrays(
        model, nodes, batch.prompts, jnp.ones(rows), jnp.asarray(state.config.path),
        logit_difference, False,
    )  # fmt: skip
    more = chosen_edges(
        directions(model, nodes), found, state.chosen, parallel=model.config.parallel_residual
    )
    return state.replace(score=state.score + found.score, edges=state.edges + more), {
        "score": found.score.sum() / rows
    }


def coarsen(
    state: State, model: LanguageModel, _: StepBatch, __: Any, learner: Learner | None
) -> tuple[State, dict]:
    """Clusters of every level, the other nodes' by layer; and masks that begin at a prior."""
    space, own = state.config.space(model.config), state.config.hierarchy
    size = jnp.abs(state.edges)
    now = Weights((size + size.T) / 2, None, None, None, len(size))
    key = jax.random.key(state.config.seed)
    place, found = jnp.arange(len(size)), []
    for number in state.config.counts(model.config)[::-1]:
        count = number - space.layers
        key, of_vectors, of_centres = jax.random.split(key, 3)
        krylov = min(own.krylov, now.count)
        points = embed(now, of_vectors, size=min(own.vectors, count, krylov), krylov=krylov,
                       regularise=own.regularise)[0]  # fmt: skip
        alike = jnp.zeros(now.count, jnp.int32), jnp.zeros(count, jnp.int32)
        cluster = kmeans(points, *alike, of_centres, iterations=own.iterations)
        place, now = cluster[place], now.merged(cluster, count)
        found.append(jnp.asarray(count + space.layer).at[in_graph(state)].set(place))
    clusters = tuple(found[::-1])
    prior = state.score if learner is None else membership(learner, state, space)
    levels = start_logits(prior, Tree(clusters, state.config.counts(model.config)))
    return state.replace(clusters=clusters, masks=state.masks.replace(logits=levels)), {}


def membership(learner: Learner, state: State, space: Space) -> jax.Array:
    """(N,) logits of the meta-learner, from the strongest edges into each node of the graph."""
    some, total = in_graph(state), space.nodes
    most = min(EDGES_PER_NODE, len(some))
    column = jax.lax.top_k(jnp.abs(state.edges), most)[1]
    row = jnp.arange(len(some))[:, None]
    values = state.edges[row, column].ravel()
    # Edges of no weight are none: they go to a node that is not there.
    there = values != 0
    senders = jnp.where(there, some[column.ravel()], total)
    receivers = jnp.where(there, jnp.repeat(some, most), total)
    head = np.arange(total) < space.layers * space.heads
    seen = describe_arrays(
        head, space.layer, state.score, state.score, senders, receivers, values
    ).graph
    padded = seen._replace(nodes=jnp.pad(seen.nodes, ((0, 1), (0, 0))), n_node=seen.n_node + 1)
    return logits(learner, padded)[:total]


def in_graph(state: State) -> jax.Array:
    """(H + M,) which nodes the graph is made of: all heads, and the chosen features."""
    heads = len(state.edges) - len(state.chosen)
    return jnp.concatenate([jnp.arange(heads), heads + state.chosen])


def search(
    state: State,
    model: LanguageModel,
    batch: StepBatch,
    nodes: Directed | None,
    *_: Any,
    size: jax.Array,
    opened: jax.Array,
) -> tuple[State, dict]:
    """One update of the masks."""
    prompts = batch.prompts
    at = forward(model, prompts.inputs(), read=prompts.reads).logits
    target = Target(prompts, at.reshape(len(prompts), -1, *at.shape[1:]), prompts.metric(at))
    over = Search(
        dictionary(state, model, nodes), Tree(state.clusters, state.config.counts(model.config)),
        jnp.asarray(state.config.trained_at(model.config)),
    )  # fmt: skip
    masks, metrics = update(
        model, over, target, target.scale(), state.masks, (size, opened), state.config.masks
    )
    return state.replace(masks=masks), metrics
