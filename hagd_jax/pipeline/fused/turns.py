"""What each step of the fused executor does: the stages' turns, and the batches they read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.corpus import Batches
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import sharding, to_global
from hagd_jax.pipeline.fused.means import Groups
from hagd_jax.pipeline.fused.parts import StepBatch
from hagd_jax.pipeline.fused.setting import Setting
from hagd_jax.pipeline.fused.step import parts_of
from hagd_jax.pipeline.starts import chooses
from hagd_jax.search.config import shares
from hagd_jax.search.schedule import schedule
from hagd_jax.tasks import Prompts
from hagd_jax.tasks.batching import batch_rows

# Fields of `Groups` that have an entry for each prompt.
_OF_ROWS = ("group", "shared", "once")


class Turn(NamedTuple):
    """A turn is one step of a stage.

    Attributes:
        part: Which part acts.
        split: Which prompts it reads, or those that were measured before.
        rows: (R,) which of them; None for a part that reads none.
        weight: (R,) what each weighs.
        number: Which step of the masks.
        loss: `masks` or `repair`: under which ablations circuits are measured.
    """

    part: str
    split: str = "discover"
    rows: Any = None
    weight: Any = None
    number: int = 0
    loss: str = "masks"

    __repr__ = one_line


class BatchSizes(NamedTuple):
    """Batch sizes record how many prompts there are to read.

    Attributes:
        counts: Split → prompts.
        rows: Prompts a step, R.
    """

    counts: Mapping[str, int]
    rows: int

    __repr__ = one_line

    def over(self, part: str, split: str = "discover", most: int | None = None, **more: Any) -> Any:
        """List a turn for each batch of a split, in order."""
        count = min(self.counts[split], most or self.counts[split])
        for start in range(0, count, self.rows):
            rows = np.arange(start, start + self.rows)
            weight = (rows < count).astype(np.float32)
            yield Turn(part, split, np.minimum(rows, count - 1), weight, **more)


def turns_of_features(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that train a transcoder, if one is to be trained."""
    if not setting.learns:
        return []
    config = setting.config.train
    through = round(config.through * setting.steps)
    return [
        *[Turn("moments")] * config.estimate,
        Turn("normalise"),
        *[Turn("train")] * (setting.steps - through),
        *[Turn("through")] * through,
    ]


def turns_of_score(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that score every node on the discover split, if there is nothing to choose."""
    if chooses(setting.config):
        return []
    return list(sizes.over("score", most=setting.config.score_prompts))


def turns_of_hierarchy(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that choose features, score edges and cluster, if there is a graph."""
    if not setting.graph:
        return []
    most = setting.config.graph_prompts
    return [
        *sizes.over("flow", most=most),
        Turn("choose"),
        *sizes.over("edges", most=most),
        Turn("coarsen"),
    ]


def turns_of_reading(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that record the model's behaviour, before any comparison with it."""
    splits = sizes.counts if setting.groups else ("discover",)
    return [Turn("open"), *(turn for split in splits for turn in sizes.over("read", split))]


def turns_of_search(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that train masks and read the circuit."""
    if not setting.masks:
        return [Turn("settle")]
    drawn = drawn_rows(setting, sizes)
    weight = np.ones(sizes.rows, np.float32)
    steps = [Turn("search", "discover", rows, weight, number) for number, rows in enumerate(drawn)]
    return [Turn("begin"), *steps, Turn("settle")]


def turns_of_repair(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that swap members, if swaps are requested."""
    if setting.repairs is None:
        return []
    measured = list(sizes.over("measure", loss="repair"))
    each = [
        Turn("still"),
        *sizes.over("slope", loss="repair"),
        Turn("propose"),
        *measured,
        Turn("take"),
        *measured,
        Turn("take_pairs"),
    ]
    return [Turn("before"), *measured, Turn("repairing"), *each * setting.repairs.rounds]


def turns_of_select(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List the turns that choose between masks and top scores, and measure the empty circuit."""
    chosen = []
    if setting.masks and "select" in sizes.counts:
        chosen = [Turn("compare"), *sizes.over("measure", "select"), Turn("pick", "select")]
    return [*chosen, Turn("check"), *sizes.over("measure"), Turn("note")]


def drawn_rows(setting: Setting, sizes: BatchSizes) -> np.ndarray:
    """Draw the (steps, R) prompts of each mask step as `search.train_masks` does."""

    def draw(key: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        after, of_batch, _ = jax.random.split(key, 3)
        return after, jax.random.randint(of_batch, (sizes.rows,), 0, sizes.counts["discover"])

    key = jax.random.key(setting.config.seed)
    return np.asarray(jax.lax.scan(draw, key, None, setting.config.masks.steps)[1])


class Batcher(NamedTuple):
    """A batcher holds the data that turns read.

    Attributes:
        model: The model, on any mesh.
        setting: What was asked for.
        splits: The prompts, of one shape.
        groups: Split → groups of its prompts, with mean ablation.
        sizes: How many prompts there are.
        text: Batches of text, from where the training is; or None.
    """

    model: LanguageModel
    setting: Setting
    splits: Mapping[str, Prompts]
    groups: Mapping[str, Groups]
    sizes: BatchSizes
    text: Batches | None

    __repr__ = one_line

    def batches(self, turns: list[Turn]) -> Iterator[StepBatch]:
        """Yield the batch of each turn."""
        blank = None
        for turn in turns:
            tokens = blank
            if self.text is not None and turn.part in ("moments", "train", "through"):
                tokens = to_global(self.model.mesh, tuple(next(self.text)))
            elif self.text is not None and blank is None:
                tokens = blank = to_global(self.model.mesh, self._no_text())
            yield self._batch(turn, tokens)

    def _no_text(self) -> tuple[np.ndarray, np.ndarray]:
        config = self.setting.config.train
        rows = config.batch_size // jax.process_count()
        shape = rows, self.setting.length
        return np.zeros(shape, np.int32), np.zeros(shape, np.float32)

    def _batch(self, turn: Turn, tokens: Any) -> StepBatch:
        setting, counts = self.setting, self.sizes.counts
        rows = np.zeros(self.sizes.rows, int) if turn.rows is None else turn.rows
        weight = np.zeros(self.sizes.rows, np.float32) if turn.rows is None else turn.weight
        levels = len(setting.size.counts) if setting.graph else 0
        plan = schedule(setting.config.masks, setting.space.nodes, setting.asked, levels)
        under = setting.repairs if turn.loss == "repair" else setting.loss
        assert under is not None
        share = [shares(under).get(name, 0.0) for name in ("counterfactual", "mean")]
        groups = None
        if setting.groups is not None:
            own = self.groups[turn.split]
            some = own._replace(**{name: getattr(own, name)[rows] for name in _OF_ROWS})
            placed = _placed(self.model.mesh, {name: getattr(some, name) for name in _OF_ROWS})
            groups = some._replace(**placed)
        prompts, weight = _placed(self.model.mesh, (self.splits[turn.split][rows], weight))
        return StepBatch(
            part=np.int32(parts_of(setting).index(turn.part)),
            prompts=prompts,
            weight=weight,
            split=np.int32(turn.split == "select"),
            totals=np.array([counts["discover"], counts[turn.split]], np.float32),
            shares=np.array(share, np.float32),
            size=plan.size[turn.number],
            opened=plan.opened[turn.number],
            groups=groups,
            tokens=None if tokens is None else tokens[0],
            token_weight=None if tokens is None else tokens[1],
        )


def _placed(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
    """Rows on the devices that share a batch."""

    def place(x: np.ndarray) -> jax.Array:
        if mesh is None:
            return jnp.asarray(x)
        return jax.device_put(x, sharding(mesh, ("batch",) + (None,) * (x.ndim - 1), x.shape))

    return jax.tree.map(place, tree)


def sizes_for(model: LanguageModel, setting: Setting, splits: Mapping[str, Prompts]) -> BatchSizes:
    """Count the prompts of each split, and the rows of a batch."""
    counts = {name: len(prompts) for name, prompts in splits.items()}
    rows = batch_rows(counts["discover"], setting.config.masks.batch_size, model.mesh)
    return BatchSizes(counts, rows)


def all_turns(setting: Setting, sizes: BatchSizes) -> list[Turn]:
    """List every turn of every stage, in order."""
    several = (
        turns_of_features, turns_of_score, turns_of_hierarchy, turns_of_reading, turns_of_search,
        turns_of_repair, turns_of_select,
    )  # fmt: skip
    return list(itertools.chain.from_iterable(each(setting, sizes) for each in several))
