"""Signatures: the same numbers for every unit of every model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from hagd_jax.errors import InputError, require_config, require_index, require_is, require_number
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import require_key
from hagd_jax.roles.attention import Patterns, Spread, explained, observe
from hagd_jax.roles.copying import copying
from hagd_jax.roles.effects import READERS, SPANS, Effects, effects
from hagd_jax.roles.sequences import sequences
from hagd_jax.tasks.definition import Task, require_split
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import Space, Unit, UnitTree, neurons
from hagd_jax.units import tree as tree_of
from hagd_jax.units.dictionary import NEURONS
from hagd_jax.units.unit import require_antichain

PATTERNS = Patterns._fields
# The parts of a smaller effect, as a share of what the counterfactual changes, are rounding.
_NOTHING = 1e-3
DEPENDS = ("on_token", "on_place", "on_before")
READS = ("reads_answer", "reads_distractor", "reads_changed")
# Columns that only attention has: 0 in units without heads, where `known` is False.
OF_HEADS = (*PATTERNS, "copying", *READS)
NAMES = (
    *("attention", "mlp", "depth"),
    *OF_HEADS,
    *DEPENDS,
    *("direct", "agreement", "necessity", "ablated", "touched"),
    *(f"to_{name}" for name in READERS),
    *(f"at_{name}" for name in SPANS),
)


@dataclasses.dataclass(frozen=True)
class SignatureConfig:
    """Configure how signatures are measured.

    Attributes:
        split: Split of the task whose prompts are read.
        prompts: Most prompts of it, the first ones.
        rows: Synthetic prompts.
        batch_size: Prompts in one call.

    Raises:
        ConfigError: If a number is not positive.
        InputError: If there is no such split.

    Example:
        >>> SignatureConfig(prompts=16).rows
        96
    """

    split: str = "discover"
    prompts: int = 64
    rows: int = 96
    batch_size: int = 16

    def __post_init__(self):
        require_split(self.split)
        for field in ("prompts", "rows", "batch_size"):
            require_number(field, getattr(self, field), least=1, whole=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures are a table: a row for each unit, a column for each of `NAMES`.

    - `attention`, `mlp`: whether the unit has heads, and whether it has neurons.
    - `depth`: mean of (layer + ½) / L over its leaves.
    - Of its heads on synthetic prompts, see `Patterns`; `copying`, see `roles.copying`.
    - `reads_answer`, `reads_distractor`, `reads_changed`: attention from where the answer is read
      to positions of the answer, of the distractor, and to those that the counterfactual changes.
    - `on_token`, `on_place`, `on_before`: adjusted share of the variance of its values on
      synthetic prompts that the current token, the position, and the token before decide.
    - `direct`, `agreement`, `necessity`, `ablated`, `touched`: see `Effects`.
    - `to_q` … `to_logits`: shares of the first-order effect by what reads the unit; `at_read`,
      `at_changed`, `at_rest`: by where it writes. They sum to 1, or are 0 without any effect.

    Numbers of a unit's heads, and of what its leaves' values depend on, are means weighed by the
    leaves' first-order effects.

    Attributes:
        units: The units.
        values: (U, K) float32; entries that make no sense for a unit are 0.
        known: (U, K) bool, false for these. Distances between units should leave them out.
        seen: The data that was looked at.
        standard: Whether columns were standardised.
    """

    units: tuple[Unit, ...]
    values: np.ndarray
    known: np.ndarray
    seen: Seen = dataclasses.field(default_factory=Seen.unknown)
    standard: bool = False

    def __repr__(self) -> str:
        words = ", standardised" if self.standard else ""
        return f"Signatures({len(self)} units, {len(NAMES)} columns{words})"

    def __len__(self) -> int:
        return len(self.units)

    def column(self, name: str) -> np.ndarray:
        """Return the (U,) values of a column.

        Raises:
            InputError: If there is no such column.
        """
        if name not in NAMES:
            raise InputError("column", got=repr(name)[:80], expected=f"one of {', '.join(NAMES)}")
        return self.values[:, NAMES.index(name)]

    def usual(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute the mean and the deviation of each column, over the units that know it.

        Returns:
            (K,) float64 twice; the deviation is infinite where all units are the same.
        """
        count = np.maximum(self.known.sum(0), 1)
        values = self.values.astype(np.float64) * self.known
        mean = values.sum(0) / count
        deviation = np.sqrt((((values - mean) * self.known) ** 2).sum(0) / count)
        return mean, np.where(deviation > 1e-6, deviation, np.inf)

    def standardised(self) -> Signatures:
        """Subtract each column's mean, and divide by its deviation, over the units that know it.

        Units of two models can then be compared. What is not known stays 0, as does a column that
        is the same for all units.
        """
        mean, deviation = self.usual()
        scaled = (self.values.astype(np.float64) - mean) / deviation * self.known
        return dataclasses.replace(self, values=scaled.astype(np.float32), standard=True)


def signatures(
    model: LanguageModel,
    task: Task | Prompts,
    units: Iterable[str | Unit],
    config: SignatureConfig = SignatureConfig(),
    *,
    key: jax.Array | None = None,
    tree: UnitTree | None = None,
) -> Signatures:
    """Measure the signature of every unit.

    Args:
        model: The model.
        task: A task with counterfactuals, or prompts.
        units: Heads, neurons, attention blocks, MLPs, clusters or bands of layers, without a leaf
            in common: units, or their names.
        config: How to measure.
        key: Of the synthetic prompts; `jax.random.key(0)` if None.
        tree: The tree that names of clusters are of; one without clusters if None.

    Returns:
        The signatures, in the order of the units.

    Raises:
        InputError: If a unit does not exist or two overlap, if units are a transcoder's features,
            or if the prompts do not fit the model.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> found = signatures(case.model, case.prompts, case.roles)
        >>> found.values.shape == (len(case.roles), len(NAMES))
        True
    """
    require_is("model", model, LanguageModel)
    require_is("task", task, Task, Prompts)
    require_config("config", config, SignatureConfig)
    key = jax.random.key(0) if key is None else key
    require_key(key)
    chosen = _units(model, units, tree)
    prompts = read_prompts(model, task, config)
    space = neurons(model).space
    done = effects(model, prompts, space, chosen, config.batch_size)
    patterns, spread = observe(
        model, sequences(model, prompts, config.rows, key), config.batch_size
    )
    values, known = _table(model, space, chosen, done, patterns, spread)
    name = {"split": config.split, "task": task.name} if isinstance(task, Task) else {}
    seen = look(prompts, ablation=("counterfactual", "mean"), model=model, dictionary=NEURONS,
                **name)  # fmt: skip
    return Signatures(chosen, values.astype(np.float32), known, seen)


def read_prompts(model: LanguageModel, task: Task | Prompts, config: SignatureConfig) -> Prompts:
    """Return the prompts whose effects are measured: the first ones of the split.

    Raises:
        InputError: If they do not fit the model.
    """
    prompts = task.splits[config.split] if isinstance(task, Task) else task
    prompts.check(model.config.vocab_size)
    return prompts[: config.prompts]


def _units(
    model: LanguageModel, units: Iterable[str | Unit], own: UnitTree | None
) -> tuple[Unit, ...]:
    """The units, checked to be the model's own and an antichain."""
    own = tree_of(model) if own is None else own
    require_is("tree", own, UnitTree)
    space = neurons(model).space
    if own.space != space or own.dictionary != NEURONS:
        raise InputError(
            "tree", got=f"{own!r} of {own.dictionary}", expected=f"one of {tuple(space)} neurons",
            mend="Signatures exist for heads and neurons, and for units made of them.",
        )  # fmt: skip
    listed = [units] if isinstance(units, str | Unit) else list(units)
    # A cluster carries its leaves, so it needs no tree.
    named = [unit for unit in listed if not isinstance(unit, Unit)]
    made = iter([own.unit(name) for name in named])
    chosen = tuple(unit if isinstance(unit, Unit) else next(made) for unit in listed)
    if not chosen:
        raise InputError("units", got="none", expected="one or more")
    for unit in chosen:
        require_index(f"last leaf of {unit.name}", unit.ranges[-1][1] - 1, space.nodes)
    require_antichain("units", chosen)
    return chosen


def _table(
    model: LanguageModel,
    space: Space,
    units: Sequence[Unit],
    done: Effects,
    patterns: Patterns,
    spread: Spread,
) -> tuple[np.ndarray, np.ndarray]:
    """(U, K) values, and whether each is known."""
    heads = space.layers * space.heads
    of_heads = np.stack([np.ravel(own) for own in (*patterns, copying(model))], -1)
    gain = _gains(model)
    size = done.size + 1e-9 * (1 + done.size.max(initial=0))
    total, count = spread.total, spread.sizes
    shares = [
        explained(between, total, count[0], groups)
        for between, groups in zip(spread[1:4], count[1:], strict=True)
    ]
    # Without any effect, the leaves that write most; what does not vary depends on nothing.
    most = gain * total
    weight = done.size + 1e-6 * most / max(most.max(initial=0), 1e-30) + 1e-30
    rows, known = [], []
    for i, unit in enumerate(units):
        places = unit.places()
        own = places[places < heads]
        has = len(own) > 0, len(own) < len(places)
        depth = float(((space.layer[places] + 0.5) / space.layers).mean())
        attended = np.zeros(of_heads.shape[1])
        if len(own):
            attended = np.average(of_heads[own], axis=0, weights=size[own])
        depends = [float(np.average(column[places], weights=weight[places])) for column in shares]
        rows.append([
            *map(float, has), depth, *attended, *done.reads[i], *depends,
            done.direct[i], done.agreement[i], done.necessity[i], done.ablated[i], done.touched[i],
            *_shares(done.readers[i]), *_shares(done.spans[i]),
        ])  # fmt: skip
        known.append([has[0] or name not in OF_HEADS for name in NAMES])
    return np.array(rows), np.array(known)


def _shares(parts: np.ndarray) -> np.ndarray:
    """Divide by the sum; nothing of what is rounding only."""
    total = parts.sum()
    return parts / total if total > _NOTHING else np.zeros_like(parts)


def _gains(model: LanguageModel) -> np.ndarray:
    """(N,) mean square of what a unit of each leaf's value writes to the stream."""
    blocks = model.params["blocks"]
    out = np.asarray(blocks["attn"]["o"]["kernel"], np.float64)
    down = np.asarray(blocks["mlp"]["out"]["kernel"], np.float64)
    heads = (out**2).sum((2, 3)) / out.shape[2]
    return np.concatenate([heads.ravel(), (down**2).sum(2).ravel()])
