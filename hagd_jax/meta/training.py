"""Meta-training: over graphs with known circuits, before and after adaptation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax

from hagd_jax.brief import one_line
from hagd_jax.errors import (
    InputError,
    TrainingError,
    require_config,
    require_is,
    require_list,
    require_number,
)
from hagd_jax.meta.adapt import Measured, adapted
from hagd_jax.meta.learner import Learner, LearnerConfig, init, padded, states

# Steps between looks at the loss.
_CHECKED = 50


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """Configure how the learner is trained.

    Attributes:
        learner: How large it is.
        steps: Of Adam, a graph each.
        learning_rate: At its height.
        weight_decay: Of all weights.
        adapt: Weight of the loss after adaptation, beside that before.
        noise: Of the features of nodes and edges, so that single graphs are not learnt by heart.
        seed: Of the weights, the order and the noise.
    """

    learner: LearnerConfig = LearnerConfig()
    steps: int = 600
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    adapt: float = 1.0
    noise: float = 0.2
    seed: int = 0

    def __post_init__(self):
        require_config("learner", self.learner, LearnerConfig)
        require_number("steps", self.steps, least=1, whole=True)
        require_number("learning_rate", self.learning_rate, above=0)
        for field in ("weight_decay", "adapt", "noise"):
            require_number(field, getattr(self, field), least=0)
        require_number("seed", self.seed, least=0, whole=True)


class Example(NamedTuple):
    """An example is a graph whose circuit is known.

    Attributes:
        graph: From `describe`.
        members: (N,) bool.
        measured: Nodes that were ablated, as many in each example.
    """

    graph: jraph.GraphsTuple
    members: np.ndarray
    measured: Measured

    __repr__ = one_line


def train(
    examples: Sequence[Example],
    config: MetaConfig = MetaConfig(),
    *,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Learner:
    """Train a learner to predict circuit membership from graphs with known circuits.

    The loss of a graph is the mean cross-entropy of its nodes, members and others weighing alike:
    once of the logits as they come, and once after the inner loop, through which it is
    differentiated.

    Args:
        examples: Graphs with known circuits.
        config: How.
        on_step: Called as on_step(step, steps, loss) now and then.

    Returns:
        The learner. Same examples, configuration and machine, same weights.

    Raises:
        InputError: If there is no example, or one all of whose nodes, or none, are members.
        TrainingError: If the loss is not finite.
    """
    require_is("config", config, MetaConfig)
    examples = require_list("examples", examples, "graphs with known circuits")
    for number, one in enumerate(examples):
        require_is(f"example {number}", one, Example)
    if not examples:
        raise InputError("examples", got="none", expected="graphs with known circuits")
    for number, one in enumerate(examples):
        if not 0 < np.sum(one.members) < len(one.members):
            raise InputError(
                f"example {number}", got=f"{np.sum(one.members)} of {len(one.members)} members",
                expected="some, and not all",
            )  # fmt: skip
    rows = [_padded(one) for one in examples]
    learner = init(config.learner, jax.random.key(config.seed))
    params, opt_state = learner.params, _optimizer(config).init(learner.params)
    order, own = np.random.default_rng(config.seed), dataclasses.replace(config, seed=0)
    turn: list[int] = []
    for step in range(config.steps):
        turn = turn or order.permutation(len(rows)).tolist()
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        params, opt_state, loss = _step(params, opt_state, rows[turn.pop()], key, own)
        if (step + 1) % _CHECKED and step + 1 < config.steps:
            continue
        # What is not finite once stays so.
        if not np.isfinite(loss):
            raise TrainingError(
                f"step {step + 1}", got="NaN or infinity", expected="finite numbers",
                mend="Try a smaller learning_rate.",
            )  # fmt: skip
        if on_step is not None:
            on_step(step + 1, config.steps, float(loss))
    return Learner(params, config.learner)


def _padded(one: Example) -> tuple[jraph.GraphsTuple, jax.Array, jax.Array, Measured]:
    """The graph at a size of few, its labels, and how much each node weighs."""
    graph, count = padded(one.graph), int(one.graph.n_node[0])
    nodes = len(graph.nodes)  # type: ignore[arg-type]
    label = np.zeros(nodes, np.float32)
    label[:count] = one.members
    weight = np.zeros(nodes, np.float32)
    weight[:count] = np.where(
        one.members, 0.5 / np.sum(one.members), 0.5 / np.sum(~np.asarray(one.members, bool))
    )
    return graph, jnp.asarray(label), jnp.asarray(weight), one.measured._replace(seen=None)


@functools.partial(jax.jit, static_argnames="config")
def _step(
    params: Any, opt_state: Any, example: tuple, key: jax.Array, config: MetaConfig
) -> tuple[Any, Any, jax.Array]:
    graph, label, weight, measured = example
    of_nodes, of_edges = jax.random.split(key)
    blur = lambda x, k: x + config.noise * jax.random.normal(k, x.shape)  # noqa: E731
    graph = graph._replace(nodes=blur(graph.nodes, of_nodes), edges=blur(graph.edges, of_edges))

    def loss(params: Any) -> jax.Array:
        learner = Learner(params, config.learner)
        seen = states(learner, graph)
        before = seen @ params["weight"] + params["bias"]
        after = adapted(learner, seen, measured)
        first, second = (
            jnp.sum(weight * optax.sigmoid_binary_cross_entropy(x, label)) for x in (before, after)
        )
        return first + config.adapt * second

    value, gradient = jax.value_and_grad(loss)(params)
    updates, opt_state = _optimizer(config).update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


def _optimizer(config: MetaConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, max(config.steps // 20, 1), max(config.steps, 2)
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=config.weight_decay)
    )
