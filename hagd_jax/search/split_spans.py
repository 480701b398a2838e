"""Units of a circuit split by span: each stays where the prompts need it, and leaves elsewhere.

A head that moves a name to the end of the sentence does nothing at other positions. A circuit that
keeps it there alone is smaller and says more (Haklay et al., 2025, arXiv:2502.04577).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Ablation, Circuit
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run
from hagd_jax.search.config import RepairConfig
from hagd_jax.search.eliminate import fewer
from hagd_jax.search.eliminate_config import EliminateConfig, elimination_cost
from hagd_jax.search.outcome import measured_losses
from hagd_jax.search.parts import looked
from hagd_jax.search.span_config import SpanConfig
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Nodes, Source, Spanned, Unit, as_dictionary
from hagd_jax.units.split import split_unit

# A loss of an empty circuit below the first does not tell it from the model; a share below the
# second is rounding.
_LEAST, _ROUNDING = 1e-6, 1e-6
# Circuits measured between two calls of `progress`.
_AT_ONCE = 32

_Progress = Callable[[int, int], None]


def split_spans(
    model: LanguageModel,
    prompts: Prompts,
    circuit: Circuit,
    config: SpanConfig = SpanConfig(),
    *,
    dictionary: Source | None = None,
    progress: _Progress = lambda done, total: None,
) -> Circuit:
    """Split the units of a circuit by span, and leave out the spans at which they are not needed.

    Each unit is taken once for each span that the prompts have. The circuit without each of these
    pairs is measured, and those leave that cost least, while under every ablation a
    L_a(C') ≤ L_a(C) + tolerance · L_a(∅), where L is the search's loss, KL(model ‖ circuit) plus
    the weighted squared error of the metric. In the end a unit that is needed at all spans is whole
    again. The same arguments give the same circuit.

    Args:
        model: The model.
        prompts: Prompts with spans, of which the first `config.prompts` are measured on; means and
            partners are taken from all of them: those that the search saw, such as
            `task.splits["discover"]`, not those that test the circuit.
        circuit: A circuit of whole units.
        config: How it is split.
        dictionary: Whose nodes the circuit's are: a transcoder, or neurons by default.
        progress: Called with how many circuits were measured in a round, and how many there are.

    Returns:
        The circuit, of the dictionary split by span. Parts have the score of their unit. Its `seen`
        has these prompts and ablations, and its configuration, under `spans`, what was measured.

    Raises:
        InputError: If prompts have no spans, the circuit is empty, of other nodes or split already,
            or more circuits would be measured than `config.most`.

    Example:
        >>> from hagd_jax.tasks import with_spans
        >>> case = hagd.testbeds.hand_built()[0]
        >>> row = [1] * (case.prompts.clean.shape[1] - 1) + [0]
        >>> prompts = with_spans(case.prompts, [row] * len(case.prompts), ("end", "rest"))
        >>> tree = hagd.units.tree(case.model)
        >>> circuit = Circuit.of_units(tree, ["head 0.0", "head 0.1", "mlp 0"], model="m", task="t")
        >>> [unit.name for unit in split_spans(case.model, prompts, circuit).units]
        ['head 0.0 at end', 'head 0.1 at end', 'mlp 0 at end']
    """
    require_run(model, prompts, config, SpanConfig)
    require_is("circuit", circuit, Circuit, mend="Make one with Circuit.of_units.")
    nodes = _dictionary(model, prompts, circuit, dictionary)
    pairs = _pairs(circuit, prompts, nodes)
    require_affordable(len(pairs), config)
    bench = _bench(model, prompts, nodes, pairs, config)
    left = _needed(bench, config, progress)
    told = {
        "config": dataclasses.asdict(config), "pairs": len(pairs), "kept": int(left.row.sum()),
        "evaluations": left.spent, "losses": left.losses,
    }  # fmt: skip
    made = circuit.by_span(nodes.names, _stays(circuit, pairs, left.row))
    seen = circuit.seen | looked(model, prompts, nodes, config.ablations)
    return dataclasses.replace(made, seen=seen, config={**circuit.config, "spans": told})


class _Pair(NamedTuple):
    """A unit of whole leaves, the name of a span, and the places of its leaves there."""

    unit: str
    span: str
    places: np.ndarray

    __repr__ = one_line


class _Bench(NamedTuple):
    """What circuits of pairs are measured with."""

    model: LanguageModel
    prompts: Prompts
    nodes: Spanned
    pairs: Sequence[_Pair]
    how: RepairConfig
    ablations: Mapping[str, Ablation]

    __repr__ = one_line

    def losses(self, rows: np.ndarray) -> np.ndarray:
        """(A, K) losses of (K, P) circuits, under each ablation."""
        masks = [Nodes.from_flat(self.nodes.space, self._flat(row)) for row in rows]
        return np.stack([
            measured_losses(self.model, self.prompts, masks, self.how, dictionary=self.nodes,
                            ablation=each)
            for each in self.ablations.values()
        ])  # fmt: skip

    def _flat(self, row: np.ndarray) -> np.ndarray:
        flat = np.zeros(self.nodes.space.nodes, bool)
        for i in np.flatnonzero(row).tolist():
            flat[self.pairs[i].places] = True
        return flat


class _Needed(NamedTuple):
    """Which pairs are needed, how many circuits that took, and losses by ablation."""

    row: np.ndarray
    spent: int
    losses: dict[str, dict[str, float]]


def _needed(bench: _Bench, config: SpanConfig, progress: _Progress) -> _Needed:
    """Leave out pairs, the cheapest first, while the loss stays within the tolerance."""
    now = np.ones(len(bench.pairs), bool)
    empty, whole = bench.losses(np.stack([~now, now])).T
    spent, shares = 2, np.maximum(empty, _LEAST)[:, None]

    def excess(rows: np.ndarray) -> np.ndarray:
        """(A, K) increases of the loss, as shares of the empty circuit's."""
        nonlocal spent
        spent += len(rows)
        parts = []
        for start in range(0, len(rows), _AT_ONCE):
            progress(start, len(rows))
            parts.append(bench.losses(rows[start : start + _AT_ONCE]))
        progress(len(rows), len(rows))
        return (np.concatenate(parts, 1) - whole[:, None]) / shares

    found = np.zeros(len(empty))
    # The last pass takes one pair at a time: several together may have gone beyond the tolerance.
    for how in (config, dataclasses.replace(config, at_once=0.0)):
        for row, grown in fewer(now, found, 1, how, 1.0, excess):
            if not grown.max() <= config.tolerance + _ROUNDING:
                break
            now, found = row, grown
            if spent >= config.most + 2:
                break
    ends = zip(config.ablations, empty, whole, whole + found * shares[:, 0], strict=True)
    losses = {name: {"empty": float(a), "whole": float(b), "split": float(c)}
              for name, a, b, c in ends}  # fmt: skip
    return _Needed(now, spent, losses)


def _bench(
    model: LanguageModel, prompts: Prompts, nodes: Spanned, pairs: Sequence[_Pair],
    config: SpanConfig,
) -> _Bench:  # fmt: skip
    how = RepairConfig(batch_size=config.batch_size, metric=config.metric)
    some = prompts[: config.prompts]
    # Means over all prompts are summed once.
    known = {
        name: Ablation(name, prompts).knowing(model, some, nodes, config.batch_size)
        for name in config.ablations
    }
    return _Bench(model, some, nodes, pairs, how, known)


def _dictionary(
    model: LanguageModel, prompts: Prompts, circuit: Circuit, source: Source | None
) -> Spanned:
    """The circuit's dictionary, split by the spans of the prompts."""
    nodes = as_dictionary(model, source)
    nodes = nodes.whole if isinstance(nodes, Spanned) else nodes
    if circuit.spans:
        raise InputError("circuit to split", got="one that is split by the spans "
                         f"{', '.join(circuit.spans)}", expected="one of whole units")  # fmt: skip
    circuit.check_model(nodes)
    if not prompts.spans:
        raise InputError(
            "prompts", got="no spans", expected="prompts whose tokens have spans",
            mend="Use a task that names some (`task.spans`), or tasks.with_spans.",
        )  # fmt: skip
    if not circuit.leaves:
        raise InputError("circuit to split", got="an empty one", expected="one unit or more")
    return nodes.by_span(prompts.spans)


def _pairs(circuit: Circuit, prompts: Prompts, nodes: Spanned) -> list[_Pair]:
    """Each unit at each span that any prompt has."""
    span, length = np.asarray(prompts.span), np.asarray(prompts.length)
    there = np.unique(span[np.arange(span.shape[1]) < length[:, None]])
    names, whole = nodes.names, nodes.whole.space

    def places(unit: Unit, name: str) -> np.ndarray:
        return split_unit(unit, whole, names, name).places()

    return [_Pair(unit.name, names[i], places(unit, names[i]))
            for unit in circuit.units for i in there.tolist()]  # fmt: skip


def _stays(circuit: Circuit, pairs: Sequence[_Pair], kept: np.ndarray) -> dict[str, list[str]]:
    """Unit → the spans at which it stays, for units that are not needed at all of them."""
    stays: dict[str, list[str]] = {unit.name: [] for unit in circuit.units}
    for pair, own in zip(pairs, kept.tolist(), strict=True):
        stays[pair.unit] += [pair.span] * own
    most = len(pairs) // len(stays)
    return {unit: spans for unit, spans in stays.items() if len(spans) < most}


def require_affordable(pairs: int, config: SpanConfig) -> None:
    """Refuse a split whose first pass could measure more circuits than the configuration allows.

    Args:
        pairs: Number of pairs of a unit and a span.
        config: How units are split.

    Raises:
        InputError: If it could.

    Example:
        >>> require_affordable(100, SpanConfig())
    """
    how = EliminateConfig(at_once=config.at_once, swaps=0)
    cost = elimination_cost(pairs, pairs, 1, how)
    if cost > config.most:
        raise InputError(
            "split by span", got=f"a plan to measure {cost:,} circuits under "
            f"{len(config.ablations)} ablations each",
            expected=f"at most {config.most:,}",
            mend="Begin with fewer units, let more leave in a round (at_once), or raise most.",
        )  # fmt: skip
