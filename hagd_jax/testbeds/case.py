"""A model written by hand, all of its inputs, and what is true of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.causal.circuit import Node
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import SPLITS, Task, Text
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.testbeds.board import BOS, Board

_CONSTANT_FREE = ("mean", "resample", "counterfactual")


class Case(NamedTuple):
    """A model and what is true of it.

    Attributes:
        name: Of the case.
        model: The model.
        prompts: All of its inputs.
        truth: Ablation → the nodes that carry the behaviour.
        why: In a sentence.
    """

    name: str
    model: LanguageModel
    prompts: Prompts
    truth: Mapping[str, frozenset[Node]]
    why: str


def make_case(
    name: str,
    board: Board,
    rows: Iterable[tuple[str, ...]],
    rule: Callable[[tuple[str, ...]], str],
    carries: frozenset[Node],
    constant: frozenset[Node],
    why: str,
) -> Case:
    """A case whose prompts are rows of words, each with one of another answer beside it.

    Args:
        name: Of the case.
        board: The model.
        rows: All prompts, without BOS.
        rule: Prompt → the right word.
        carries: Units that are needed under every ablation.
        constant: Units that carry a constant: needed under zero ablation as well.
        why: What makes it hard, in a sentence.

    Returns:
        The case.
    """
    rows = list(rows)
    number = {word: i for i, word in enumerate(board.words)}
    says = np.array([number[rule(row)] for row in rows])
    tokens = [[number[BOS], *(number[word] for word in row)] for row in rows]
    rng = np.random.default_rng(0)
    others = [rng.choice(np.flatnonzero(says != own)) for own in says]
    prompts = make_prompts(
        tokens, [tokens[other] for other in others], says, says[others],
        vocab_size=len(board.words),
    )  # fmt: skip
    truth = dict.fromkeys(_CONSTANT_FREE, carries) | {"zero": carries | constant}
    return Case(name, board.model(name), prompts, truth, why)


def letters(choices: Iterable[str], length: int, *, first: str = "") -> list[tuple[str, ...]]:
    """All prompts of so many letters, "?" at their end and perhaps a sign before them."""
    start = (first,) if first else ()
    return [(*start, *row, "?") for row in itertools.product(choices, repeat=length)]


def units(*names: str) -> frozenset[Node]:
    """`head 0.1` → Node("head", 0, 1)."""
    split = (name.split() for name in names)
    return frozenset(Node(kind, *map(int, place.split("."))) for kind, place in split)


def as_task(case: Case) -> Task:
    """The prompts of a case as a task: all splits are all inputs, as there are no others."""
    words, p = case.model.tokenizer, case.prompts
    assert words is not None
    rows = zip(p.clean.tolist(), p.corrupted.tolist(), p.answer, p.distractor, strict=True)
    said = []
    for clean, other, right, wrong in rows:
        told = [words.decode(ids) for ids in (clean, other, [int(right)], [int(wrong)])]
        said.append(Text(told[0], told[1], told[2], told[3], case.name))
    splits = {str(split): p for split in SPLITS}
    return Task(case.name, case.why, splits, dict.fromkeys(splits, tuple(said)))


def scrambled(case: Case, seed: int) -> Case:
    """The same computation in another guise: heads and neurons change places, the stream is turned.

    Args:
        case: Without norms, as all are here.
        seed: Of the permutations and the rotation.

    Returns:
        The case, with its truth in the new places.
    """
    rng = np.random.default_rng(seed)
    c, p = case.model.config, jax.tree.map(np.array, case.model.params)
    turn, _ = np.linalg.qr(rng.normal(size=(c.d_model, c.d_model)))
    moved: dict[tuple[str, int], np.ndarray] = {}
    attn, mlp = p["blocks"]["attn"], p["blocks"]["mlp"]
    for layer in range(c.n_layers):
        heads, neurons = rng.permutation(c.n_heads), rng.permutation(c.d_mlp)
        # New place i holds what was at place order[i].
        moved["head", layer], moved["neuron", layer] = np.argsort(heads), np.argsort(neurons)
        for name in "qkv":
            kernel = np.einsum("ed,dhk->ehk", turn.T, attn[name]["kernel"][layer])
            attn[name]["kernel"][layer] = kernel[:, heads]
            attn[name]["bias"][layer] = attn[name]["bias"][layer][heads]
        attn["o"]["kernel"][layer] = attn["o"]["kernel"][layer][heads] @ turn
        for name in mlp.keys() - {"out"}:
            mlp[name]["kernel"][layer] = (turn.T @ mlp[name]["kernel"][layer])[:, neurons]
            mlp[name]["bias"][layer] = mlp[name]["bias"][layer][neurons]
        mlp["out"]["kernel"][layer] = mlp["out"]["kernel"][layer][neurons] @ turn
    attn["o"]["bias"], mlp["out"]["bias"] = attn["o"]["bias"] @ turn, mlp["out"]["bias"] @ turn
    p["embed"]["embedding"] = p["embed"]["embedding"] @ turn
    p["unembed"]["kernel"] = turn.T @ p["unembed"]["kernel"]
    place = lambda n: Node(n.kind, n.layer, int(moved[n.kind, n.layer][n.index]))  # noqa: E731
    truth = {name: frozenset(map(place, nodes)) for name, nodes in case.truth.items()}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p)
    return case._replace(model=case.model.replace(params=params), truth=truth)
