"""Transformers written by hand: named directions, heads that look for a token, neurons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer
from hagd_jax.testbeds.blank import written, zeros

BOS = "<s>"
# A score so far above others' that a softmax leaves them 1e-13.
_SURE = 30.0


@dataclasses.dataclass
class Board:
    """A board holds the weights of a transformer without norms; its methods fill them in.

    Tokens are their own directions; further ones are named. Every token also carries `one`.

    Attributes:
        words: The vocabulary, BOS first.
        names: Of the other directions.
        layers: Blocks.
        heads: A layer.
        neurons: A layer.
        length: Most tokens of a prompt.
        gated: Neurons are products of two reads.
    """

    words: Sequence[str]
    names: Sequence[str]
    layers: int
    heads: int
    neurons: int
    length: int
    gated: bool = False

    def __post_init__(self):
        self.place = {name: i for i, name in enumerate([*self.words, *self.names, "one"])}
        self.config = DecoderConfig(
            vocab_size=len(self.words),
            n_layers=self.layers,
            d_model=len(self.place),
            n_heads=self.heads,
            d_head=2,
            d_mlp=self.neurons,
            max_positions=self.length,
            norm="none",
            positions="none",
            activation="relu",
            gated_mlp=self.gated,
        )
        self.params = zeros(self.config)
        table = self.params["embed/embedding"]
        table[:, : len(self.words)] = np.eye(len(self.words))
        table[:, self.place["one"]] = 1

    def look(self, layer: int, head: int, token: str, moves: Mapping[str, float]) -> None:
        """Add a head that attends to a token and writes where it is there, else rests on BOS.

        Args:
            layer: Of the head.
            head: Its number.
            token: What it looks for; several of them share its attention.
            moves: Direction → what it writes.
        """
        q, k, v, o = (self.params[f"blocks/attn/{name}/kernel"][layer] for name in "qkvo")
        scale = _SURE * np.sqrt(self.config.d_head)
        q[self.place["one"], head, 0] = 1
        k[self.place[token], head, 0] = 2 * scale
        k[self.place[BOS], head, 0] = scale
        v[self.place[token], head, 0] = 1
        for name, weight in moves.items():
            o[head, 0, self.place[name]] = weight

    def count(self, layer: int, head: int, token: str, moves: Mapping[str, float]) -> None:
        """Add a head that attends uniformly and writes the share of one token."""
        v, o = (self.params[f"blocks/attn/{name}/kernel"][layer] for name in "vo")
        v[self.place[token], head, 0] = 1
        for name, weight in moves.items():
            o[head, 0, self.place[name]] = weight

    def fetch(
        self,
        layer: int,
        head: int,
        values: Mapping[str, tuple[float, float]],
        first: Mapping[str, float],
        second: Mapping[str, float],
    ) -> None:
        """Add a head that attends to any of some tokens and writes two numbers read there.

        Args:
            layer: Of the head.
            head: Its number.
            values: Token → its two numbers.
            first: Direction → weight of the first number.
            second: Direction → weight of the second.
        """
        self.look(layer, head, next(iter(values)), {})
        k, v, o = (self.params[f"blocks/attn/{name}/kernel"][layer] for name in "kvo")
        for token, pair in values.items():
            k[self.place[token], head, 0] = 2 * k[self.place[BOS], head, 0]
            v[self.place[token], head] = pair
        for i, moves in enumerate((first, second)):
            for name, weight in moves.items():
                o[head, i, self.place[name]] = weight

    def product(
        self, layer: int, index: int, gate: str, read: str, writes: Mapping[str, float]
    ) -> None:
        """Add a neuron ReLU(gate + 1) · read, which is gate · read + read for gate ≥ −1."""
        self.params["blocks/mlp/gate/kernel"][layer, self.place[gate], index] = 1
        self.params["blocks/mlp/gate/bias"][layer, index] = 1
        self.neuron(layer, index, {read: 1}, 0, writes)

    def neuron(
        self,
        layer: int,
        index: int,
        reads: Mapping[str, float],
        bias: float,
        writes: Mapping[str, float],
    ) -> None:
        """Add a neuron that writes ReLU(reads · stream + bias) along some directions."""
        for name, weight in reads.items():
            self.params["blocks/mlp/in/kernel"][layer, self.place[name], index] = weight
        self.params["blocks/mlp/in/bias"][layer, index] = bias
        for name, weight in writes.items():
            self.params["blocks/mlp/out/kernel"][layer, index, self.place[name]] = weight

    def say(self, token: str, reads: Mapping[str, float]) -> None:
        """Set the logit of a token."""
        for name, weight in reads.items():
            self.params["unembed/kernel"][self.place[name], self.words.index(token)] = weight

    def model(self, name: str) -> LanguageModel:
        """Make the model from the weights."""
        words = Tokenizer.words(self.words)
        return LanguageModel(written(self.params), self.config, tokenizer=words, name=name)
