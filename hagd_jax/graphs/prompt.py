"""A prompt on the devices, run once, with everything held that attribution holds."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.graphs.frozen import FROZEN_SITES, Frozen, cap_slope, frozen, run_sites
from hagd_jax.graphs.graph import AttributionGraph
from hagd_jax.graphs.rows import TargetRows, Targets, rows
from hagd_jax.graphs.sources import (
    Sources,
    round_up,
    slots_for,
    source_sites,
    sources,
)
from hagd_jax.graphs.stored_rows import Columns
from hagd_jax.graphs.targets import feature_targets
from hagd_jax.models import LanguageModel, digest, forward
from hagd_jax.models.arrays import read_array
from hagd_jax.models.model import encode
from hagd_jax.parallel import replicate
from hagd_jax.units import (
    NEURONS,
    Directed,
    Features,
    LazyFeatures,
    active_features,
    unexplained,
)
from hagd_jax.units.dictionary import tail

_LOG = logging.getLogger("hagd_jax")


class HeldPrompt(NamedTuple):
    """A held prompt is a padded prompt with its frozen pass and its sources.

    Attributes:
        model: Bare.
        dictionary: Bare.
        found: What writes.
        held: What is frozen.
        mlp_in: (L, T, D) what MLPs read.
        probabilities: (V,) of the next token.
        length: Tokens without padding.
        kept: (L, K) which features the dictionary's rows are, of one that was read from disk; None
            if it has all of them.
        fvu: (L,) variance of MLP outputs that features leave unexplained in this prompt; None for
            neurons, which explain all of it.
    """

    model: LanguageModel
    dictionary: Directed
    found: Sources
    held: Frozen
    mlp_in: jax.Array
    probabilities: np.ndarray
    length: int
    kept: np.ndarray | None = None
    fvu: np.ndarray | None = None

    __repr__ = one_line

    def rows(self, targets: Targets) -> TargetRows:
        """Compute the rows of a batch of targets."""
        own = self.dictionary
        return rows(self.model, self.found, self.held, targets, own.skip, reads=own.reads)

    def features(self, layer: Any, position: Any, index: Any) -> Targets:
        """Compute rows with features as targets, (B,) each; layer −1 is no target."""
        index = self.rows_of(layer, index)
        places = (jnp.asarray(x, jnp.int32) for x in (layer, position, index))
        return feature_targets(self.model, self.dictionary, self.held, self.mlp_in, *places)

    def rows_of(self, layer: Any, index: Any) -> Any:
        """Return the rows of the dictionary in which features are."""
        if self.kept is None:
            return index
        layers, wanted = np.broadcast_arrays(np.asarray(layer), np.asarray(index))
        found = [
            int(np.searchsorted(self.kept[max(at, 0)], i))
            for at, i in zip(layers.ravel(), wanted.ravel(), strict=True)
        ]
        return np.minimum(np.reshape(found, wanted.shape), self.kept.shape[1] - 1)


def hold_prompt(
    model: LanguageModel,
    dictionary: Directed,
    tokens: np.ndarray,
    skip_positions: tuple[int, ...] = (0,),
    check: Callable[[Columns, int | None], None] | None = None,
) -> HeldPrompt:
    """Run a prompt once, and freeze attention patterns, norm scales and MLP outputs.

    Args:
        model: The model.
        dictionary: For it.
        tokens: (T,) from `prompt_tokens`.
        skip_positions: Positions without features and errors.
        check: Told what there will be, and how many features are active, before memory is taken
            for it. None if only the pass can tell; then again when it has, with more slots.

    Returns:
        The `HeldPrompt`.

    Raises:
        InputError: If activations or logits are not finite.
    """
    bare, own, length = model.bare(), dictionary.bare(), len(tokens)
    padded = _padded_length(model, dictionary, length)
    row = jnp.asarray(np.pad(tokens, (0, padded - length))[None])
    place = np.arange(padded)
    counts = jnp.asarray((place < length) & ~np.isin(place, skip_positions))
    layers, features = model.config.n_layers, dictionary.space.features
    known = dictionary.most_active

    def tell(slots: int, active: int | None) -> None:
        if check is not None:
            check(Columns(layers, padded, slots), active)

    tell(slots_for(known or 1, features), None if known is None else layers * length * known)
    trace, held, probabilities = run_pass(
        bare, row, length - 1, run_sites(source_sites(dictionary))
    )
    own, kept = _in_memory(own, trace, counts)
    found = sources(bare, own, row, trace, counts, tell)
    if kept is not None and found.index is not None:
        layer_of_slot = np.arange(layers)[:, None, None]
        inside = np.minimum(np.asarray(found.index), kept.shape[1] - 1)
        found = found.replace(index=jnp.asarray(kept[layer_of_slot, inside], jnp.int32))
    chances = np.asarray(probabilities)
    if not np.isfinite(chances).all():
        raise InputError("logits", got="NaN or infinity", expected="finite numbers")
    fvu = None
    if isinstance(own, Features):
        left = unexplained(trace[own.target][:, 0], found.error, counts)
        fvu = np.asarray(replicate(left, model.mesh))
    return HeldPrompt(bare, own, found, held, trace["mlp_in"][:, 0], chances, length, kept, fvu)


def _in_memory(
    own: Directed, trace: dict[str, jax.Array], counts: jax.Array
) -> tuple[Directed, np.ndarray | None]:
    """The dictionary, or what the prompt needs of it if it is on disk; and which features."""
    if not isinstance(own, LazyFeatures):
        return own, None

    def rows(most: int, anywhere: int) -> int:
        # The slots of a position are filled from them.
        return max(round_up(anywhere), slots_for(most, own.space.features))

    return active_features(own, trace[own.reads][:, 0], counts, rows)


@functools.partial(jax.jit, static_argnames="sites")
def run_pass(
    model: LanguageModel, tokens: jax.Array, last: Any, sites: tuple[str, ...]
) -> tuple[dict[str, jax.Array], Frozen, jax.Array]:
    """Run a prompt and capture the sites that attribution needs.

    Args:
        model: Bare.
        tokens: (1, T).
        last: The position that predicts.
        sites: To capture, with `FROZEN_SITES` among them.

    Returns:
        The trace without what is frozen, what is frozen, and (V,) chances of the next token.
    """
    out = forward(model, tokens, capture=sites)
    trace = {site: value for site, value in out.trace.items() if site not in FROZEN_SITES}
    logits = replicate(out.logits[0, last], model.mesh)
    return trace, frozen(out.trace, cap_slope(logits, model.config)), jax.nn.softmax(logits)


def _padded_length(model: LanguageModel, nodes: Directed, length: int) -> int:
    """A length that other prompts share, where what is added cannot be seen."""
    longer = round_up(length)
    dynamic = model.config.rope_scaling is not None and model.config.rope_scaling.kind == "dynamic"
    if not model.config.causal or nodes.together or dynamic or longer > model.config.max_positions:
        return length
    return longer


def prompt_tokens(model: LanguageModel, prompt: Any) -> np.ndarray:
    """Read the token ids of a prompt.

    Args:
        model: The model.
        prompt: Text, or ids (T,).

    Returns:
        (T,) int32.

    Raises:
        InputError: If it is text and the model has no tokenizer, is empty or too long, or an id
            is not in the vocabulary.
    """
    require_is("model", model, LanguageModel)
    if isinstance(prompt, str):
        prompt = encode(model, prompt)
    tokens = np.asarray(read_array("prompt", prompt, "text, or one row of token ids"))
    c = model.config
    if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(
            "prompt",
            got=f"shape {tokens.shape} of {tokens.dtype}",
            expected="one row of token ids, at least one",
        )
    if len(tokens) > c.max_positions:
        raise InputError(
            "prompt", got=f"{len(tokens)} tokens", expected=f"at most {c.max_positions}"
        )
    outside = tokens[(tokens < 0) | (tokens >= c.vocab_size)]
    if outside.size:
        raise InputError("prompt", got=f"id {outside[0]}", expected=f"ids below {c.vocab_size}")
    return tokens.astype(np.int32)


def held_again(model: LanguageModel, dictionary: Directed, graph: AttributionGraph) -> HeldPrompt:
    """Run the prompt of a graph once more.

    Args:
        model: The one that it was made with.
        dictionary: The same.
        graph: The graph.

    Returns:
        The `HeldPrompt`.

    Raises:
        InputError: If the graph is another model's or dictionary's.
    """
    require_is("graph", graph, AttributionGraph)
    ours = model.config.n_layers, dictionary.space.features
    theirs = graph.info.layers, graph.info.features
    if ours != theirs:
        raise InputError(
            "graph",
            got=f"one of {theirs[0]} layers of {theirs[1]} features",
            expected=f"{ours[0]} layers of {ours[1]}",
            mend="Give the model and the dictionary that it was made with.",
        )
    _require_weights(model, dictionary, graph)
    skipped = tuple(graph.info.settings.get("skip_positions", (0,)))
    return hold_prompt(model, dictionary, prompt_tokens(model, graph.info.tokens), skipped)


def _require_weights(model: LanguageModel, dictionary: Directed, graph: AttributionGraph) -> None:
    """Refuse weights that the graph was not made with; of an older file, say it is not known."""
    label = graph.info.dictionary
    # Neurons are their model's, and have no digest of their own.
    theirs = tail(label) if "#" in label or label == NEURONS else ""
    known = {"model": graph.info.weights, "transcoder": theirs}
    ours = {"model": digest(model), "transcoder": tail(dictionary.label)}
    for what, mine in ours.items():
        if not known[what]:
            _LOG.warning(
                "The graph does not record the weights of its %s, so they were not compared.", what
            )
        elif known[what] != mine:
            raise InputError(
                "graph", got=f"a {what} with digest {mine}",
                expected=f"{known[what]}, with which the graph was made",
                mend="Give the model and the dictionary that it was made with.",
            )  # fmt: skip
