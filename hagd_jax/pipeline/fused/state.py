"""The state of the fused executor: everything that a step changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.corpus import Corpus
from hagd_jax.errors import ConfigError
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline.config import TRANSCODER, ExtractConfig
from hagd_jax.pipeline.fused.means import Tables, empty_tables, groups_in
from hagd_jax.pipeline.fused.reading import read_splits
from hagd_jax.pipeline.fused.setting import Setting, setting_of, uses_means
from hagd_jax.pipeline.starts import chooses
from hagd_jax.search.mask_steps import MaskState, start
from hagd_jax.tasks import Prompts, Task
from hagd_jax.transcoders import Transcoder
from hagd_jax.transcoders import training as tc
from hagd_jax.transcoders.training.normalise import Moments, Normalisation
from hagd_jax.units import Dictionary, Space, as_dictionary, blocks, neurons
from hagd_jax.units.dictionary import MLPS, NEURONS
from hagd_jax.units.features import Features


class Learning(struct.PyTreeNode):
    """A transcoder in training has a training state and the moments of its activations.

    Attributes:
        train: As `transcoders.train` has it.
        moments: Sums from which activations are normalised.
    """

    train: tc.TrainState
    moments: Moments


class State(struct.PyTreeNode):
    """The state holds everything that a step changes.

    Attributes:
        learning: A transcoder in training, or None.
        score: (N,) scores of all nodes, summed over prompts.
        flow: (N,) first-order scores of all nodes, summed over prompts.
        chosen: (M,) int32 features of the graph; None without a graph.
        edges: (S, S) edges of the graph, summed over prompts; or None.
        clusters: (N,) int32 of each level, coarsest first.
        prior: (N,) membership scores that masks begin at.
        metric: () the model's metric, summed over the discover split.
        tables: Sums of node values over groups of prompts, for mean ablation; or None.
        masks: Masks in training, as in `search.train_masks`.
        mask: (N,) bool the circuit.
        slope: (N,) gradient of its loss, summed over prompts; None without repair.
        rows: (P, N) bool circuits that are measured.
        valid: (P,) bool which of them.
        apart: (2, P) their KL from the model and squared relative error of the metric, summed.
        losses: (rounds + 1,) of the circuit before repair and after each round; NaN for none.
        moving: () int32 what repair goes on with: 0 nothing, 1 single swaps, 2 two at once.
        keeps: () bool whether masks are kept, and not the highest scores.
        kl: (2,) KL of masks and of the highest scores on the select split.
        found: (2,) loss of the circuit and of the empty one, on the discover split.
        setting: What was asked for.
    """

    learning: Learning | None
    score: Any
    flow: Any
    chosen: Any
    edges: Any
    clusters: tuple[Any, ...]
    prior: Any
    metric: Any
    tables: Tables | None
    masks: MaskState
    mask: Any
    slope: Any
    rows: Any
    valid: Any
    apart: Any
    losses: Any
    moving: Any
    keeps: Any
    kl: Any
    found: Any
    setting: Setting = struct.field(pytree_node=False)

    __repr__ = one_line


def blank(
    model: LanguageModel, setting: Setting, nodes: Dictionary | None, example: Prompts | None
) -> State:
    """Make the state before the first step.

    Args:
        model: The model, on any mesh.
        setting: What was asked for.
        nodes: The nodes, if no transcoder is learned.
        example: Prompts of the width that steps will read, where there is mean ablation.

    Returns:
        The state.
    """
    config, total, size = setting.config, setting.space.nodes, setting.size
    counts = (*(size.counts if setting.graph else ()), total)
    key = jax.random.key(config.seed)
    masks = start(key, [jnp.zeros(n) for n in counts], len(setting.sizes), config.masks)
    learning = _learning(model, setting)
    tables = None
    if setting.groups is not None and example is not None:
        now = current_nodes(learning, model, nodes, setting)
        tables = empty_tables(model, now, example, setting.groups)
    rounds = setting.repairs.rounds if setting.repairs else 0
    return State(
        learning=learning,
        score=jnp.zeros(total),
        flow=jnp.zeros(total),
        # What is not needed is None: a checkpoint holds no empty arrays.
        chosen=jnp.arange(size.chosen, dtype=jnp.int32) if setting.graph else None,
        edges=jnp.zeros((size.nodes, size.nodes)) if setting.graph else None,
        clusters=tuple(jnp.zeros(total, jnp.int32) for _ in counts[:-1]),
        prior=jnp.zeros(total),
        metric=jnp.float32(0),
        tables=tables,
        masks=masks,
        mask=jnp.zeros(total, bool),
        slope=jnp.zeros(total) if setting.repairs else None,
        rows=jnp.zeros((setting.rows, total), bool),
        valid=jnp.zeros(setting.rows, bool),
        apart=jnp.zeros((2, setting.rows)),
        losses=jnp.full(rounds + 1, jnp.nan),
        moving=jnp.int32(0),
        keeps=jnp.asarray(True),
        kl=jnp.zeros(2),
        found=jnp.zeros(2),
        setting=setting,
    )


def _learning(model: LanguageModel, setting: Setting) -> Learning | None:
    if not setting.learns:
        return None
    config = setting.config.train
    own = config.transcoder(model.config)
    train = tc.init_state(own, config, Normalisation.identity(own), mesh=model.mesh)
    wide, flat = jnp.zeros((own.n_layers, own.d_model)), jnp.zeros(own.n_layers)
    zeros = [jnp.copy(x) for x in (wide, flat, wide, flat)]
    return Learning(train, Moments(jnp.float32(0), *zeros))


def current_nodes(
    learning: Learning | None, model: LanguageModel, nodes: Dictionary | None, setting: Setting
) -> Dictionary:
    """Return the dictionary given, or that of the transcoder in training."""
    if learning is None:
        return neurons(model).bare() if nodes is None else nodes
    own = setting.config.train.transcoder(model.config)
    made = tc.finish(learning.train, own, mesh=model.mesh, name="")
    return Features(model.config, "", made)


def require_loop(config: ExtractConfig) -> None:
    """Refuse what is not in the steps: a search over units, and a choice among scores.

    The state of the former has the shapes of a tree that is not yet made.

    Raises:
        ConfigError: If the configuration asks for one of them.
    """
    if chooses(config):
        raise ConfigError(
            "starts", got=f"{len(config.starts)}, {', '.join(config.starts)}",
            expected="one, since steps do not choose",
            mend='Set starts=("ig",), or call extract(...), with executor="fused" on a mesh.',
        )  # fmt: skip
    if config.search == "units":
        raise ConfigError(
            "search", got="'units'", expected="'masks' or 'top', whose states have fixed shapes",
            mend='Set search="masks", or call extract(...), with executor="fused" on a mesh.',
        )  # fmt: skip


def init(
    model: LanguageModel,
    config: ExtractConfig = ExtractConfig(search="masks"),
    *,
    task: Task | None = None,
    dictionary: Dictionary | Transcoder | None = None,
    corpus: Corpus | None = None,
) -> State:
    """Initialise the state of the fused executor before its first step.

    Args:
        model: The model, on any mesh.
        config: The configuration. With `features` = `transcoder` the steps learn one, trained as
            `config.train` says.
        task: The behaviour; only mean ablation needs it, for the groups of its prompts.
        dictionary: The nodes inside MLPs, if they are not neurons and not learned.
        corpus: Text that a transcoder is learned from; its length decides how many steps do.

    Returns:
        The state.

    Raises:
        ConfigError: If the circuit has more nodes than the model, the nodes or the task are
            missing, or there are several starts, or units are searched over: the shapes of that
            search are known once the tree is made, so `extract` alone runs it.

    Example:
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> state = init(case.model, ExtractConfig(nodes="3", search="top"))
        >>> state.mask.shape
        (10,)
    """
    require_loop(config)
    named = config.features
    if named not in (NEURONS, MLPS, TRANSCODER) and dictionary is None:
        raise ConfigError("features", got=repr(named), expected="neurons, mlps or transcoder",
                          mend="Load it, and pass it as `dictionary`.")  # fmt: skip
    nodes, text = None, (0, 0)
    if named != TRANSCODER:
        nodes = as_dictionary(model, blocks(model) if named == MLPS else dictionary)
    elif corpus is None:
        raise ConfigError("corpus", got="none", expected="text to train a transcoder on",
                          mend="Pass an opened `corpus`.")  # fmt: skip
    else:
        length = corpus.train.layout.length
        text = config.train.steps(length), length
    groups, example = None, None
    if uses_means(config):
        if task is None:
            raise ConfigError("task", got="none", expected="one, for the groups of mean ablation",
                              mend="Call init(model, config, task=task).")  # fmt: skip
        splits = read_splits(task)
        groups = len(groups_in(splits)), splits["discover"].clean.shape[-1]
        example = splits["discover"][:1]
    space = space_of(model, config, nodes)
    return blank(model, setting_of(config, space, text=text, groups=groups), nodes, example)


def space_of(model: LanguageModel, config: ExtractConfig, nodes: Dictionary | None) -> Space:
    """Return the space of the nodes given, or of the transcoder to be trained."""
    if nodes is not None:
        return nodes.space
    own = config.train.transcoder(model.config)
    return Space(model.config.n_layers, model.config.n_heads, own.n_features)
