"""Run a model with everything outside a circuit ablated, many circuits in one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.partners import at_last, partners
from hagd_jax.causal.reference import Means, Places, reference_means
from hagd_jax.errors import (
    InputError,
    require_choice,
    require_index,
    require_is,
    require_list,
    shown,
)
from hagd_jax.interventions import zero_alternative
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.tasks.batching import narrow_batches
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import AnyParts, Edges, Nodes, Source, parts_of
from hagd_jax.units.checks import require_mask
from hagd_jax.units.dictionary import MLPS, NEURONS
from hagd_jax.units.unit_edges import UnitEdges

# Masks are filled up to a multiple of this, unless that took more memory than the second number.
_MASKS, _MOST_BYTES = 256, 1 << 26
# With so many masks the padding of short prompts costs more than compiling for several widths.
_MANY, _WIDTHS = 16, 4
Named = Literal["zero", "mean", "mean_overall", "resample", "counterfactual"]
ABLATIONS: tuple[Named, ...] = get_args(Named)
# The mean of a template with few prompts is the mean over all.
_MEANS = frozenset({"mean", "mean_overall"})


class Known(NamedTuple):
    """Known means hold what was summed over a reference, and for which model, prompts and parts."""

    model: LanguageModel
    prompts: Prompts
    parts: AnyParts
    means: Means
    places: Places

    __repr__ = one_line

    def of(self, model: LanguageModel, prompts: Prompts, parts: AnyParts) -> bool:
        """Tell whether these are what was summed for: the same objects.

        Neurons and whole MLPs are made anew for every call, and are the model's alone.
        """
        labels = {getattr(each, "label", "") for each in (self.parts, parts)}
        alike = self.parts is parts or labels in ({NEURONS}, {MLPS})
        return self.model is model and self.prompts is prompts and alike


@dataclasses.dataclass(frozen=True, eq=False)
class Ablation:
    """What nodes outside a circuit are set to.

    Attributes:
        kind: `zero`; `mean`, their mean at each position over reference prompts of the same group;
            `mean_overall`, their mean over all positions of all reference prompts; `resample`,
            their values on one reference prompt; `counterfactual`, their values on the corrupted
            prompt.
        reference: Prompts whose clean side is averaged or resampled, such as the discover split;
            the measured ones if None. Their groups are numbered as those of the measured ones.
            Which of them are taken where there are few says `causal.reference`; a prompt is never
            in its own reference.
        seed: Pairs prompts for `resample`; neighbouring numbers give different partners.
        known: Means that were summed before, see `knowing`.

    Raises:
        ConfigError: If there is no such ablation.
        InputError: If the reference is no prompts, the seed no whole number, or what is known was
            not made by `knowing`.

    Example:
        >>> Ablation("resample", seed=1).kind
        'resample'
    """

    kind: str
    reference: Prompts | None = None
    seed: int = 0
    known: Known | None = None

    def __post_init__(self):
        require_choice("ablation", self.kind, ABLATIONS)
        if self.reference is not None:
            require_prompts("reference", self.reference)
        require_index("seed", self.seed)
        if self.known is not None:
            require_is("known", self.known, Known, mend="Call Ablation.knowing.")

    __repr__ = one_line

    def knowing(
        self,
        model: LanguageModel,
        prompts: Prompts,
        dictionary: AnyParts | Source | None = None,
        batch_size: int = 16,
    ) -> Ablation:
        """Return the ablation with its means, for many calls of `behaviour` on the same prompts.

        A call that is given the same model and prompts, the objects themselves, does not sum over
        the reference again. Ablations that take no means are returned as they are.

        Args:
            model: The model.
            prompts: Where to measure.
            dictionary: As in `behaviour`.
            batch_size: Prompts in one call.

        Raises:
            InputError: As `behaviour`.

        Example:
            >>> from hagd_jax.testbeds import hand_built
            >>> case = hand_built()[0]
            >>> Ablation("mean").knowing(case.model, case.prompts).known is not None
            True
        """
        if self.kind not in _MEANS:
            return self
        _require_inputs(model, prompts, self, None)
        known = _summed(self, model, prompts, parts_of(model, dictionary), batch_size)
        return dataclasses.replace(self, known=known)


class Behaviour(NamedTuple):
    """What K circuits do on N prompts; every array is (K, N) on the host.

    Attributes:
        metric: Logit of the answer minus logit of the distractor.
        correct: Whether the answer wins.
        kl: KL(model ‖ circuit) of the next token at the answer position, in nats.
        match: Whether the top token is the model's.
    """

    metric: Any
    correct: Any
    kl: Any
    match: Any

    __repr__ = one_line


def kin(ablation: str) -> frozenset[str]:
    """Return the ablations that a circuit found under one has seen the values of.

    Args:
        ablation: One of `ABLATIONS`.

    Example:
        >>> sorted(kin("mean")), sorted(kin("zero"))
        (['mean', 'mean_overall'], ['zero'])
    """
    return _MEANS if ablation in _MEANS else frozenset({ablation})


def behaviour(
    model: LanguageModel,
    prompts: Prompts,
    masks: Sequence[Nodes | Edges | UnitEdges],
    *,
    ablation: Ablation | str,
    dictionary: AnyParts | Source | None = None,
    candidates: tuple[int, ...] | None = None,
    batch_size: int = 16,
    with_model: bool = False,
) -> Behaviour:
    """Measure circuits by ablating their complements.

    Args:
        model: The model.
        prompts: Where to measure.
        masks: One `Nodes` of bool for each circuit; or `Edges`, with `components(model)`; or
            `UnitEdges`, with `wired(model, frame)`.
        ablation: What ablated nodes are set to, see `Ablation`; or its kind alone.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components` or `wired` units, between which edges are cut.
        candidates: Tokens among which the answer must win; the distractor alone if None.
        batch_size: Prompts in one call.
        with_model: Put what the model itself does in front, K + 1 rows in all. Dictionaries
            without errors have no circuit that does just that.

    Returns:
        The behaviour of each circuit on each prompt.

    Raises:
        ConfigError: If the ablation does not exist.
        InputError: If a prompt has no other prompt to be averaged over or resampled from, or no
            circuit was given, or one is no mask or has other nodes than the dictionary, or prompts,
            candidates or dictionary do not fit the model.

    Example:
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> space = hagd.units.neurons(case.model).space
        >>> both = [Nodes.full(space, True), Nodes.full(space, False)]
        >>> found = behaviour(case.model, case.prompts, both, ablation="zero")
        >>> found.kl.shape, bool(found.kl[0].max() < 1e-6 < found.kl[1].max())
        ((2, 81), True)
    """
    if not isinstance(ablation, Ablation):
        ablation = Ablation(ablation)
    candidates = _require_inputs(model, prompts, ablation, candidates)
    masks = require_list("masks", masks, "a mask for each circuit")
    if not masks:
        raise InputError("masks", got="none", expected="at least one circuit")
    nodes = parts_of(model, dictionary)
    nodes.at(prompts)  # refuses prompts of other spans
    circuits = _stacked(masks, nodes)
    means, beside = None, {}
    kind, reference = ablation.kind, ablation.reference
    if kind in _MEANS:
        known = ablation.known
        if known is None or not known.of(model, prompts, nodes):
            known = _summed(ablation, model, prompts, nodes, batch_size)
        means, beside = known.means, known.places._asdict()
    if kind == "resample":
        prompts, beside = resampled(model, prompts, reference, ablation.seed)
    widths = _WIDTHS if len(masks) >= _MANY else 1
    found, order = list[Behaviour](), list[int]()
    for which, batch, own in narrow_batches(model, prompts, beside, batch_size, widths):
        made = _judge(model.bare(), nodes, batch, own, circuits, means, kind, candidates)
        # The rows that filled up the last batch come last.
        found.append(Behaviour(*(np.asarray(rows)[:, : len(which)] for rows in made)))
        order += which.tolist()
    # The model's row comes first, and the masks that are no circuits last.
    kept, back = slice(0 if with_model else 1, 1 + len(masks)), np.argsort(order)
    columns = zip(*found, strict=True)
    return Behaviour(*(np.concatenate(rows, 1)[kept][:, back] for rows in columns))


def _summed(
    ablation: Ablation, model: LanguageModel, prompts: Prompts, parts: AnyParts, batch_size: int
) -> Known:
    found = reference_means(
        model, parts, prompts, ablation.reference, batch_size=batch_size,
        per_position=ablation.kind == "mean",
    )  # fmt: skip
    return Known(model, prompts, parts, *found)


def _require_inputs(
    model: Any, prompts: Any, ablation: Ablation, candidates: Any
) -> tuple[int, ...] | None:
    """Refuse prompts and candidates that do not fit the model; return the latter as ids."""
    require_is("model", model, LanguageModel)
    vocabulary = model.config.vocab_size
    require_prompts("prompts", prompts)
    for some in (prompts, ablation.reference):
        if some is not None:
            some.check(vocabulary)
    if candidates is None:
        return None
    listed = require_list("candidates", candidates, "token ids, or None")
    return tuple(require_index("candidates", token, vocabulary) for token in listed)


class _Circuits(NamedTuple):
    """Masks of circuits along a first axis, of which only the first `count` are run."""

    masks: Any
    count: Any


def _stacked(masks: Sequence[Nodes | Edges | UnitEdges], parts: AnyParts) -> _Circuits:
    """The masks and copies that are never run, so that one program serves any number of them."""
    for mask in masks:
        require_mask("masks", mask, parts.space)
    masks = [type(mask)(**{k: np.asarray(v) for k, v in vars(mask).items()}) for mask in masks]
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(masks[0]))
    room = _MASKS if _MASKS * size <= _MOST_BYTES else 1
    padded = [*masks, *[masks[-1]] * (-len(masks) % room)]
    stacked = jax.tree.map(lambda *rows: np.stack([np.asarray(x) for x in rows]), *padded)
    return _Circuits(stacked, len(masks))


def resampled(
    model: LanguageModel, prompts: Prompts, reference: Prompts | None, seed: int
) -> tuple[Prompts, dict[str, np.ndarray]]:
    """Put each prompt's partner in place of its counterfactual.

    Args:
        model: The model that will read them.
        prompts: N prompts.
        reference: Prompts to draw from, see `partners`; the measured ones if None.
        seed: Which of the possible partners.

    Returns:
        The prompts, and `length`, the tokens of each partner's rows, if any partner is shorter than
        its prompt, whose values must then pass `at_last`; nothing otherwise.

    Raises:
        InputError: If a prompt has no partner, or one of another length in a model that reads both
            ways.

    Example:
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> made, beside = resampled(case.model, case.prompts, None, 0)
        >>> len(made), beside
        (81, {})
    """
    tokens, length = partners(prompts, reference, seed=seed)
    made = dataclasses.replace(prompts, corrupted=tokens)
    own = np.asarray(prompts.length)
    if not model.config.causal and (length != own).any():
        raise InputError(
            "reference", got=f"partners of {length.min()} to {length.max()} tokens",
            expected="the prompts' own length, since this model reads both ways",
            mend="Give reference prompts of that length, or eight prompts of it.",
        )  # fmt: skip
    return made, {"length": length.astype(np.int32)} if (length < own).any() else {}


def require_prompts(what: str, value: Any) -> None:
    """Refuse anything but prompts: `Prompts`, or `Choices` that answer the same questions.

    Args:
        what: Name of the argument.
        value: The prompts.

    Raises:
        InputError: If it is something else.

    Example:
        >>> from hagd_jax.testbeds import hand_built
        >>> require_prompts("prompts", hand_built()[0].prompts)
    """
    if not hasattr(value, "per_row"):
        raise InputError(what, got=shown(value), expected="`Prompts`, such as a split of a task")


@functools.partial(jax.jit, static_argnames=("ablation", "candidates"))
def _judge(
    model: LanguageModel,
    dictionary: AnyParts,
    batch: Prompts,
    beside: dict[str, jax.Array],
    circuits: _Circuits,
    means: Means | None,
    ablation: str,
    candidates: tuple[int, ...] | None,
) -> Behaviour:
    tokens, reads, dictionary = batch.inputs(), batch.reads, dictionary.at(batch)
    needed = dictionary.capture if ablation == "zero" or means is not None else ()
    clean = forward(model, tokens, capture=needed, read=reads)
    if ablation == "zero":
        alternative = zero_alternative(dictionary.values(clean.trace))
    elif means is not None:
        alternative = means.values(dictionary.values(clean.trace), batch, **beside)
    else:
        trace = forward(model, batch.inputs("corrupted"), capture=dictionary.capture).trace
        alternative = dictionary.values(trace)
        if beside:
            alternative = at_last(alternative, beside["length"].reshape(-1))

    def one(mask: Any) -> Behaviour:
        return measured(
            forward(model, tokens, dictionary.mask(mask, alternative), read=reads).logits
        )

    def measured(at: jax.Array) -> Behaviour:
        return Behaviour(
            batch.metric(at),
            batch.correct(at, candidates),
            batch.kl(clean.logits, at),
            batch.match(clean.logits, at),
        )

    # One circuit after the other inside one program: no dispatch and no compilation in between.
    def put(i: jax.Array, rows: Behaviour) -> Behaviour:
        mask = jax.tree.map(lambda x: x[i], circuits.masks)
        return jax.tree.map(lambda all_, row: all_.at[i + 1].set(row), rows, one(mask))

    own = measured(clean.logits)
    room = len(jax.tree.leaves(circuits.masks)[0]) + 1
    rows = jax.tree.map(lambda x: jnp.zeros((room, *x.shape), x.dtype).at[0].set(x), own)
    return replicate(jax.lax.fori_loop(0, circuits.count, put, rows), model.mesh)
