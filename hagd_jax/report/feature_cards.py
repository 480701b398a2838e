"""Features with their contexts, as data that a small script turns into cards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hagd_jax.models import Tokenizer, token_label
from hagd_jax.report.words import inert
from hagd_jax.transcoders import Contexts
from hagd_jax.transcoders.contexts.context import TopContext

LONGEST_TOKEN = 40
# What fires on more tokens than this has no contexts that stand out.
DENSE = 0.1
# Steps of shading, from no activation to the feature's largest.
SHADES = 100
_SIGNS = str.maketrans({"\n": "↵", "\t": "⇥"})


def cards(
    contexts: Contexts,
    chosen: Iterable[tuple[int, int]],
    tokenizer: Tokenizer | None = None,
    *,
    contexts_per_feature: int = 8,
) -> dict[str, Any]:
    """Collect the data with which a page shows features.

    Args:
        contexts: The features' contexts; layers are read one after the other.
        chosen: (layer, feature) of each to show.
        tokenizer: Of the model; without one tokens are numbers.
        contexts_per_feature: How many to show of each.

    Returns:
        `words`: texts of tokens, made safe to look at; and `features`, one dictionary each:
        `l` layer, `f` feature, `d` density, `m` largest activation, `up` and `down` [word, effect]
        pairs, and `c` contexts [word of each token, place of the peak, [place, shade] pairs of
        active tokens, activation at the peak, sequence, position].
    """
    words = _Words(tokenizer)
    features = []
    for layer, index in sorted(set(chosen)):
        found = contexts.feature(layer, index)
        features.append({
            "l": layer,
            "f": index,
            "d": _short(found.density),
            "m": _short(found.largest),
            "up": [[words(token), _short(value)] for token, value in found.raised],
            "down": [[words(token), _short(value)] for token, value in found.lowered],
            "c": [_context(c, found.largest, words) for c in found.contexts[:contexts_per_feature]],
        })  # fmt: skip
    return {"words": words.texts, "features": features}


def striking(contexts: Contexts, per_layer: int) -> list[tuple[int, int]]:
    """Choose the features of each layer that fire most strongly.

    Args:
        contexts: The contexts.
        per_layer: How many.

    Returns:
        (layer, feature) pairs. Features that fire on more than a tenth of all tokens come after
        the others, and dead ones not at all.
    """
    density, chosen = contexts.density, []
    for layer in contexts.layers:
        followed = contexts.layers[layer].features
        largest = contexts.largest[layer, followed]
        order = np.lexsort((-largest, density[layer, followed] > DENSE))
        alive = order[largest[order] > 0][:per_layer]
        chosen += [(layer, int(feature)) for feature in followed[alive]]
    return chosen


def token_text(tokenizer: Tokenizer | None, token: int) -> str:
    """Return one token's text as a reader sees it.

    Args:
        tokenizer: The model's, or None.
        token: Its id; a model's vocabulary may be larger than its tokenizer's.

    Returns:
        Its text with line breaks and tabs as signs, harmless and cut where endless; or its number.

    Example:
        >>> token_text(None, 17)
        '#17'
    """
    return inert(token_label(tokenizer, token).translate(_SIGNS), LONGEST_TOKEN)


class _Words:
    """Texts of tokens, each once, by their places in a list."""

    def __init__(self, tokenizer: Tokenizer | None):
        self.texts: list[str] = []
        self._places: dict[int, int] = {}
        self._text: Callable[[int], str] = functools.partial(token_text, tokenizer)

    def __call__(self, token: int) -> int:
        if token not in self._places:
            self._places[token] = len(self.texts)
            self.texts.append(self._text(token))
        return self._places[token]


def _context(context: TopContext, largest: float, words: _Words) -> list[Any]:
    shades = np.ceil(SHADES * context.activations / largest).astype(int)
    return [
        [words(token) for token in context.tokens.tolist()],
        context.firing,
        [[place, int(shades[place])] for place in np.flatnonzero(shades).tolist()],
        _short(context.activations[context.firing]),
        context.row,
        context.position,
    ]


def _short(value: float) -> float:
    """Four significant digits, so that a page stays small."""
    return float(f"{float(value):.4g}")
