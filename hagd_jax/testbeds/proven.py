"""Random programs whose necessary edges are proven, by cutting them in exact arithmetic."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.testbeds.blank import written, zeros
from hagd_jax.testbeds.case import Case
from hagd_jax.testbeds.compiled import Compiled, compile_program
from hagd_jax.testbeds.exact import exact_run
from hagd_jax.testbeds.guise import sharpened
from hagd_jax.testbeds.random_program import random_program
from hagd_jax.testbeds.structure import program_edges
from hagd_jax.units import Edges

# All programs are laid out alike, so that one compiled program serves all of them: 175 edges.
_LAYERS, _HEADS, _WIDTH, _HEAD, _MLP, _VOCABULARY = 4, 2, 64, 8, 64, 16
# Least number of pairs of an input with a counterfactual.
_PAIRS = 640
# Bias of logits that no program has.
_NEVER = -1e4
# Needed edges of the smallest programs; prompts that show that one is needed; prompts in all.
_LEAST_EDGES, _WITNESSES, _PROMPTS = 3, 6, 160
# Logits of answers lie 1 apart or more before they are sharpened; steps of MLPs are off by less.
_SAME, _SURE = 0.05, 8.0


class ProvenProgram(NamedTuple):
    """A proven program is a compiled one with the edges that it needs.

    Attributes:
        name: Of the program.
        compiled: The program and its model as compiled.
        model: The model, hidden among heads, MLPs and directions that do nothing, so that all
            programs have the same configuration; its logits are so sharp that answers are certain.
        prompts: Inputs with counterfactuals. Of each needed edge, six or more change their answer
            when it is cut.
        edges: The needed edges under counterfactual ablation: cutting one of them changes an
            answer; cutting all others at once changes no logit; cutting one of them beside all
            others changes an answer too.
        pairs: Number of (input, counterfactual) pairs, each asked at every position, on which this
            was tried.
    """

    name: str
    compiled: Compiled
    model: LanguageModel
    prompts: Prompts
    edges: Edges
    pairs: int

    __repr__ = one_line


def random_programs(seed: int, n: int, *, depth: int = 3) -> Iterator[ProvenProgram]:
    """Draw random programs until n of them have edges that are proven necessary.

    Programs are passed over that do not fit into four layers of two heads, whose output does not
    depend on the input, that have a part that varies and does nothing, that are redundant (no
    single edge is needed where several can stand in for each other), whose edges hardly ever
    matter, or that have the edges of an earlier program.

    Args:
        seed: Seed of the draws.
        n: Number of programs.
        depth: Largest number of operations on the way from the tokens to the output.

    Returns:
        An iterator over programs, each made when it is asked for.

    Raises:
        InputError: If the seed, the number or the depth is none.
        MissingDependencyError: If the compiler is not installed.

    Example:
        >>> found = next(random_programs(0, 1))
        >>> len(found.prompts), int(found.edges.count()) > 1
        (160, True)
    """
    seed, n = require_index("seed", seed), require_index("n", n)
    random_program(0, depth=depth)  # refuses a wrong depth before anything is drawn
    return itertools.islice(_proven(seed, depth), n)


def _proven(seed: int, depth: int) -> Iterator[ProvenProgram]:
    seen = set()
    for draw in np.random.default_rng(seed).permutation(1 << 20):
        try:
            found = prove(compile_program(random_program(int(draw), depth=depth)))
        except InputError:
            continue
        kind = (found.edges.flat().tobytes(), found.compiled.program.vocabulary)
        if kind not in seen:
            seen.add(kind)
            yield found


def prove(compiled: Compiled, *, seed: int = 0) -> ProvenProgram:
    """Find the necessary edges of a compiled program in float64, and prove that they suffice.

    Every edge along which anything can flow is cut alone, on every input of the program's length
    with 640 counterfactuals in all, and answers at all positions are compared.

    Args:
        compiled: The program; its longest inputs are used.
        seed: Seed of the counterfactuals and of the choice of prompts.

    Returns:
        The program with its edges.

    Raises:
        InputError: If the program is too large, degenerate or redundant, see `random_programs`.

    Example:
        >>> from hagd_jax.causal import named_edges
        >>> from hagd_jax.testbeds import PROGRAMS, compile_program
        >>> found = prove(compile_program(PROGRAMS["after_a"]))
        >>> [" ".join(edge) for edge in named_edges(found.model.config, found.edges)]
        ['embed head 0.0 v', 'head 0.0 mlp 0 mlp', 'mlp 0 logits logits']
    """
    seed = require_index("seed", seed)
    _require_small(compiled)
    trial, name = _Trial(compiled, seed), compiled.program.name
    among = program_edges(compiled.model)
    places = np.flatnonzero(among.flat())
    changed = np.array([trial.changed(_those(among, np.array([place]))) for place in places])
    shown = changed.any((1, 2))
    needed = _those(among, places[shown])
    _require_circuit(name, trial, needed)
    prompts = trial.prompts(changed[shown], seed)
    case = Case(name, _laid_out(compiled.model), prompts, {}, "A random program.")
    model = sharpened(case, _SURE / trial.margin).model
    edges = _moved(needed, Edges.existing(model.config))
    return ProvenProgram(name, compiled, model, prompts, edges, len(trial.clean))


def _shape_of(c: DecoderConfig) -> DecoderConfig:
    """The configuration that all programs are laid out in."""
    return dataclasses.replace(
        c, vocab_size=_VOCABULARY, n_layers=_LAYERS, d_model=_WIDTH, n_heads=_HEADS,
        n_kv_heads=_HEADS, d_head=_HEAD, d_mlp=_MLP,
    )  # fmt: skip


def _laid_out(model: LanguageModel) -> LanguageModel:
    """The same model among weights of zero; logits that it does not have never win."""
    config = _shape_of(model.config)
    params = zeros(config)
    params["unembed/bias"][:] = _NEVER
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(model.params, sep="/")
    for path, own in flat.items():
        params[path][tuple(map(slice, own.shape))] = own
    return model.replace(params=written(params), config=config)


def _moved(edges: Edges, there: Edges) -> Edges:
    """Edges of a model as those of the model that it was laid out in."""
    (layers, heads, _), most = np.shape(edges.q), np.shape(there.q)
    head = [1 + layer * most[1] + own for layer in range(layers) for own in range(heads)]
    mlp = 1 + most[0] * most[1] + np.arange(layers)
    writers = np.array([0, *head, *mlp])
    moved = jax.tree.map(np.zeros_like, there)
    for name in ("q", "k", "v"):
        getattr(moved, name)[:layers, :heads, writers] = getattr(edges, name)
    moved.mlp[:layers, writers] = edges.mlp
    moved.final[writers] = edges.final
    return moved


def _those(edges: Edges, places: np.ndarray) -> Edges:
    """The edges at these places of a flat row, and no others."""
    flat = np.zeros(len(edges.flat()), bool)
    flat[places] = True
    return edges.like(flat)


def _require_small(compiled: Compiled) -> None:
    """Refuse programs that are larger than the shape that all are laid out in."""
    c = compiled.model.config
    most = _shape_of(c)
    for name in ("vocab_size", "n_layers", "d_model", "n_heads", "d_head", "d_mlp"):
        if getattr(c, name) > getattr(most, name):
            raise InputError(
                f"{name} of program {compiled.program.name}", got=getattr(c, name),
                expected=f"at most {getattr(most, name)}",
            )  # fmt: skip


def _require_circuit(name: str, trial: _Trial, needed: Edges) -> None:
    """Refuse edges that are not the whole circuit, or a circuit with idle parts."""
    own, there = needed.flat(), Edges.existing(trial.model.config).flat()

    def refuse(got: str) -> None:
        raise InputError(f"program {name}", got=got, expected="one whose edges are all decided")

    if own.sum() < _LEAST_EDGES:
        refuse("an output that hardly depends on the input")
    if trial.idle(needed):
        refuse("a part that varies and does nothing")
    if trial.moved(needed.like(there & ~own)) > _SAME:
        refuse("redundant parts: the edges that are needed alone do not suffice together")
    for place in np.flatnonzero(own):
        kept = own.copy()
        kept[place] = False
        if not trial.changed(needed.like(there & ~kept)).any():
            refuse("an edge that is needed in the model and not in its circuit")


class _Trial:
    """A trial runs cuts on pairs of inputs, and compares answers at all positions."""

    def __init__(self, compiled: Compiled, seed: int) -> None:
        tokens, said = compiled.tables[compiled.program.length]
        rng = np.random.default_rng(seed)
        rows = np.repeat(np.arange(len(tokens)), -(-_PAIRS // len(tokens)))
        others = (rows + rng.integers(1, max(len(tokens), 2), len(rows))) % len(tokens)
        self.compiled, self.model, self.said = compiled, compiled.model, said[rows]
        self.clean, self.corrupted, self.other_said = tokens[rows], tokens[others], said[others]
        self.whole = exact_run(self.model, self.clean)
        self.elsewhere = exact_run(self.model, self.corrupted).writes
        ordered = np.sort(self.whole.logits[self.said >= 0], axis=-1)
        self.margin = float((ordered[:, -1] - ordered[:, -2]).min())

    def run(self, cut: Edges) -> np.ndarray:
        """(N, T, V) logits with edges cut."""
        return exact_run(self.model, self.clean, cut=cut, other=self.elsewhere).logits

    def changed(self, cut: Edges) -> np.ndarray:
        """(N, T) whether the answer changes where the program says something."""
        return (self.run(cut).argmax(-1) != self.said) & (self.said >= 0)

    def moved(self, cut: Edges) -> float:
        """The largest change of a logit, as a share of the margin between answers."""
        off = np.abs(self.run(cut) - self.whole.logits)[self.said >= 0]
        return float(off.max()) / self.margin

    def idle(self, edges: Edges) -> bool:
        """Whether some writer differs between inputs, and no needed edge begins at it."""
        varies = np.ptp(self.whole.writes, axis=1).max((1, 2)) > 1e-6
        used = np.any([x.reshape(-1, x.shape[-1]).any(0) for x in vars(edges).values()], 0)
        return bool((varies & ~used).any())

    def prompts(self, changed: np.ndarray, seed: int) -> Prompts:
        """Prompts, with witnesses of each needed edge among them; changed is (edges, N, T)."""
        rng = np.random.default_rng(seed)
        # Where input and counterfactual have one answer, the metric has no distractor.
        asked = (self.said >= 0) & (self.other_said >= 0) & (self.said != self.other_said)
        chosen: dict[int, None] = {}
        for own in changed:
            places = rng.permutation(np.flatnonzero((own & asked).ravel()))[:_WITNESSES]
            if len(places) < _WITNESSES:
                raise InputError(
                    f"program {self.compiled.program.name}",
                    got=f"an edge that matters on {len(places)} prompts",
                    expected=f"at least {_WITNESSES}",
                )
            chosen.update(dict.fromkeys(places.tolist()))
        rest = [place for place in rng.permutation(np.flatnonzero(asked.ravel())).tolist()
                if place not in chosen]  # fmt: skip
        kept = np.sort([*chosen, *rest][:_PROMPTS])
        if not len(chosen) <= len(kept) == _PROMPTS:
            raise InputError(f"program {self.compiled.program.name}", got=f"{len(kept)} prompts",
                             expected=f"{_PROMPTS}, with {_WITNESSES} for each edge")  # fmt: skip
        rows, positions = np.unravel_index(kept, asked.shape)
        return make_prompts(
            self.clean[rows].tolist(), self.corrupted[rows].tolist(),
            self.said[rows, positions], self.other_said[rows, positions],
            vocab_size=self.model.config.vocab_size, position=positions.tolist(),
        )  # fmt: skip
