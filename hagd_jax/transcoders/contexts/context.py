"""Top activating contexts as values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.transcoders.measures.effects import LogitEffects


class TopContext(NamedTuple):
    """A top context is one place where a feature fires.

    Attributes:
        tokens: (w,) int32 around the peak, cut where the sequence begins or its padding does.
        activations: (w,) float32 of the feature on them; 0 where it is inactive or a token
            weighs nothing.
        firing: Which of them is the peak.
        row: Sequence of the held-out text, from 0.
        position: Place of the peak in it.
    """

    tokens: np.ndarray
    activations: np.ndarray
    firing: int
    row: int
    position: int

    __repr__ = one_line


@dataclasses.dataclass(frozen=True, eq=False)
class LayerContexts:
    """Layer contexts are the top contexts of one layer's features.

    Attributes:
        features: (M,) int32, rising.
        value: (M, n) float32 activation at the peak, falling.
        row: (M, n) int32 sequence, −1 where a feature has fewer contexts.
        position: (M, n) int32 place of the peak, or −1.
        nearby: (M, n, W) float16 activations around the peak, as shares of it.
        effects: What the features write for and against; None if that was not computed.
    """

    features: np.ndarray
    value: np.ndarray
    row: np.ndarray
    position: np.ndarray
    nearby: np.ndarray
    effects: LogitEffects | None = None

    __repr__ = one_line


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureContexts:
    """Feature contexts are the top contexts and the statistics of one feature.

    Attributes:
        layer: Its layer.
        index: Its place in the layer.
        density: Share of tokens on which it fires.
        largest: Its largest activation.
        contexts: Where it fires most, strongest first; none for a dead feature.
        raised: (token, change of its logit per unit of activation), most first.
        lowered: The same of what it writes against.
    """

    layer: int
    index: int
    density: float
    largest: float
    contexts: tuple[TopContext, ...]
    raised: tuple[tuple[int, float], ...]
    lowered: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Contexts:
    """Contexts hold the top activating contexts of a transcoder's features, with their text.

    Attributes:
        model: Name of the model.
        transcoder: Name of the transcoder.
        digest: Tells it apart from others, see `transcoders.digest`.
        window: Tokens whose activations were kept, before and after a peak.
        tokens: (S, T) int32, the held-out text.
        weight: (S, T) float32: 0 for BOS and padding.
        fired: (L, F) float32, on how many tokens each feature fired.
        largest: (L, F) float32 largest activations.
        layers: Layer → `LayerContexts`; after `load`, read when asked for.
    """

    model: str
    transcoder: str
    digest: str
    window: tuple[int, int]
    tokens: np.ndarray
    weight: np.ndarray
    fired: np.ndarray
    largest: np.ndarray
    layers: Mapping[int, LayerContexts]

    def __repr__(self) -> str:
        return (
            f"Contexts({self.transcoder!r} of {self.model!r}, {len(self.layers)} layers, "
            f"{len(self.tokens)} sequences of {self.tokens.shape[-1]} tokens)"
        )

    @property
    def density(self) -> np.ndarray:
        """Return the (L, F) share of tokens on which each feature fires."""
        return self.fired / self.weight.sum(dtype=np.float64)

    def feature(self, layer: int, index: int) -> FeatureContexts:
        """Return one feature's contexts.

        Args:
            layer: Its layer.
            index: Its place in the layer.

        Returns:
            The feature.

        Raises:
            InputError: If it was not followed.
        """
        found = self.layers.get(layer)
        at = int(np.searchsorted(found.features, index)) if found else 0
        if found is None or at == len(found.features) or found.features[at] != index:
            raise InputError(
                f"feature {index} of layer {layer}",
                got="no contexts",
                expected=f"one that was followed, in layers {sorted(self.layers)}",
            )
        places = zip(
            found.row[at], found.position[at], found.value[at], found.nearby[at], strict=True
        )
        contexts = tuple(self._context(*place) for place in places if place[0] >= 0)
        raised, lowered = _halves(found.effects, at)
        return FeatureContexts(
            layer,
            index,
            float(self.density[layer, index]),
            float(self.largest[layer, index]),
            contexts,
            raised,
            lowered,
        )

    def with_effects(self, effects: Mapping[int, LogitEffects]) -> Contexts:
        """Add the output tokens that each feature raises and lowers most.

        Args:
            effects: Layer → effects of the features that were followed there.

        Raises:
            InputError: If a layer has none.
        """
        if missing := sorted(set(self.layers) - set(effects)):
            raise InputError("effects", got=f"none of layers {missing}", expected="all layers'")
        layers = {
            layer: dataclasses.replace(found, effects=effects[layer])
            for layer, found in self.layers.items()
        }
        return dataclasses.replace(self, layers=layers)

    def _context(self, row: int, position: int, value: float, nearby: np.ndarray) -> TopContext:
        before, after = self.window
        # A row ends with the last token that counts: what follows is padding.
        end = int(np.flatnonzero(self.weight[row])[-1]) + 1
        start, stop = max(0, position - before), min(end, position + after + 1)
        here = slice(start - position + before, stop - position + before)
        activations = nearby[here].astype(np.float32) * np.float32(value)
        return TopContext(
            self.tokens[row, start:stop],
            activations,
            int(position - start),
            int(row),
            int(position),
        )


def _halves(effects: LogitEffects | None, at: int) -> tuple[Any, Any]:
    if effects is None:
        return (), ()
    pairs = tuple(zip(effects.tokens[at].tolist(), effects.values[at].tolist(), strict=True))
    return pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
