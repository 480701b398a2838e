"""What attribution starts from: output tokens, directions between them, features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.graphs.config import AttributionConfig
from hagd_jax.graphs.frozen import Frozen, norm_back, unembedding, weight_of
from hagd_jax.graphs.graph import LogitTarget
from hagd_jax.graphs.rows import Targets, at_mlp, before_layer
from hagd_jax.models import LanguageModel, token_label
from hagd_jax.models.arrays import read_array
from hagd_jax.models.layers import ACTIVATIONS
from hagd_jax.units import Dictionary, Features


def difference_target(
    model: LanguageModel, right: str | int, wrong: str | int | Sequence[str | int]
) -> LogitTarget:
    """Make the target logit(answer) − mean logit of the distractors.

    Args:
        model: The model.
        right: Token or id.
        wrong: Token or id, or several.

    Returns:
        The target logit[right] − mean logit[wrong].

    Raises:
        InputError: If one of them is not in the vocabulary, or the right answer is among the wrong
            ones, or there is no wrong one: the direction would be of nothing.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> difference_target(model, 7, [3, 5]).coefficients
        (1.0, -0.5, -0.5)
    """
    others = _listed(wrong)
    ids = [token_id(model, token) for token in (right, *others)]
    names = [token_label(model.tokenizer, i) for i in ids]
    if not others or ids[0] in ids[1:]:
        raise InputError(
            "wrong answers",
            got=f"{', '.join(map(repr, names[1:])) or 'none'} for the right answer {names[0]!r}",
            expected="one or more, none of them the right one",
        )
    label = f"{names[0]} - {' / '.join(names[1:])}"
    return LogitTarget(label, tuple(ids), (1.0, *[-1 / len(others)] * len(others)))


def _listed(asked: Any) -> list[Any]:
    """One token, of whatever library, or several."""
    if isinstance(asked, str | LogitTarget) or not hasattr(asked, "__iter__"):
        return [asked]
    return [asked] if getattr(asked, "ndim", 1) == 0 else list(asked)


def token_id(model: LanguageModel, token: str | int) -> int:
    """Find the id of an output token.

    Args:
        model: The model.
        token: Its text, blank included, or its id.

    Returns:
        The id.

    Raises:
        InputError: If it is no single token of the vocabulary.
    """
    require_is("model", model, LanguageModel)
    size = model.config.vocab_size
    if isinstance(token, str):
        if model.tokenizer is None:
            raise InputError(
                "target", got=repr(token), expected="a token id: this model has no tokenizer"
            )
        ids = model.tokenizer.encode(token, begin=False, end=False)
        if len(ids) != 1:
            raise InputError(
                "target",
                got=f"{token!r}, which is {len(ids)} tokens",
                expected="text that is one token",
                mend="Most words begin with a blank: try it with one, or give an id.",
            )
        return int(ids[0])
    return require_index("target", token, size, mend="Targets are tokens: texts or ids.")


def choose_logits(
    model: LanguageModel,
    probabilities: np.ndarray,
    config: AttributionConfig,
    asked: Iterable[str | int | LogitTarget] | str | int | LogitTarget | None,
) -> list[LogitTarget]:
    """Choose the targets of a prompt: those requested, or its most likely next tokens.

    Args:
        model: The model.
        probabilities: (V,) of the next token.
        config: How many.
        asked: Tokens and directions; None for the smallest set of most likely tokens whose
            probabilities sum to `logit_mass`, at most `max_logits`.

    Returns:
        One target or more.

    Raises:
        InputError: If a token is not in the vocabulary, or nothing is asked for.
    """
    if asked is None:
        best = np.argsort(-probabilities, kind="stable")[: config.max_logits]
        enough = np.searchsorted(np.cumsum(probabilities[best]), config.logit_mass) + 1
        asked = [int(i) for i in best[:enough]]
    asked = _listed(asked)
    if not asked:
        raise InputError("targets", got="none", expected="one or more, or None for likely tokens")
    found = []
    for target in asked:
        if not isinstance(target, LogitTarget):
            i = token_id(model, target)
            name = token_label(model.tokenizer, i)
            # A probability may be too small for float32; the token is asked for all the same.
            chance = max(float(probabilities[i]), float(np.finfo(np.float32).tiny))
            target = LogitTarget(name, (i,), weight=chance)
        found.append(_checked(model, target))
    return found


def _checked(model: LanguageModel, target: LogitTarget) -> LogitTarget:
    """The direction in plain numbers, or refused if it means nothing."""
    name = f"target {target.label!r}"
    tokens = require_list(f"tokens of {name}", target.tokens, "ids")
    ids = tuple(token_id(model, token) for token in tokens)
    numbers = np.asarray(read_array(f"coefficients of {name}", target.coefficients), np.float64)
    if numbers.shape != (len(ids),) or not ids:
        raise InputError(
            name,
            got=f"coefficients of shape {numbers.shape} for {len(ids)} tokens",
            expected="one for each of one or more tokens",
        )
    # The same token may come twice, with coefficients that cancel.
    _, place = np.unique(ids, return_inverse=True)
    if not np.isfinite(numbers).all() or not np.bincount(place, numbers).any():
        raise InputError(
            name,
            got=f"coefficients {numbers.tolist()} for tokens {ids}",
            expected="finite numbers that do not cancel to 0",
        )
    weight = read_array(f"weight of {name}", target.weight, "a number")
    if weight.ndim or not 0 < weight < np.inf:
        raise InputError(name, got=f"weight {target.weight}", expected="a finite one above 0")
    return LogitTarget(str(target.label), ids, tuple(numbers.tolist()), float(weight))


def logit_targets(
    model: LanguageModel, held: Frozen, targets: Sequence[LogitTarget], position: int, size: int
) -> Targets:
    """Compute gradients of logit targets with respect to the final stream.

    Where logits have a soft cap, a target is its tangent at this prompt: the gradient of
    c tanh(z / c) there. The target's own value is then the sum of its row and a constant, which
    holds what the tangent leaves, c tanh(z / c) − z ∂z̃/∂z, beside the biases.

    Args:
        model: Bare.
        held: What is frozen.
        targets: At most `size`.
        position: Of the last token.
        size: Rows to fill up to.

    Returns:
        `size` targets; those beyond the given ones are of no layer.
    """
    width = max(len(target.tokens) for target in targets)
    tokens, coefficients = np.zeros((size, width), np.int32), np.zeros((size, width), np.float32)
    for row, target in enumerate(targets):
        tokens[row, : len(target.tokens)] = target.tokens
        coefficients[row, : len(target.tokens)] = target.coefficients
    vector = _logit_vectors(model, held, tokens, coefficients, position)
    top = before_layer(model.config.n_layers)
    stage = jnp.asarray(np.where(np.arange(size) < len(targets), top, -1), jnp.int32)
    return Targets(vector, stage, jnp.full(size, position, jnp.int32))


@jax.jit
def _logit_vectors(
    model: LanguageModel, held: Frozen, tokens: jax.Array, coefficients: jax.Array, position: Any
) -> jax.Array:
    table = unembedding(model)
    columns = table[:, tokens].astype(jnp.float32)
    if held.slope is None:
        mean = jnp.mean(table, -1, dtype=jnp.float32)
    else:
        mean = jnp.matmul(table, held.slope / table.shape[1], preferred_element_type=jnp.float32)
        columns = columns * held.slope[tokens]
    vector = jnp.einsum("dbm,bm->bd", columns - mean[:, None, None], coefficients)
    weight = weight_of(model.params, "norm_f", model.config)
    return norm_back(vector, weight, held.gain_final[position], model.config)


@jax.jit
def feature_targets(
    model: LanguageModel,
    dictionary: Dictionary,
    held: Frozen,
    mlp_in: jax.Array,
    layer: jax.Array,
    position: jax.Array,
    index: jax.Array,
) -> Targets:
    """Compute gradients of features' pre-activations with respect to the stream.

    Of a neuron with a gate, act(g) · u, the target is the neuron itself with act(g)/g and half of
    each factor held, ½ [act(g) u' + (act(g)/g) u g']: a linear function of the MLP's input whose
    value is the neuron's own (the half rule; Arora et al., 2025, arXiv:2508.21258). In a mixture a
    target is multiplied by the weight of the neuron's expert, which is held.

    Args:
        model: Bare.
        dictionary: Bare.
        held: What is frozen.
        mlp_in: (L, T, D) what MLPs read.
        layer: (B,) of each feature; −1 for no target.
        position: (B,).
        index: (B,).

    Returns:
        The targets.
    """
    here = jnp.maximum(layer, 0)
    if isinstance(dictionary, Features):
        vector = dictionary.trained.params["W_enc"][here, index].astype(jnp.float32)
        normed = dictionary.trained.config.reads == "mlp_in"
    else:
        vector = _neuron_vectors(model, mlp_in[here, position], here, index)
        if held.router is not None:
            expert = index // model.config.d_expert
            vector = vector * held.router[here, position, expert][:, None]
        normed = True
    if normed:
        blocks = model.params["blocks"]
        weight = weight_of(blocks, "norm2", model.config)
        weight = None if weight is None else weight[here]
        vector = norm_back(vector, weight, held.gain2[here, position], model.config)
    return Targets(vector, jnp.where(layer < 0, -1, at_mlp(layer)), position)


def _neuron_vectors(
    model: LanguageModel, x: jax.Array, layer: jax.Array, index: jax.Array
) -> jax.Array:
    mlp = model.params["blocks"]["mlp"]

    def affine(name: str) -> tuple[jax.Array, jax.Array]:
        """A map's rows, and its values at x."""
        row = mlp[name]["kernel"][layer, :, index].astype(jnp.float32)
        value = jnp.sum(row * x.astype(jnp.float32), -1, keepdims=True)
        bias = mlp[name].get("bias")
        return row, value if bias is None else value + bias[layer, index][:, None]

    into, value = affine("in")
    if not model.config.gated_mlp:
        return into
    gate_row, gate = affine("gate")
    opened = ACTIVATIONS[model.config.activation](gate)
    # At a gate of exactly zero act(g)/g has a limit; its neighbourhood will do.
    share = opened / jnp.where(gate == 0, 1, gate)
    return 0.5 * (opened * into + share * value * gate_row)
