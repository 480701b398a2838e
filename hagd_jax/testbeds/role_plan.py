"""A model in the making, whose heads and neurons are each written for one purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.testbeds.sketch import STYLES, Match, Shape, Sketch

BEGIN, ASK = 0, 1
_SPECIAL = 2
# How far a match is above all else in a softmax.
SURE = 25.0
PROMPTS = 48
# Models of one style and size share their compiled programs: all prompts are of one length.
LENGTH, WORDS = 12, 26
_MOST_LENGTH = 16
# Layers, heads and neurons a layer, and the width of the stream.
SIZES = {"small": (3, 4, 14, 144), "large": (5, 6, 19, 176)}
# Clean prompt, counterfactual, answer, distractor.
Row = tuple[list[int], list[int], int, int]
# The style of a model, and its size.
Kind = tuple[str, str]


class RoleCase(NamedTuple):
    """A role case is a model in which some units have a purpose that is known.

    Attributes:
        name: Of the case.
        model: The model.
        prompts: Inputs that need these units.
        roles: Name of a unit → its role, as `roles.ROLES` names it.
    """

    name: str
    model: LanguageModel
    prompts: Prompts
    roles: Mapping[str, str]

    __repr__ = one_line


class Plan:
    """A model in the making: which slots are taken, and what was put there."""

    def __init__(self, rng: np.random.Generator, kind: Kind, tokens: int,
                 spaces: dict[str, int], stages: int):  # fmt: skip
        self.rng = rng
        style, (layers, heads, neurons, width) = kind[0], SIZES[kind[1]]
        shape = Shape(layers, heads, neurons, _MOST_LENGTH, width)
        words = ("<s>", "?", *(f"w{i}" for i in range(WORDS - _SPECIAL)))
        self.words = _SPECIAL + np.sort(rng.permutation(WORDS - _SPECIAL)[:tokens])
        self.sketch = Sketch(rng, STYLES[style], words, shape, spaces)
        self.layers = np.sort(rng.permutation(layers)[:stages]).tolist()
        self.free = {layer: rng.permutation(shape.heads).tolist() for layer in range(layers)}
        self.roles: dict[str, str] = {}

    def slot(self, layer: int, role: str | None) -> tuple[int, int]:
        """Take a free head of a layer for a purpose."""
        head = self.free[layer].pop()
        if role:
            self.roles[f"head {layer}.{head}"] = role
        return layer, head

    def inside(self, layer: int, count: int, role: str) -> None:
        """Name the role of a whole MLP, or of two of its neurons, which it would hold."""
        neurons = [f"neuron {layer}.{i}" for i in pick(self.rng, range(count), 2)]
        whole = self.rng.random() < 0.5
        self.roles |= dict.fromkeys([f"mlp {layer}"] if whole else neurons, role)

    def rest_on_begin(self, strength: float = SURE / 2) -> Match:
        """Have a head rest on the first token where it finds nothing."""
        s = self.sketch
        return Match(s.always, s.one_hot("token", BEGIN), strength)

    def copy(self, place: tuple[int, int], gain: float, reads: str = "token") -> None:
        """Have a head write what it attends to to the logits."""
        s = self.sketch
        s.write(*place, s.space[reads], s.space["logit"], gain)

    def finish(self, name: str, rows: list[Row]) -> RoleCase:
        """Add a head that rests on the first token, fill up the rest, and make the case."""
        s = self.sketch
        spare = s.space["spare"]
        layer = max(self.free, key=lambda own: len(self.free[own]))
        place = self.slot(layer, "first token")
        s.attend(*place, Match(s.always, s.one_hot("token", BEGIN), SURE))
        s.write(*place, s.one_hot("token", BEGIN), spare[:1])
        idle = [(layer, head) for layer, own in self.free.items() for head in own]
        for layer, head in idle:
            s.idle(layer, head)
        self.roles |= {f"head {layer}.{head}": "inert" for layer, head in idle[:2]}
        s.idle_neurons()
        clean, other, answer, distractor = (list(column) for column in zip(*rows, strict=True))
        prompts = make_prompts(clean, other, answer, distractor, vocab_size=len(s.words))
        return RoleCase(name, s.model(name), prompts, self.roles)


def pick(rng: np.random.Generator, words: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """Draw different items.

    Args:
        rng: Draws them.
        words: Of which.
        count: How many.

    Returns:
        The items, in random order.

    Example:
        >>> sorted(pick(np.random.default_rng(0), [3, 5], 2))
        [3, 5]
    """
    return rng.permutation(words)[:count].tolist()
