"""The fused executor: the stages' turns, one after the other, through one compiled step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from hagd_jax import meta, transcoders
from hagd_jax.brief import one_line
from hagd_jax.corpus import Batches, Corpus
from hagd_jax.errors import CheckpointError
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import sync
from hagd_jax.pipeline.config import TRANSCODER, ExtractConfig
from hagd_jax.pipeline.context import Context, Left, Stage
from hagd_jax.pipeline.features import (
    Basis,
    basis_of,
    features_run,
    measured_here,
    text_of,
    train_config,
)
from hagd_jax.pipeline.fused import results, turns
from hagd_jax.pipeline.fused.means import groups_for, groups_in
from hagd_jax.pipeline.fused.parts import StepBatch
from hagd_jax.pipeline.fused.reading import read_splits, require_readable
from hagd_jax.pipeline.fused.saving import (
    APART,
    Learning,
    Nothing,
    Saving,
    position_file,
)
from hagd_jax.pipeline.fused.setting import setting_of, uses_means
from hagd_jax.pipeline.fused.state import State, blank, require_loop, space_of
from hagd_jax.pipeline.fused.step import step_arrays
from hagd_jax.pipeline.fused.turns import Batcher, Turn, sizes_for
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.staged import run_stages
from hagd_jax.pipeline.stages import LAST, NAMES
from hagd_jax.pipeline.starts import chooses
from hagd_jax.tasks import Task
from hagd_jax.transcoders import Transcoder
from hagd_jax.transcoders import training as tc
from hagd_jax.transcoders.training.record import read_position
from hagd_jax.units import Dictionary, as_dictionary, blocks
from hagd_jax.units.dictionary import MLPS

# Stages of a search over units that are no turns. The shapes of its state are those of the tree,
# which the hierarchy gives: its steps are a compiled, donated and sharded program of their own
# (`search.unit_steps.scan_units`), the same for both executors.
_OF_UNITS = ("search", "repair", "select")
# Parts that compare circuits with what the model does, which is read before.
_COMPARING = ("search", "measure")


class Fused(NamedTuple):
    """A fused stage is a stage as turns of the step.

    Attributes:
        turns: (setting, sizes) → its turns.
        result: (context, results of earlier stages, state) → its result.
        load: (state, result) → the state that later stages go on from.
    """

    turns: Callable[..., list[Turn]]
    result: Callable[[Context, Left, State], Any]
    load: Callable[[State, Any], State]

    __repr__ = one_line


FUSED: dict[str, Fused] = {
    "score": Fused(turns.turns_of_score, results.score, results.with_score),
    "hierarchy": Fused(turns.turns_of_hierarchy, results.hierarchy, results.with_hierarchy),
    "search": Fused(turns.turns_of_search, results.search, results.with_search),
    "repair": Fused(turns.turns_of_repair, results.repair, results.with_repair),
    "select": Fused(turns.turns_of_select, results.select, results.unchanged),
}


def run_fused(context: Context, until: str = LAST) -> Left:
    """Run the stages in order, those up to the circuit as turns of one compiled step.

    With a search over units it is those up to the tree; masks over it are trained in the compiled
    step that the staged executor has, too. Several kinds of scores are computed and chosen among
    before the first step, as the staged executor does it.

    Args:
        context: The inputs.
        until: The last stage to run.

    Returns:
        The results of all stages that ran, as `run_staged` has them.
    """
    going: list[_Going] = []

    def make(stage: Stage, context: Context, left: Left) -> Any:
        if stage.name == "features" and learns(context):
            return _learned(going, stage, context, left)
        over_units = context.config.search == "units" and stage.name in _OF_UNITS
        several = stage.name == "score" and chooses(context.config)
        if stage.name not in FUSED or over_units or several:
            return stage.make(context, left)
        if not going:
            going.append(_Going(context, left["features"].nodes.bare()))
        return going[0].stage(stage.name, context, left)

    return run_stages(context, until, make)


class _Going:
    """The state of a run between its steps, and what the steps read.

    Args:
        context: The inputs.
        nodes: The nodes, if no transcoder is learned.
        corpus: The text that it is learned from, if it is open already.
    """

    def __init__(self, context: Context, nodes: Dictionary | None, corpus: Corpus | None = None):
        self.nodes = None if learns(context) else nodes
        self.batcher = batcher_of(context, self.nodes, corpus)
        self.setting, self.sizes = self.batcher.setting, self.batcher.sizes
        example = self.batcher.splits["discover"][:1]
        self.state = blank(context.model, self.setting, self.nodes, example)
        self.has_read = self.compiled = False

    def stage(self, name: str, context: Context, left: Left) -> Any:
        """The result of a stage, from its turns."""
        self.load(name, context, left)
        fused, place = FUSED[name], NAMES.index(name)
        own, done = fused.turns(self.setting, self.sizes), self.restored(place, context)
        if any(turn.part in _COMPARING for turn in own) and not self.has_read:
            # A state that was saved in the midst of such a stage has read already.
            reading = [] if done else turns.turns_of_reading(self.setting, self.sizes)
            self.take(context, reading, Nothing())
            self.has_read = True
        self.take(context, own, Saving(context, name, place, len(own)), done)
        value = fused.result(context, left, self.state)
        self.state = fused.load(self.state, value)
        return value

    def load(self, name: str, context: Context, left: Left) -> None:
        """Take over the results of earlier stages, whoever made them."""
        learning = self.state.learning
        if learning is not None and int(learning.train.step) < self.setting.steps:
            own = features_run(context)
            saved = own.checkpoints.latest(learning.train) if own else None
            if saved is None or saved[0] != self.setting.steps:
                raise CheckpointError(
                    "features", got="a transcoder without the state of its training",
                    mend="Begin with --from features.",
                )  # fmt: skip
            self.state = self.state.replace(learning=learning.replace(train=saved[1]))
        for before in NAMES[: NAMES.index(name)]:
            if before in FUSED:
                self.state = FUSED[before].load(self.state, left[before])

    def restored(self, place: int, context: Context) -> int:
        """How many turns of a stage an interrupted run has done; the state is what it was."""
        steps = context.run.steps if context.run else None
        saved = steps.steps() if steps else []
        # Of a later stage, if what this one left was damaged and is made again.
        for step in saved:
            if steps is not None and step // APART > place:
                steps.discard(step)
        if steps is None or not any(step // APART == place for step in saved):
            return 0
        found = steps.latest(self.state)
        if found is None or found[0] // APART != place:
            return 0
        self.state = found[1]
        return found[0] % APART

    def take(self, context: Context, own: list[Turn], saving: Nothing, done: int = 0) -> None:
        """Take the turns that are left."""
        saving.begin(done)
        learner = meta.load() if context.config.prior == "learner" else None
        state, bare = self.state, context.model.bare()
        if self.compiled or not own[done:]:
            saving.show(done)
        for number, batch in enumerate(self.batcher.batches(own[done:]), start=done + 1):
            if not self.compiled:
                context.progress("compile", 0, 1)
            state, said = step_arrays(state, bare, batch, self.nodes, learner)
            if not self.compiled:
                # A stage begins afterwards, so that its time and what is left of it count steps.
                self.compiled = True
                context.progress("compile", 1, 1)
                saving.show(done)
            saving.after(number, own[number - 1], state, said)
        self.state = state


def _learned(going: list[_Going], stage: Stage, context: Context, left: Left) -> Basis:
    """Learn the transcoder in steps, and measure it."""
    own, corpus = features_run(context), text_of(context)
    context = dataclasses.replace(context, corpus=corpus)
    if own is not None and own.has("transcoder"):
        return stage.make(context, left)
    going.append(now := _Going(context, None, corpus))
    setting, learning, text = now.setting, now.state.learning, now.batcher.text
    assert learning is not None
    assert text is not None
    every, done = turns.turns_of_features(setting, now.sizes), 0
    saved = _saved(own, learning.train, text) if own else None
    if saved is not None:
        now.state = now.state.replace(learning=learning.replace(train=saved[1]))
        done = len(every) - setting.steps + saved[0]
    now.take(context, every, Learning(context, own, setting, text, len(every)), done)
    trained, model = now.state.learning, context.model
    assert trained is not None
    config = setting.config.train.transcoder(model.config)
    made = tc.finish(trained.train, config, mesh=model.mesh, name=f"{model.name}-transcoder")
    if own is None:
        return basis_of(
            context, as_dictionary(model, made), measured_here(context, corpus, made, own)
        )
    transcoders.save(
        made, own.path / "transcoder", model_name=model.name, of=own.decides("transcoder")
    )
    sync("transcoder saved")
    return stage.make(context, left)


def _saved(own: RunFolder, blank: Any, text: Batches) -> tuple[int, Any] | None:
    """The last training state that is whole, with its position in the text."""
    while (saved := own.checkpoints.latest(blank)) is not None:
        at = own.whole(position_file(saved[0]), functools.partial(read_position, own, saved[0]))
        if at is not None:
            text.restore(at)
            return saved
        own.checkpoints.discard(saved[0])
    return None


def learns(context: Context) -> bool:
    """Tell whether a transcoder is trained for the run."""
    return context.dictionary is None and context.config.features == TRANSCODER


def batcher_of(context: Context, nodes: Dictionary | None, corpus: Corpus | None = None) -> Batcher:
    """Make the batcher for the steps of an extraction.

    Args:
        context: The inputs.
        nodes: The nodes, if no transcoder is learned.
        corpus: The text that it is learned from, if it is open already.
    """
    config, splits, text, batches = context.config, read_splits(context.searched), (0, 0), None
    require_readable(context.model, splits)
    if learns(context):
        corpus = text_of(context) if corpus is None else corpus
        config = dataclasses.replace(config, train=train_config(context))
        length = corpus.train.layout.length
        text = config.train.steps(length), length
        share = jax.process_index(), jax.process_count()
        batches = corpus.batches(config.train.batch_size, seed=config.train.seed, share=share)
    groups, tables = {}, None
    if uses_means(config):
        groups = groups_for(splits)
        tables = len(groups_in(splits)), splits["discover"].clean.shape[-1]
    space = space_of(context.model, config, nodes)
    setting = setting_of(config, space, text=text, groups=tables)
    sizes = sizes_for(context.model, setting, splits)
    return Batcher(context.model, setting, splits, groups, sizes, batches)


def batches(
    model: LanguageModel,
    task: Task,
    config: ExtractConfig = ExtractConfig(search="masks"),
    *,
    dictionary: Dictionary | Transcoder | None = None,
    corpus: Corpus | None = None,
) -> Iterator[StepBatch]:
    """Yield the batches of all steps of the fused executor, in order.

    Args:
        model: The model, on any mesh.
        task: The behaviour.
        config: The configuration.
        dictionary: The nodes inside MLPs, if they are not neurons and not learned.
        corpus: Text that a transcoder is learned from.

    Returns:
        An iterator over what each step does and reads, for `step`.

    Raises:
        ConfigError: If the circuit has more nodes than the model, there is no text, or units are
            searched over, see `init`.
        InputError: If the task does not fit the model.

    Example:
        >>> from hagd_jax.search import MaskConfig
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.testbeds.case import as_task
        >>> case = hand_built()[0]
        >>> config = ExtractConfig(nodes="4", search="masks", masks=MaskConfig(steps=20))
        >>> sum(1 for _ in batches(case.model, as_task(case), config)) > 20
        True
    """
    require_loop(config)
    context = Context(model, task, config, dictionary, corpus)
    nodes = None
    if not learns(context):
        named = blocks(model) if config.features == MLPS else dictionary
        nodes = as_dictionary(model, named).bare()
    own = batcher_of(context, nodes, corpus)
    return own.batches(turns.all_turns(own.setting, own.sizes))
