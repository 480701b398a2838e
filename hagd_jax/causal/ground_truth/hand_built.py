"""Models written by hand, with traps that first-order methods fall into, and their true circuits.

A circuit is true under an ablation if the logits of answer and distractor are the model's on every
prompt while everything else is ablated, and if no node can be left out. Units that carry a constant
are needed under zero ablation alone: all other ablations put the same constant in their place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.causal.circuit import Node
from hagd_jax.causal.ground_truth.board import BOS, Board
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.base import SPLITS, Prompts, Task, Text, make_prompts

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


def either() -> Case:
    """Is there an a or a b? Two heads, each enough where both are there."""
    board = Board((BOS, "a", "b", "x", "?", "yes", "no"), ("A", "B", "X", "Y"), 1, 4, 6, 6)
    board.look(0, 0, "a", {"A": 1})
    board.look(0, 1, "b", {"B": 1})
    board.look(0, 2, "x", {"X": 1})  # nobody reads it
    board.neuron(0, 0, {"A": 1, "B": 1}, 0, {"Y": 2})
    board.neuron(0, 1, {"A": 1, "B": 1}, -1, {"Y": -2})
    board.neuron(0, 2, {}, 1, {"Y": -1})  # the threshold
    board.neuron(0, 3, {"X": 1}, 0, {"X": 1})
    board.say("yes", {"Y": 4})
    return _case(
        "either",
        board,
        lambda row: {"a", "b"} & set(row) != set(),
        "abx",
        _nodes("head 0.0", "head 0.1", "neuron 0.0", "neuron 0.1"),
        _nodes("neuron 0.2"),
        "An OR: where both letters are there, the gradient of either head is 0.",
    )


def both() -> Case:
    """Are there an a and a b? Neither head does anything alone."""
    board = Board((BOS, "a", "b", "x", "?", "yes", "no"), ("A", "B", "X", "Y"), 1, 4, 6, 6)
    board.look(0, 0, "a", {"A": 1})
    board.look(0, 1, "b", {"B": 1})
    board.look(0, 2, "x", {"X": 1})
    board.neuron(0, 0, {"A": 1, "B": 1}, -1, {"Y": 2})
    board.neuron(0, 1, {}, 1, {"Y": -1})
    board.neuron(0, 2, {"X": 1}, 0, {"X": 1})
    board.say("yes", {"Y": 4})
    return _case(
        "both",
        board,
        lambda row: {"a", "b"} <= set(row),
        "abx",
        _nodes("head 0.0", "head 0.1", "neuron 0.0"),
        _nodes("neuron 0.1"),
        "An AND: on prompts without either, the gradient of both heads is 0.",
    )


def suppressed() -> Case:
    """Is there an a? One head says so too loudly, another takes half of it back."""
    board = Board((BOS, "a", "x", "?", "yes", "no"), ("A", "X", "Y"), 1, 4, 5, 6)
    board.look(0, 0, "a", {"A": 2})
    board.look(0, 1, "a", {"A": -1})
    board.look(0, 2, "x", {"X": 1})
    board.neuron(0, 0, {"A": 1}, 0, {"Y": 2})
    board.neuron(0, 1, {}, 1, {"Y": -1})
    board.neuron(0, 2, {"X": 1}, 0, {"X": 1})
    board.say("yes", {"Y": 4})
    return _case(
        "suppressed",
        board,
        lambda row: "a" in row,
        "ax",
        _nodes("head 0.0", "head 0.1", "neuron 0.0"),
        _nodes("neuron 0.1"),
        "The second head works against every right answer, so signed scores leave it out.",
    )


def two_tasks(which: int) -> Case:
    """Under "1": is there an a? Under "2": is there a b? Two circuits that share nothing else.

    Args:
        which: The task whose prompts are asked, 1 or 2.
    """
    words = (BOS, "1", "2", "a", "b", "?", "yes", "no")
    board = Board(words, ("A", "B", "T1", "T2", "Y"), 2, 3, 4, 7)
    board.look(0, 0, "1", {"T1": 1})
    board.look(0, 1, "2", {"T2": 1})
    board.look(1, 0, "a", {"A": 1})
    board.look(1, 1, "b", {"B": 1})
    board.neuron(1, 0, {"A": 1, "T1": 1}, -1, {"Y": 2})
    board.neuron(1, 1, {"B": 1, "T2": 1}, -1, {"Y": 2})
    board.neuron(1, 2, {}, 1, {"Y": -1})
    board.say("yes", {"Y": 4})
    own = which - 1
    return _case(
        f"two_tasks_{which}",
        board,
        lambda row: "ab"[own] in row,
        "ab",
        _nodes(f"head 1.{own}", f"neuron 1.{own}"),
        _nodes(f"head 0.{own}", "neuron 1.2"),
        "The other task's head sees its letter, but its neuron waits for the other task's sign.",
        first=str(which),
    )


def parity(bits: int = 5) -> Case:
    """Is the number of ones odd? One head counts, neurons bend the count to and fro.

    Args:
        bits: Of a prompt.
    """
    board = Board((BOS, "0", "1", "?", "yes", "no"), ("N", "Y"), 1, 2, bits + 3, bits + 2)
    # BOS and "?" are looked at as well: a share of 1 / (bits + 2) for each one.
    board.count(0, 0, "1", {"N": bits + 2})
    board.neuron(0, 0, {"N": 1}, 0, {"Y": 2})
    for turn in range(1, bits):
        board.neuron(0, turn, {"N": 1}, -turn, {"Y": 4 * (-1) ** turn})
    board.neuron(0, bits, {}, 1, {"Y": -1})
    board.say("yes", {"Y": 4})
    return _case(
        "parity",
        board,
        lambda row: row.count("1") % 2 == 1,
        "01",
        _nodes("head 0.0", *(f"neuron 0.{turn}" for turn in range(bits))),
        _nodes(f"neuron 0.{bits}"),
        "A zigzag of the count: neurons of rising thresholds turn it around at every whole number.",
        length=bits,
    )


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
        mlp["in"]["kernel"][layer] = (turn.T @ mlp["in"]["kernel"][layer])[:, neurons]
        mlp["in"]["bias"][layer] = mlp["in"]["bias"][layer][neurons]
        mlp["out"]["kernel"][layer] = mlp["out"]["kernel"][layer][neurons] @ turn
    attn["o"]["bias"], mlp["out"]["bias"] = attn["o"]["bias"] @ turn, mlp["out"]["bias"] @ turn
    p["embed"]["embedding"] = p["embed"]["embedding"] @ turn
    p["unembed"]["kernel"] = turn.T @ p["unembed"]["kernel"]
    place = lambda n: Node(n.kind, n.layer, int(moved[n.kind, n.layer][n.index]))  # noqa: E731
    truth = {name: frozenset(map(place, nodes)) for name, nodes in case.truth.items()}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p)
    return case._replace(model=case.model.replace(params=params), truth=truth)


def hand_built() -> list[Case]:
    """All of them.

    Example:
        >>> [case.name for case in hand_built()][:3]
        ['either', 'both', 'suppressed']
    """
    return [either(), both(), suppressed(), two_tasks(1), two_tasks(2), parity()]


def _nodes(*names: str) -> frozenset[Node]:
    """`head 0.1` → Node("head", 0, 1)."""
    split = (name.split() for name in names)
    return frozenset(Node(kind, *map(int, place.split("."))) for kind, place in split)


def _case(
    name: str,
    board: Board,
    rule: Callable[[tuple[str, ...]], bool],
    letters: Iterable[str],
    carries: frozenset[Node],
    constant: frozenset[Node],
    why: str,
    *,
    length: int = 4,
    first: str = "",
) -> Case:
    """All prompts of `length` letters between BOS and "?", each with one of the other answer."""
    rows = list(itertools.product(letters, repeat=length))
    says = np.array([rule(row) for row in rows])
    number = {word: i for i, word in enumerate(board.words)}
    start = [number[BOS], *([number[first]] if first else [])]
    tokens = [[*start, *(number[letter] for letter in row), number["?"]] for row in rows]
    rng = np.random.default_rng(0)
    others = [rng.choice(np.flatnonzero(says != own)) for own in says]
    yes, no = number["yes"], number["no"]
    prompts = make_prompts(
        tokens,
        [tokens[other] for other in others],
        np.where(says, yes, no),
        np.where(says, no, yes),
        vocab_size=len(board.words),
    )
    truth = dict.fromkeys(_CONSTANT_FREE, carries) | {"zero": carries | constant}
    return Case(name, board.model(name), prompts, truth, why)
