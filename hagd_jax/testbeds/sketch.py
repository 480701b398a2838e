"""Attention models written by hand in several families: norms, rotations and gates do not matter.

A stream has named spaces of orthonormal directions, turned at random, and one constant direction.
Where the family has norms, the constant is so large that every norm divides by nearly the same
number, which the norm's weight takes back. Content is matched in parts of a head that rotary
positions leave as they are, or turn so slowly that no prompt is long enough to notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, param_specs

# Of the constant direction where there are norms: what is beside it changes them by 0.2%.
_CONSTANT = 40.0
# How steep smooth activation functions are made, to look like ReLU.
_STEEP = 20.0
_NOISE = 1e-3


class Style(NamedTuple):
    """A style is what families of models differ in.

    Attributes:
        norm: `none`, `layer` or `rms`.
        positions: `learned` or `rotary`.
        rotary: Part of a head that is rotated, in dimensions; 0 for all of it.
        activation: Of the MLPs.
        gated: Whether MLPs have gates, and no biases anywhere.
        parallel: Whether attention and MLP read the same stream.
    """

    norm: str
    positions: str
    rotary: int = 0
    activation: str = "relu"
    gated: bool = False
    parallel: bool = False


# Named by whose options they have.
STYLES = {
    "plain": Style("none", "learned"),
    "neox": Style("layer", "rotary", 16, "gelu", parallel=True),
    "gpt2": Style("layer", "learned", activation="gelu_tanh"),
    "llama": Style("rms", "rotary", 0, "silu", gated=True),
}


class Shape(NamedTuple):
    """A shape has the sizes of a model: layers, heads and neurons a layer, length, width."""

    layers: int
    heads: int
    neurons: int
    length: int
    width: int


class Match(NamedTuple):
    """A match adds strength · Σ_i (query · reads_i) (key · finds_i) to the scores of a head.

    Attributes:
        reads: (m, D) directions of the query's stream.
        finds: (m, D) directions of the key's stream.
        strength: Of a full match.
    """

    reads: np.ndarray
    finds: np.ndarray
    strength: float

    __repr__ = one_line


class Sketch:
    """A sketch holds the weights of a model; its methods fill them in.

    Args:
        rng: Draws the directions, and the noise of the weights.
        style: Of the family.
        words: The vocabulary.
        shape: Sizes.
        spaces: Name → number of directions, beside those of tokens, logits and positions.
    """

    def __init__(
        self, rng: np.random.Generator, style: Style, words: Sequence[str], shape: Shape,
        spaces: Mapping[str, int],
    ):  # fmt: skip
        self.rng, self.style, self.words, self.shape = rng, style, tuple(words), shape
        sizes = {"one": 1, "token": len(words), "logit": len(words), **spaces}
        if style.positions == "learned":
            sizes["place"] = shape.length
        width = shape.width
        sizes["spare"] = width - 1 - sum(sizes.values())
        # Layer norms remove what is the same in all entries, so nothing is written there.
        start = np.concatenate([np.ones((width, 1)), rng.normal(size=(width, width - 1))], 1)
        rows = np.linalg.qr(start)[0].T
        cuts = np.cumsum([1, *sizes.values()])
        self.space = {
            name: rows[a:b] for name, a, b in zip(sizes, cuts[:-1], cuts[1:], strict=True)
        }
        self.constant = 1.0 if style.norm == "none" else _CONSTANT
        self.config = self._config(width)
        self.params = {
            path: np.zeros(spec.shape) for path, spec in param_specs(self.config).items()
        }
        for path in self.params:
            if path.endswith("scale"):
                self.params[path][:] = self.constant / np.sqrt(width)
        table = self.params["embed/embedding"]
        table[:] = self.space["token"] + self.constant * self.space["one"]
        if style.positions == "learned":
            self.params["positions/embedding"][:] = self.space["place"]
        self._taken: dict[tuple[int, int], int] = {}
        self._inside = {name: self._dimensions(name) for name in ("place", "content")}

    def _config(self, width: int) -> DecoderConfig:
        style, (layers, heads, neurons, length, _) = self.style, self.shape
        d_head = 64 if style.positions == "rotary" else len(self.words) + length + 12
        return DecoderConfig(
            vocab_size=len(self.words), n_layers=layers, d_model=width, n_heads=heads,
            d_head=d_head, d_mlp=neurons, max_positions=length, norm=style.norm,  # type: ignore[arg-type]
            positions=style.positions,  # type: ignore[arg-type]
            rotary_dim=style.rotary, rope_theta=1e4 if style.rotary else 1e6,
            activation=style.activation, gated_mlp=style.gated,  # type: ignore[arg-type]
            qkv_bias=not style.gated, attn_out_bias=not style.gated, mlp_bias=not style.gated,
            parallel_residual=style.parallel,
        )  # fmt: skip

    def _dimensions(self, name: str) -> np.ndarray:
        """Dimensions of a head that positions turn, or that content is matched in."""
        d_head = self.config.d_head
        if self.style.positions == "learned":
            cut = self.shape.length
            return np.arange(cut) if name == "place" else np.arange(cut, d_head)
        half = (self.style.rotary or d_head) // 2
        if name == "place":
            return np.arange(8)
        slow = np.arange(17, half)
        return np.concatenate([slow, slow + half, np.arange(2 * half, d_head)])

    def one_hot(self, space: str, index: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Return (1, D), the sum of some directions of a space."""
        return self.space[space][np.atleast_1d(index)].sum(0, keepdims=True)

    @property
    def always(self) -> np.ndarray:
        """Return (1, D), a direction along which every position has 1."""
        return self.space["one"] / self.constant

    def attend(self, layer: int, head: int, *matches: Match) -> None:
        """Add matches of content to the scores of a head."""
        scale = np.sqrt(self.config.d_head)
        q, k = (self.params[f"blocks/attn/{name}/kernel"][layer, :, head] for name in "qk")
        for reads, finds, strength in matches:
            start = self._taken.get((layer, head), 0)
            self._taken[layer, head] = start + len(reads)
            own = self._inside["content"][start : start + len(reads)]
            if len(own) < len(reads):
                raise ValueError(f"head {layer}.{head} has no room for {len(reads)} matches")
            q[:, own] += strength * scale * reads.T
            k[:, own] += finds.T

    def offset(self, layer: int, head: int, back: int, strength: float) -> None:
        """Have a head attend to the position so many places back."""
        scale = strength * np.sqrt(self.config.d_head)
        q, k = (self.params[f"blocks/attn/{name}/kernel"][layer, :, head] for name in "qk")
        own = self._inside["place"]
        if self.style.positions == "learned":
            places = self.space["place"]
            q[:, own[: len(own) - back]] += scale * places[back:].T
            k[:, own] += places.T
            return
        half = (self.style.rotary or self.config.d_head) // 2
        turn = self.config.rope_theta ** (-own / half) * back
        q[:, own] += scale * np.cos(turn) * self.always.T
        q[:, own + half] += scale * -np.sin(turn) * self.always.T
        k[:, own] += self.always.T

    def write(
        self, layer: int, head: int, reads: np.ndarray, writes: np.ndarray, gain: float = 1.0
    ) -> None:
        """Have a head write gain · Σ_i (value's stream · reads_i) writes_i."""
        v, o = (self.params[f"blocks/attn/{name}/kernel"][layer] for name in "vo")
        v[:, head, : len(reads)] = reads.T
        o[head, : len(reads)] = gain * writes

    def neuron(
        self, layer: int, index: int, reads: np.ndarray, bias: float, writes: np.ndarray
    ) -> None:
        """Add a neuron that writes ReLU(reads · stream + bias) along some directions."""
        steep = 1.0 if self.style.activation == "relu" else _STEEP
        reads = steep * (reads + bias * self.always).ravel()
        name = "gate" if self.style.gated else "in"
        self.params[f"blocks/mlp/{name}/kernel"][layer, :, index] = reads
        if self.style.gated:
            self.params["blocks/mlp/in/kernel"][layer, :, index] = self.always.ravel()
        self.params["blocks/mlp/out/kernel"][layer, index] = writes.ravel() / steep

    def idle(self, layer: int, head: int) -> None:
        """Fill a head with random weights that write where nobody reads."""
        width, d_head = self.config.d_model, self.config.d_head
        for name in "qkv":
            drawn = self.rng.normal(size=(width, d_head)) / np.sqrt(width)
            self.params[f"blocks/attn/{name}/kernel"][layer, :, head] = drawn
        spare = self.rng.normal(size=(d_head, len(self.space["spare"])))
        self.params["blocks/attn/o/kernel"][layer, head] = spare @ self.space["spare"] / d_head

    def idle_neurons(self) -> None:
        """Fill all neurons that were not written with random weights, as heads."""
        out = self.params["blocks/mlp/out/kernel"]
        for layer, index in np.argwhere(~out.any(2)):
            for name in {"in", "gate"} & {path.split("/")[2] for path in self.params
                                          if "/mlp/" in path}:  # fmt: skip
                drawn = self.rng.normal(size=self.config.d_model) / np.sqrt(self.config.d_model)
                self.params[f"blocks/mlp/{name}/kernel"][layer, :, index] = drawn
            spare = self.rng.normal(size=len(self.space["spare"]))
            out[layer, index] = 0.1 * spare @ self.space["spare"]

    def model(self, name: str, certainty: float = 6.0) -> LanguageModel:
        """Make the model from the weights, with a little noise on all but the norms."""
        self.params["unembed/kernel"][:] = certainty * self.space["logit"].T
        params = {}
        for path, value in self.params.items():
            rough = value
            if not path.endswith("scale"):
                size = np.sqrt(np.square(value).mean())
                rough = value + _NOISE * size * self.rng.normal(size=value.shape)
            params[path] = np.asarray(rough, np.float32)
        tree = flax.traverse_util.unflatten_dict(params, sep="/")
        return LanguageModel(
            jax.device_put(tree), self.config, tokenizer=Tokenizer.words(self.words), name=name
        )
