"""Where masks begin: the scores whose highest nodes do best on the select split."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import Ablation, Behaviour, behaviour
from hagd_jax.errors import InputError, require_choice, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_sizes
from hagd_jax.search.parts import best, read
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import Components, Parts, Scores, Source, as_dictionary, parts_of
from hagd_jax.units.rows import count, unflat

Measure = Literal["kl", "distance"]
UNDER = ("counterfactual", "mean")
# Nats; below this a divergence of float32 logits is rounding.
_LEAST_KL = 1e-6
# Losses no further apart are equal: another mesh sums in another order.
_EQUAL = 1e-3


class StartRow(NamedTuple):
    """A row measures one circuit: the highest nodes of some scores under an ablation.

    Attributes:
        name: Of the scores.
        ablation: What replaced the other nodes.
        nodes: Size of the circuit.
        kl: Mean KL(model ‖ circuit) as a share of the empty circuit's.
        distance: |1 − f|, where f = (m(C) − m(∅)) / (m(M) − m(∅)) of mean metrics; NaN where the
            denominator is zero.
    """

    name: str
    ablation: str
    nodes: int
    kl: float
    distance: float


class Start(NamedTuple):
    """A start is the best of several scores, with all that was measured.

    Attributes:
        name: Of the best scores.
        scores: The best scores. They have seen what all candidates have, and the prompts on which
            these were compared.
        losses: Name → mean of the measure over sizes and ablations; less is better.
        table: A row for each of the scores, each ablation and each size.
    """

    name: str
    scores: Scores
    losses: dict[str, float]
    table: tuple[StartRow, ...]

    __repr__ = one_line


def best_start(
    model: LanguageModel,
    prompts: Prompts,
    starts: Mapping[str, Scores],
    sizes: Sequence[int],
    *,
    ablations: Sequence[Ablation | str] = UNDER,
    measure: Measure = "kl",
    dictionary: Parts | Source | None = None,
    batch_size: int = 16,
) -> Start:
    """Choose among scores by circuits of their highest parts, on prompts that none was made from.

    Each of the S scores gives one circuit of each size, its highest nodes or edges. All
    S · len(sizes) circuits and the empty one run in one compiled call for each ablation. The loss
    of scores is the mean over sizes and ablations of KL(model ‖ circuit) / KL(model ‖ empty), or of
    |1 − faithfulness|; an ablation under which even the empty circuit is the model tells nothing,
    and is left out. With sizes in a geometric series the loss approximates the area under the curve
    over log size. The first wins of those whose losses are within .001 of the least, so that
    rounding decides nothing. `with_cuts` makes one more start.

    Args:
        model: The model.
        prompts: The select split. The result records it as seen: a judge decides on other prompts.
        starts: Name → scores of the dictionary's parts, made from the discover split.
        sizes: Numbers of parts, a few around the size that will be searched for.
        ablations: Those of the search, never the judge's own. An `Ablation` may name a reference.
        measure: `kl` or `distance`.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`, whose edges are scored.
        batch_size: Prompts in one call.

    Returns:
        The best scores, with the table of what was measured.

    Raises:
        InputError: If there are no scores, sizes or ablations, or they do not fit the model, or
            scores were made from some of these prompts, or ablating every node changes nothing
            that is measured, or logits are not finite.
        ConfigError: If there is no such measure or ablation.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> model, half = case.model, len(case.prompts) // 2
        >>> discover, held_out = case.prompts[:half], case.prompts[half:]
        >>> starts = {"eap": hagd.scores.eap(model, discover),
        ...           "conductance": hagd.scores.conductance(model, discover)}
        >>> best_start(model, held_out, starts, [2, 4], ablations=["zero"]).name in starts
        True
    """
    _check(starts, measure)
    under = [each if isinstance(each, Ablation) else Ablation(each)
             for each in require_list("ablations", ablations, "names of ablations")]  # fmt: skip
    parts = parts_of(model, dictionary)
    sizes = require_sizes(sizes, count(parts))
    seen = _looked(model, prompts, starts, under, dictionary)
    rows = {name: read(parts, scores)[0] for name, scores in starts.items()}
    names = [(name, size) for name in starts for size in sizes]
    masks = [unflat(parts, np.zeros(count(parts), bool)),
             *(best(parts, rows[name], size) for name, size in names)]  # fmt: skip
    run = functools.partial(
        behaviour, model, prompts, masks, dictionary=parts, batch_size=batch_size, with_model=True
    )
    table = [row for each in under for row in _rows(names, run(ablation=each), each.kind)]
    losses = _losses(table, starts, measure)
    least = min(losses.values())
    winner = next(name for name in starts if losses[name] <= least + _EQUAL)
    return Start(winner, starts[winner].after(seen), losses, tuple(table))


def _losses(table: Sequence[StartRow], starts: Iterable[str], measure: str) -> dict[str, float]:
    """The mean of the measure of each of the scores."""
    if not table:
        raise InputError(
            "prompts", got="the model's own answers with all nodes ablated",
            expected="prompts on which ablation changes the answer",
        )  # fmt: skip
    losses = {
        name: float(np.mean([getattr(row, measure) for row in table if row.name == name]))
        for name in starts
    }
    if not np.isfinite(list(losses.values())).all():
        raise InputError("prompts", got="the same metric with all nodes ablated",
                         expected="prompts whose metric ablation changes",
                         mend='Use measure="kl".')  # fmt: skip
    return losses


def _looked(
    model: LanguageModel,
    prompts: Prompts,
    starts: Mapping[str, Scores],
    under: Sequence[Ablation],
    dictionary: Parts | Source | None,
) -> Seen:
    """All that the choice looks at, which must be other prompts than scores were made from."""
    if not under:
        raise InputError("ablations", got="none", expected="one or more")
    label = None if isinstance(dictionary, Components) else as_dictionary(model, dictionary)
    seen = look(prompts, ablation=[each.kind for each in under], split="select", model=model,
                dictionary=label)  # fmt: skip
    _require_apart(seen, starts)
    for each in under:
        if each.reference is not None:
            seen |= look(each.reference)
    for scores in starts.values():
        seen |= scores.seen
    return seen


def _rows(names: list[tuple[str, int]], found: Behaviour, ablation: str) -> list[StartRow]:
    """What the circuits of named scores do; nothing if the empty circuit does what the model does.

    The rows of what was found are the model, ∅, then circuits.
    """
    kl, metric = (np.asarray(rows, np.float64).mean(1) for rows in (found.kl, found.metric))
    if not (np.isfinite(kl).all() and np.isfinite(metric).all()):
        raise InputError("model", got=f"logits that are not finite ({ablation})",
                         expected="finite ones, of the model and of every circuit")  # fmt: skip
    if not kl[1] > _LEAST_KL:
        return []
    whole = metric[0] - metric[1]
    recovered = metric[2:] - metric[1]
    distance = np.abs(1 - recovered / whole) if whole else np.full(len(recovered), np.nan)
    shares = zip(names, kl[2:] / kl[1], distance, strict=True)
    return [
        StartRow(name, ablation, size, float(kl), float(far)) for (name, size), kl, far in shares
    ]


def _require_apart(seen: Seen, starts: Mapping[str, Scores]) -> None:
    """Refuse scores that were made from the prompts they would be compared on."""
    for name, scores in starts.items():
        if shared := set(seen.prompts) & set(scores.seen.prompts):
            raise InputError(
                "prompts", got=f"{len(shared)} that the scores {name!r} were made from",
                expected="others, such as the select split",
            )  # fmt: skip


def _check(starts: Mapping[str, Scores], measure: str) -> None:
    """Refuse what are no named scores."""
    require_is("starts", starts, Mapping)
    if not starts:
        raise InputError("starts", got="none", expected="a name and its `Scores`, or several")
    for name, scores in starts.items():
        require_is("a name of starts", name, str)
        require_is(f"starts, {name!r}", scores, Scores)
    require_choice("measure", measure, get_args(Measure))
