"""Cut edges of a compiled program in NumPy, in float64: a second opinion on what a cut does."""

from __future__ import annotations

from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.units import Edges


class Exact(NamedTuple):
    """What a model does with some edges cut, in float64.

    Attributes:
        logits: (N, T, V).
        writes: (W, N, T, D) what each writer adds to the stream, in the order of `Edges`.
    """

    logits: np.ndarray
    writes: np.ndarray

    __repr__ = one_line


def exact_run(
    model: LanguageModel,
    tokens: np.ndarray,
    *,
    cut: Edges | None = None,
    other: np.ndarray | None = None,
) -> Exact:
    """Run a model without norms with some edges cut, reader by reader.

    The stream of a reader r is Σ_w own_w + Σ_{w cut from r} (other_w − own_w), over the writers w
    before it. Nothing of our decoder or its interventions is used.

    Args:
        model: A compiled program: no norms, gates, shared key/value heads or attention biases.
        tokens: (N, T) token ids.
        cut: `Edges` of bool, true where an edge is cut; none if None.
        other: (W, N, T, D) what cut edges carry: `writes` of a run on other tokens.

    Returns:
        Logits and what writers wrote.

    Raises:
        InputError: If the model is of another kind.

    Example:
        >>> from hagd_jax.testbeds import PROGRAMS, compile_program
        >>> model = compile_program(PROGRAMS["first"]).model
        >>> found = exact_run(model, np.array([[3, 0, 1, 2]]))
        >>> found.logits.shape, found.logits[0, 1:].argmax(-1).tolist()
        ((1, 4, 4), [0, 0, 0])
    """
    require_is("model", model, LanguageModel)
    c = model.config
    plain = c.norm == "none" and not c.gated_mlp and c.n_kv_heads == c.n_heads
    if not plain or c.scale_attn or c.parallel_residual:
        raise InputError("model", got=repr(c)[:80], expected="that of a compiled program")
    flat = flax.traverse_util.flatten_dict(model.params, sep="/")
    p = {path: np.asarray(value, np.float64) for path, value in flat.items()}
    nothing: Edges = jax.tree.map(np.zeros_like, Edges.existing(c))
    cut = nothing if cut is None else cut
    length, heads = tokens.shape[1], c.n_layers * c.n_heads
    own = np.zeros((1 + heads + c.n_layers, *tokens.shape, c.d_model))
    own[0] = p["embed/embedding"][tokens] + p["positions/embedding"][:length]
    total = own[0].copy()
    hidden = np.triu(np.ones((length, length), bool), 1) & c.causal

    def stream(missing: np.ndarray) -> np.ndarray:
        if other is None or not missing.any():
            return total
        return total + (other[missing] - own[missing]).sum(0)

    for layer in range(c.n_layers):
        added = np.zeros_like(total)
        for head in range(c.n_heads):
            q, k, v = (
                stream(rows[layer, head]) @ p[f"blocks/attn/{name}/kernel"][layer, :, head]
                for name, rows in (("q", cut.q), ("k", cut.k), ("v", cut.v))
            )
            scores = np.where(hidden, -np.inf, q @ k.swapaxes(-1, -2))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            wrote = weights @ v @ p["blocks/attn/o/kernel"][layer, head]
            own[1 + layer * c.n_heads + head] = wrote
            added += wrote
        total = total + added
        inside = stream(cut.mlp[layer]) @ p["blocks/mlp/in/kernel"][layer]
        own[1 + heads + layer] = np.maximum(inside, 0) @ p["blocks/mlp/out/kernel"][layer]
        total = total + own[1 + heads + layer]
    logits = stream(cut.final) @ p["unembed/kernel"] + p["unembed/bias"]
    return Exact(logits, own)
