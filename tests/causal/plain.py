"""The tiny decoder once more, in float64 NumPy, with every node under our hands."""

import numpy as np

from hagd_jax.models import DecoderConfig
from hagd_jax.units import Space

CONFIG = DecoderConfig(
    vocab_size=11, n_layers=2, d_model=8, n_heads=2, d_mlp=6, max_positions=8, activation="relu"
)
SPACE = Space(layers=2, heads=2, features=6)


def forward(params, tokens, edits=()):
    """One prompt through the model.

    Args:
        params: The model's parameters.
        tokens: (T,) ids.
        edits: (kind, layer, index, (T, Dh), (T,) or (T, D) values that replace the node's).

    Returns:
        (T, V) logits; {("head", "neuron" or "mlp", layer, index): values}.
    """
    p = {"/".join(path): np.asarray(x, np.float64) for path, x in _leaves(params)}
    edits = {edit[:3]: edit[3] for edit in edits}
    length, seen = len(tokens), {}
    x = p["embed/embedding"][tokens] + p["positions/embedding"][:length]
    for layer in range(CONFIG.n_layers):
        at = {name[7:]: value[layer] for name, value in p.items() if name.startswith("blocks/")}
        normed = _norm(x, at["norm1/scale"], at["norm1/bias"])
        out = at["attn/o/bias"].copy()
        for head in range(CONFIG.n_heads):
            q, k, v = (
                normed @ at[f"attn/{name}/kernel"][:, head] + at[f"attn/{name}/bias"][head]
                for name in "qkv"
            )
            scores = q @ k.T / np.sqrt(CONFIG.d_head)
            scores[np.triu_indices(length, 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            value = weights / weights.sum(1, keepdims=True) @ v
            value = edits.get(("head", layer, head), value)
            seen["head", layer, head] = value
            out = out + value @ at["attn/o/kernel"][head]
        x = x + out
        normed = _norm(x, at["norm2/scale"], at["norm2/bias"])
        out = at["mlp/out/bias"].copy()
        for neuron in range(CONFIG.d_mlp):
            value = np.maximum(
                normed @ at["mlp/in/kernel"][:, neuron] + at["mlp/in/bias"][neuron], 0
            )
            value = edits.get(("neuron", layer, neuron), value)
            seen["neuron", layer, neuron] = value
            out = out + np.outer(value, at["mlp/out/kernel"][neuron])
        out = seen["mlp", layer, 0] = edits.get(("mlp", layer, 0), out)
        x = x + out
    logits = _norm(x, p["norm_f/scale"], p["norm_f/bias"]) @ p["unembed/kernel"]
    return logits, seen


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * scale + bias


def _leaves(tree, path=()):
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, branch in tree.items():
        yield from _leaves(branch, (*path, name))
