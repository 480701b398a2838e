"""The whole method as one compiled step: what each step does is data.

activations → transcoder update → attribution graph → hierarchy → membership scores → mask update.

Every part is in the program; a plan, one row a step, says which of them act. The same program thus
serves all phases, on one device or on a mesh.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.attribution.flow import directions, flow_arrays
from hagd_jax.attribution.flow_edges import chosen_edges
from hagd_jax.errors import ConfigError
from hagd_jax.hierarchy import HierarchyConfig, Weights, embed, kmeans
from hagd_jax.interventions import Nodes, Space
from hagd_jax.models import DecoderConfig, LanguageModel, forward
from hagd_jax.search import MaskConfig, MaskState, Tree, schedule, top_nodes
from hagd_jax.search.mask_search import start, update
from hagd_jax.search.objective import Target
from hagd_jax.tasks.base import Prompts, logit_difference
from hagd_jax.transcoders import Dictionary, TrainConfig, neurons
from hagd_jax.transcoders import training as tc
from hagd_jax.transcoders.dictionary import Features
from hagd_jax.transcoders.normalise import Normalisation, fold
from hagd_jax.transcoders.transcoder import Transcoder


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What the composed method does, fixed before its first step.

    Attributes:
        nodes: Of the circuit.
        sizes: Of other circuits that are kept on the way there.
        seed: Of everything random.
        features: A layer, of a dictionary that is given to each step; 0 for neurons.
        train: How a transcoder is trained here; None for neurons, or what is given.
        train_steps: How many steps train it.
        graph_steps: How many steps add prompts to the graph: half to scores, by which features
            are chosen, half to edges between those.
        candidates: Features that the graph is made of.
        path: Where gradients are taken between counterfactual, 0, and clean prompt, 1.
        hierarchy: How the graph is coarsened.
        levels: Levels of clusters, one to three.
        masks: How masks are trained; `masks.steps` steps.
    """

    nodes: int
    sizes: tuple[int, ...] = ()
    seed: int = 0
    features: int = 0
    train: TrainConfig | None = None
    train_steps: int = 0
    graph_steps: int = 4
    candidates: int = 1024
    path: tuple[float, ...] = (0.3, 0.6, 0.9)
    hierarchy: HierarchyConfig = HierarchyConfig(ratio=1 / 8)
    levels: int = 2
    masks: MaskConfig = MaskConfig()

    def __post_init__(self):
        if min(self.nodes, self.candidates, *self.sizes) < 1:
            raise ConfigError(
                "nodes, sizes and candidates", got=(self.nodes, self.sizes, self.candidates),
                expected="1 or more",
            )  # fmt: skip
        if self.graph_steps < 2 or self.graph_steps % 2:
            raise ConfigError("graph_steps", got=self.graph_steps, expected="2, 4, 6 or more")
        if not 1 <= self.levels <= 3:
            raise ConfigError("levels", got=self.levels, expected="1 to 3")
        if self.masks.mean:
            raise ConfigError("masks.mean", got=self.masks.mean, expected="0 in the composed step",
                              mend="Search with masks by themselves.")  # fmt: skip
        if bool(self.train) != bool(self.train_steps):
            raise ConfigError("train_steps", got=self.train_steps,
                              expected="some with `train`, none without")  # fmt: skip

    @property
    def kept(self) -> tuple[int, ...]:
        """All sizes of circuits."""
        return tuple(sorted({self.nodes, *self.sizes}))

    @property
    def steps(self) -> int:
        """Of all phases."""
        return self.train_steps + self.graph_steps + 1 + self.masks.steps

    def space(self, decoder: DecoderConfig) -> Space:
        """The nodes of a model."""
        width = self.features or decoder.d_mlp
        if self.train is not None:
            width = self.train.transcoder(decoder).n_features
        return Space(decoder.n_layers, decoder.n_heads, width)

    def counts(self, decoder: DecoderConfig) -> tuple[int, ...]:
        """Clusters of each level, coarsest first; those of other nodes, a layer each, included."""
        space = self.space(decoder)
        count = space.layers * space.heads + self.chosen(decoder)
        found = []
        for _ in range(self.levels):
            fewer = max(int(np.ceil(self.hierarchy.ratio * count)), self.hierarchy.least)
            count = min(count, fewer)
            found.append(count + space.layers)
        return tuple(found[::-1])

    def chosen(self, decoder: DecoderConfig) -> int:
        """Features that the graph is made of."""
        space = self.space(decoder)
        return min(self.candidates, space.layers * space.features)


class Plan(NamedTuple):
    """What each step does: one row a step.

    Attributes:
        train: (S,) bool: update the transcoder.
        attribute: (S,) bool: add prompts to scores and edges.
        choose: (S,) bool: choose features by their scores, and begin edges anew.
        coarsen: (S,) bool: make clusters, and begin masks.
        search: (S,) bool: update masks.
        size: (S,) float32 expected nodes.
        opened: (S, levels + 1) bool: which levels decide.
    """

    train: np.ndarray
    attribute: np.ndarray
    choose: np.ndarray
    coarsen: np.ndarray
    search: np.ndarray
    size: np.ndarray
    opened: np.ndarray


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


def plan(config: StepConfig, decoder: DecoderConfig) -> Plan:
    """Phases one after the other.

    Args:
        config: How long each is.
        decoder: The model's configuration.

    Returns:
        A row for each of `config.steps` steps.
    """
    total = config.space(decoder).nodes
    own = schedule(config.masks, total, config.nodes, config.levels)
    number = np.arange(config.steps)
    graph = config.train_steps, config.train_steps + config.graph_steps
    middle = config.train_steps + config.graph_steps // 2
    before = config.steps - config.masks.steps
    return Plan(
        train=number < graph[0],
        attribute=(number >= graph[0]) & (number < graph[1]),
        choose=number == middle,
        coarsen=number == graph[1],
        search=number >= before,
        size=np.pad(own.size, (before, 0), constant_values=total),
        opened=np.pad(own.opened, ((before, 0), (0, 0))),
    )


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
    masks = start(
        jax.random.key(config.seed),
        levels,
        jnp.zeros((len(config.kept), space.nodes)),
        config.masks,
    )
    clusters = tuple(jnp.zeros(space.nodes, jnp.int32) for _ in range(config.levels))
    return State(
        transcoder, jnp.zeros(space.nodes), jnp.zeros((some, some)),
        jnp.arange(config.chosen(c), dtype=jnp.int32), clusters, masks,
        jnp.int32(0), config,
    )  # fmt: skip


@functools.partial(jax.jit, donate_argnames="state")
def step(
    state: State, model: LanguageModel, batch: StepBatch, nodes: Dictionary | None = None
) -> tuple[State, dict[str, jax.Array]]:
    """One step of whatever phase it is time for.

    Args:
        state: Before; its memory is reused.
        model: The model, without name and tokenizer (`model.bare()`), on its mesh.
        batch: Tokens of a corpus, and prompts of the task.
        nodes: What the nodes inside MLPs are, where no transcoder is trained; neurons if None.

    Returns:
        The state after, and metrics; of parts that did not act they are 0.

    Example:
        >>> state = init(model, config)
        >>> for batch in batches:
        ...     state, metrics = step(state, model.bare(), batch)
        >>> circuits(state, model)[config.nodes]
    """
    now = jax.tree.map(lambda rows: jnp.asarray(rows)[state.step], plan(state.config, model.config))
    everything = model, batch, nodes
    state, trained = _when(now.train, _train, state, *everything)
    state, _ = _when(now.choose, _choose, state, *everything)
    state, scored = _when(now.attribute, _attribute, state, *everything)
    state, _ = _when(now.coarsen, _coarsen, state, *everything)
    search = functools.partial(_search, size=now.size, opened=now.opened)
    state, searched = _when(now.search, search, state, *everything)
    return state.replace(step=state.step + 1), trained | scored | searched


def _when(flag: jax.Array, act: Any, state: State, *rest: Any) -> tuple[State, dict]:
    """Act or not: both leave a state and metrics of the same shapes."""
    shapes = jax.eval_shape(act, state, *rest)[1]
    idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.cond(flag, lambda s: act(s, *rest), lambda s: (s, idle), state)


def dictionary(state: State, model: LanguageModel, nodes: Dictionary | None = None) -> Dictionary:
    """The nodes as they are now: those given, or the features of the transcoder in training."""
    if state.transcoder is None or state.config.train is None:
        return neurons(model).bare() if nodes is None else nodes
    own = state.config.train.transcoder(model.config)
    params = fold(state.transcoder.params, state.transcoder.stats, own)
    return Features(model.config, "", Transcoder(params, own, model.mesh))


def _train(state: State, model: LanguageModel, batch: StepBatch, _: Any) -> tuple[State, dict]:
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


def _choose(state: State, *_: Any) -> tuple[State, dict]:
    heads = len(state.edges) - len(state.chosen)
    chosen = jax.lax.top_k(jnp.abs(state.score[heads:]), len(state.chosen))[1]
    return state.replace(chosen=chosen.astype(jnp.int32), edges=jnp.zeros_like(state.edges)), {}


def _attribute(
    state: State, model: LanguageModel, batch: StepBatch, nodes: Dictionary | None
) -> tuple[State, dict]:
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


def _coarsen(state: State, model: LanguageModel, *_: Any) -> tuple[State, dict]:
    """Clusters of every level, the other nodes' by layer; and masks that begin at the scores."""
    space, own = state.config.space(model.config), state.config.hierarchy
    heads = len(state.edges) - len(state.chosen)
    some = jnp.concatenate([jnp.arange(heads), heads + state.chosen])
    layer = np.concatenate([
        np.repeat(np.arange(space.layers), n) for n in (space.heads, space.features)
    ])  # fmt: skip
    size = jnp.abs(state.edges)
    now = Weights((size + size.T) / 2, None, None, None, len(size))
    key = jax.random.key(state.config.seed)
    place, found = jnp.arange(len(size)), []
    for number in state.config.counts(model.config)[::-1]:
        count = number - space.layers
        key, of_vectors, of_centres = jax.random.split(key, 3)
        krylov = min(own.krylov, now.count)
        points, _ = embed(now, of_vectors, size=min(own.vectors, count, krylov), krylov=krylov,
                          regularise=own.regularise)  # fmt: skip
        alike = jnp.zeros(now.count, jnp.int32), jnp.zeros(count, jnp.int32)
        cluster = kmeans(points, *alike, of_centres, iterations=own.iterations)
        place, now = cluster[place], now.merged(cluster, count)
        found.append((count + jnp.asarray(layer, jnp.int32)).at[some].set(place))
    clusters = tuple(found[::-1])
    masks = _begin(state.masks, state.score, clusters)
    return state.replace(clusters=clusters, masks=masks), {}


def _begin(masks: MaskState, score: jax.Array, clusters: tuple[jax.Array, ...]) -> MaskState:
    """Logits from scores, as `search.init_masks` makes them."""
    rank = (jnp.argsort(jnp.argsort(score)) + 0.5) / len(score)
    own = jnp.clip(0.5 * (jnp.log(rank) - jnp.log1p(-rank)) + 1, -2, 3)
    above = [
        jax.ops.segment_sum(own, level, len(like))
        / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(own), level, len(like)), 1)
        for level, like in zip(clusters, masks.logits[:-1], strict=True)
    ]
    return masks.replace(logits=[*above, own])  # type: ignore[attr-defined]


def _search(
    state: State,
    model: LanguageModel,
    batch: StepBatch,
    nodes: Dictionary | None,
    *,
    size: jax.Array,
    opened: jax.Array,
) -> tuple[State, dict]:
    prompts = batch.prompts
    at = forward(model, prompts.inputs(), read=prompts.reads).logits
    target = Target(prompts, at.reshape(len(prompts), -1, *at.shape[1:]), prompts.metric(at))
    tree = Tree(state.clusters, state.config.counts(model.config))
    masks, metrics = update(
        model, dictionary(state, model, nodes), target, target.scale(), tree, state.masks,
        (size, opened), jnp.asarray(state.config.kept, jnp.float32), state.config.masks,
    )  # fmt: skip
    return state.replace(masks=masks), metrics


def circuits(state: State, model: LanguageModel) -> dict[int, Nodes]:
    """The circuits that are left after the last step.

    Args:
        state: Of all steps.
        model: The model.

    Returns:
        Size → `Nodes` of bool, of every size asked for.
    """
    space = state.config.space(model.config)
    rows = zip(state.config.kept, np.asarray(state.masks.kept), strict=True)
    return {size: top_nodes(Nodes.from_flat(space, row), size) for size, row in rows}
