"""The parts of a step up to the graph: each turns a state into a state, and says a few numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hagd_jax.brief import one_line
from hagd_jax.meta import Learner
from hagd_jax.models import LanguageModel, forward
from hagd_jax.pipeline.fused.means import Groups, added, batch_sums
from hagd_jax.pipeline.fused.state import State, current_nodes
from hagd_jax.pipeline.graph import choose as chosen_features
from hagd_jax.pipeline.graph import clusters, membership
from hagd_jax.scores.flow import directions, flow_arrays
from hagd_jax.scores.flow_edges import chosen_edges
from hagd_jax.scores.methods import METHODS, How, mask_gradients
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import training as tc
from hagd_jax.units import Dictionary, Directed, directed

Said = dict[str, jax.Array]


class StepBatch(NamedTuple):
    """A step's batch names the part that acts and holds the data it reads.

    Attributes:
        part: () int32 which part of the step acts, see `step.parts_of`.
        prompts: R prompts of the task.
        weight: (R,) float32 what each weighs; copies that fill up a batch weigh nothing.
        split: () int32 which split they are of: 0 is discover, 1 is select.
        totals: (2,) float32 how many prompts the discover split has, and this one.
        shares: (2,) float32 the shares of counterfactual and mean ablation.
        size: () float32 how many nodes masks are expected to hold.
        opened: (levels + 1,) bool which levels decide.
        groups: Groups of the prompts, with mean ablation; or None.
        tokens: (B, T) of a corpus, if a transcoder is learned; or None.
        token_weight: (B, T) float32 1 for tokens that count; or None.
    """

    part: Any
    prompts: Prompts
    weight: Any
    split: Any
    totals: Any
    shares: Any
    size: Any
    opened: Any
    groups: Groups | None = None
    tokens: Any = None
    token_weight: Any = None

    __repr__ = one_line


class Given(NamedTuple):
    """Every part is given these values beside the state.

    Attributes:
        model: The model, without name and tokenizer.
        batch: What to do, and what is read.
        nodes: The nodes, if no transcoder is learned and they are not neurons.
        learner: The meta-learner, if masks begin at its scores.
    """

    model: LanguageModel
    batch: StepBatch
    nodes: Dictionary | None
    learner: Learner | None

    __repr__ = one_line

    def dictionary(self, state: State) -> Dictionary:
        """Return the dictionary in its current state of training."""
        return current_nodes(state.learning, self.model, self.nodes, state.setting)

    def directed(self, state: State) -> Directed:
        """Return the directed dictionary in its current state of training."""
        return directed(self.model, self.dictionary(state))


def moments(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch of text to the sums for normalising activations."""
    learning, batch = state.learning, given.batch
    assert learning is not None
    own = state.setting.config.train.transcoder(given.model.config)
    more = tc.moments(given.model, batch.tokens, batch.token_weight, config=own)
    total = jax.tree.map(jnp.add, learning.moments, more)
    return state.replace(learning=learning.replace(moments=total)), {}


def normalise(state: State, given: Given) -> tuple[State, Said]:
    """Compute the normalisation of activations from those sums."""
    learning = state.learning
    assert learning is not None
    train = learning.train.replace(stats=learning.moments.normalisation())
    return state.replace(learning=learning.replace(train=train)), {}


def train(state: State, given: Given, *, through: bool = False) -> tuple[State, Said]:
    """Update the transcoder on a batch of text."""
    learning, batch, config = state.learning, given.batch, state.setting.config.train
    assert learning is not None
    after, metrics = tc.step(
        learning.train, given.model, batch.tokens, batch.token_weight,
        config=config.transcoder(given.model.config), train=config, steps=state.setting.steps,
        through=through,
    )  # fmt: skip
    said = {"loss": metrics.terms.loss, "fvu": metrics.terms.fvu.mean(),
            "finite": metrics.finite.astype(jnp.float32)}  # fmt: skip
    return state.replace(learning=learning.replace(train=after)), said


def score(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch to the nodes' scores."""
    config, batch = state.setting.config, given.batch
    (name,) = config.starts
    own = config.gradient_of(name)
    found = mask_gradients(
        given.model, given.dictionary(state), batch.prompts, batch.weight,
        jnp.asarray(own.steps, jnp.float32), How(METHODS[name], logit_difference, own.remat),
    )  # fmt: skip
    row = jnp.concatenate([found.heads.ravel(), found.features.ravel()])
    return state.replace(score=state.score + row), {"effect": row.sum()}


def flow(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch to the nodes' first-order scores, by which the graph's features are chosen."""
    row = _flow(state, given).score
    return state.replace(flow=state.flow + row), {"effect": row.sum()}


def _flow(state: State, given: Given) -> Any:
    config, batch = state.setting.config, given.batch
    steps = jnp.asarray(config.graph_steps, jnp.float32)
    return flow_arrays(
        given.model, given.directed(state), batch.prompts, batch.weight, steps,
        logit_difference, config.gradient.remat,
    )  # fmt: skip


def choose(state: State, given: Given) -> tuple[State, Said]:
    """Choose the features of the graph, and begin its edges."""
    chosen = chosen_features(state.flow, state.setting.size)
    return state.replace(chosen=chosen, edges=jnp.zeros_like(state.edges)), {}


def edges(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch to the edges of the graph."""
    along = directions(given.model, given.directed(state))
    parallel = given.model.config.parallel_residual
    more = chosen_edges(along, _flow(state, given), state.chosen, parallel=parallel)
    return state.replace(edges=state.edges + more), {"edges": jnp.abs(more).sum()}


def coarsen(state: State, given: Given) -> tuple[State, Said]:
    """Cluster the nodes, and set the prior of the masks."""
    setting, key = state.setting, jax.random.key(state.setting.config.seed)
    tree = clusters(state.edges, state.chosen, setting.size, key, setting.config.hierarchy)
    prior = state.prior
    if given.learner is not None:
        prior = membership(
            given.learner, state.edges, state.chosen, state.flow, state.score, setting.size
        )
    return state.replace(clusters=tree.clusters, prior=prior), {}


def open_tables(state: State, given: Given) -> tuple[State, Said]:
    """Begin the tables of what the model does on the prompts."""
    tables = jax.tree.map(jnp.zeros_like, state.tables)
    return state.replace(metric=jnp.zeros_like(state.metric), tables=tables), {}


def read(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch to the model's metric and, with mean ablation, to the nodes' sums."""
    model, batch, prompts = given.model, given.batch, given.batch.prompts
    at = forward(model, prompts.inputs(), read=prompts.reads).logits
    mine = jnp.where(batch.split == 0, batch.weight, 0)
    state = state.replace(metric=state.metric + jnp.sum(prompts.metric(at) * mine))
    if state.tables is None or batch.groups is None:
        return state, {}
    sums = batch_sums(model, given.dictionary(state), prompts, batch.weight, batch.groups)
    return state.replace(tables=added(state.tables, batch.split, sums)), {}
