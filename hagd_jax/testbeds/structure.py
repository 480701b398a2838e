"""Which edges a model without norms has at all, read off its weights.

Compiled programs and models written by hand use one direction of the stream for every value, so a
writer and a reader that share no direction are not connected, whatever the input.
"""

from __future__ import annotations

import numpy as np

from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.units import Edges, Nodes


def program_edges(model: LanguageModel) -> Edges:
    """Find the edges along which information can flow to the logits.

    An edge is there if its writer's output and its reader's input share a direction, if what the
    reader does with it depends on it, and if the logits hear of the reader. Cutting any other edge
    changes nothing, under no ablation.

    Args:
        model: Without norms, as compiled programs are.

    Returns:
        `Edges` of bool.

    Raises:
        InputError: If the model has norms, which connect everything.

    Example:
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> int(program_edges(model).count()), int(Edges.existing(model.config).count())
        (13, 23)
    """
    require_is("model", model, LanguageModel)
    c = model.config
    if c.norm != "none":
        raise InputError("model", got=f"{c.norm} norms", expected="one without norms")
    writes, reads = _writes(model), _reads(model)
    there = Edges.existing(c)
    shared = {name: (rows @ writes.T) > 0 for name, rows in reads.items()}
    edges = Edges(
        shared["q"].reshape(there.q.shape) & there.q,
        shared["k"].reshape(there.k.shape) & there.k,
        shared["v"].reshape(there.v.shape) & there.v,
        shared["mlp"] & there.mlp,
        shared["final"][0] & there.final,
    )
    heard = edges.final.copy()
    for layer in reversed(range(c.n_layers)):
        # What a writer above the others hears of makes those heard as well.
        mlp = heard[1 + c.n_layers * c.n_heads + layer]
        edges.mlp[layer] &= mlp
        heard |= edges.mlp[layer]
        for head in range(c.n_heads):
            kept = heard[1 + layer * c.n_heads + head]
            # Heads without values write a constant, however they look.
            valued = edges.v[layer, head * c.n_kv_heads // c.n_heads].any()
            edges.q[layer, head] &= kept & valued
        group = c.n_heads // c.n_kv_heads
        for key in range(c.n_kv_heads):
            own = slice(
                1 + layer * c.n_heads + key * group, 1 + layer * c.n_heads + (key + 1) * group
            )
            edges.v[layer, key] &= heard[own].any()
            edges.k[layer, key] &= edges.q[layer, key * group : (key + 1) * group].any() | (
                heard[own].any() & edges.v[layer, key].any()
            )
        for rows in (edges.q[layer], edges.k[layer], edges.v[layer]):
            heard |= rows.any(0)
    return edges


def program_nodes(model: LanguageModel) -> Nodes:
    """Find the heads and neurons from which information can flow to the logits.

    Read from the logits backwards: a unit is there if it writes to a direction that the logits, or
    a unit that is there and comes later, read. Ablating any other unit changes nothing.

    Args:
        model: Without norms, as compiled programs are.

    Returns:
        `Nodes` of bool.

    Raises:
        InputError: If the model has norms, which connect everything.

    Example:
        >>> found = program_nodes(hagd.testbeds.hand_built()[0].model)
        >>> found.heads.tolist(), int(found.features.sum())
        ([[True, True, False, False]], 3)
    """
    require_is("model", model, LanguageModel)
    c = model.config
    if c.norm != "none":
        raise InputError("model", got=f"{c.norm} norms", expected="one without norms")
    blocks = model.params["blocks"]
    kernel = lambda part, name: np.asarray(blocks[part][name]["kernel"]) != 0  # noqa: E731
    heads = np.zeros((c.n_layers, c.n_heads), bool)
    neurons = np.zeros((c.n_layers, c.d_mlp), bool)
    heard = (np.asarray(model.params["unembed"]["kernel"]) != 0).any(1)
    inputs = [name for name in ("in", "gate") if name in blocks["mlp"]]
    for layer in reversed(range(c.n_layers)):
        neurons[layer] = (kernel("mlp", "out")[layer] & heard).any(1)
        for name in inputs:
            heard = heard | kernel("mlp", name)[layer][:, neurons[layer]].any(1)
        heads[layer] = (kernel("attn", "o")[layer] & heard).any((1, 2))
        group = c.n_heads // c.n_kv_heads
        for name in "qkv":
            # A key/value head is read by all query heads of its group.
            own = heads[layer] if name == "q" else heads[layer].reshape(-1, group).any(1)
            heard = heard | kernel("attn", name)[layer][:, own].any((1, 2))
    return Nodes(heads, neurons)


def _writes(model: LanguageModel) -> np.ndarray:
    """(W, D) which directions each writer can write."""
    p, c = model.params, model.config
    embed = np.abs(np.asarray(p["embed"]["embedding"])).sum(0)
    if "positions" in p:
        embed = embed + np.abs(np.asarray(p["positions"]["embedding"])).sum(0)
    heads = np.abs(np.asarray(p["blocks"]["attn"]["o"]["kernel"])).sum(2)
    mlps = np.abs(np.asarray(p["blocks"]["mlp"]["out"]["kernel"])).sum(1)
    rows = [embed[None], heads.reshape(-1, c.d_model), mlps]
    return np.concatenate(rows) > 0


def _reads(model: LanguageModel) -> dict[str, np.ndarray]:
    """Input → (R, D) which directions each reader looks at."""
    p, c = model.params, model.config
    attn, mlp = p["blocks"]["attn"], p["blocks"]["mlp"]
    found = {
        name: np.abs(np.asarray(attn[name]["kernel"])).sum(3).transpose(0, 2, 1).reshape(
            -1, c.d_model)
        for name in "qkv"
    }  # fmt: skip
    found["mlp"] = sum(
        np.abs(np.asarray(mlp[name]["kernel"])).sum(2) for name in mlp.keys() - {"out"}
    )
    found["final"] = np.abs(np.asarray(p["unembed"]["kernel"])).sum(1)[None]
    return {name: rows > 0 for name, rows in found.items()}
