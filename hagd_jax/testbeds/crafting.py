"""Weights of a compiled program: what Tracr crafts, laid out as our decoder has it.

The compiler's own last step builds a Haiku model, which takes seconds; this one is NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import DecoderConfig
from hagd_jax.testbeds.blank import zeros

BOS = "BOS"


class Tracr(NamedTuple):
    """The Tracr compiler is a set of modules and functions."""

    rasp: Any
    lib: Any
    bases: Any
    graph: Any
    infer: Any
    craft: Any
    model: Any
    transformers: Any
    project: Callable[[Any, Any], Any]
    validate: Callable[[Any], Any]

    __repr__ = one_line


def tracr() -> Tracr:
    """Import the compiler.

    Returns:
        Its modules.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        from tracr.compiler import (
            basis_inference,
            craft_graph_to_model,
            expr_to_craft_graph,
            lib,
            rasp_to_graph,
            validating,
        )
        from tracr.craft import bases, transformers, vectorspace_fns
        from tracr.rasp import rasp
    except ImportError as error:
        raise MissingDependencyError(
            "tracr", got="not installed", mend="pip install 'hagd-jax[tracr]'"
        ) from error
    return Tracr(
        rasp, lib, bases, rasp_to_graph, basis_inference, expr_to_craft_graph,
        craft_graph_to_model, transformers, vectorspace_fns.project, validating.static_validate,
    )  # fmt: skip


class Crafted(NamedTuple):
    """A crafted program is a compiled program before its unembedding.

    Attributes:
        config: The decoder; its vocabulary has as many words as were asked for.
        params: Path → weights in float64; the unembedding is zero.
        labels: (D,) what each direction of the stream stands for.
    """

    config: DecoderConfig
    params: dict[str, np.ndarray]
    labels: tuple[str, ...]

    __repr__ = one_line


def craft(
    expression: Any,
    words: Sequence[Any],
    vocab_size: int,
    length: int,
    *,
    causal: bool,
    exactness: float,
) -> Crafted:
    """Compile an expression.

    Args:
        expression: The RASP program.
        words: The input tokens, then BOS.
        vocab_size: Words and output values.
        length: Most tokens of an input.
        causal: Whether attention sees earlier tokens alone.
        exactness: L of the steps ReLU(L (x − t) + 1) − ReLU(L (x − t)) that MLPs are made of: a
            step is exact where all inputs are further than 1 / L from its threshold t.

    Returns:
        Configuration, weights and labels.

    Raises:
        InputError: If the compiler cannot translate the program.
    """
    t = tracr()
    refused = t.validate(expression)
    if refused:
        said = "; ".join(f"{found.expr.name}: {found.reason}" for found in refused)
        raise InputError("program", got=said, expected="what the compiler can translate")
    try:
        found = t.graph.extract_rasp_graph(expression)
        t.infer.infer_bases(found.graph, found.sink, set(words) - {BOS}, length)
        t.craft.add_craft_components_to_rasp_graph(
            found.graph,
            bos_dir=t.bases.BasisDirection(t.rasp.tokens.label, BOS),
            mlp_exactness=exactness,
        )
        model = t.model.craft_graph_to_model(found.graph, found.sources)
    except (NotImplementedError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            "program", got=f"{type(error).__name__}: {error}", expected="one that compiles"
        ) from error
    tokens = t.bases.VectorSpaceWithBasis.from_values(t.rasp.tokens.label, words)
    indices = t.bases.VectorSpaceWithBasis.from_values(t.rasp.indices.label, range(length))
    sink = t.bases.VectorSpaceWithBasis(found.sink["OUTPUT_BASIS"])
    stream = t.bases.join_vector_spaces(model.residual_space, tokens, indices, sink)
    layers = _layers(t, model.blocks)
    config = _config(layers, vocab_size, length, len(stream.basis), causal=causal)
    params = zeros(config)
    one = t.bases.BasisDirection("one")
    table = t.project(tokens, stream).matrix
    if one in stream:
        table = table + stream.vector_from_basis_direction(one).magnitudes
    # The bases of Tracr are sorted; `words` are in the order of the tokens.
    rows = [tokens.basis.index(t.bases.BasisDirection(t.rasp.tokens.label, w)) for w in words]
    params["embed/embedding"][: len(words)] = table[rows]
    # BOS has no position.
    params["positions/embedding"][1:] = t.project(indices, stream).matrix
    for layer, (heads, mlp) in enumerate(layers):
        for head, own in enumerate(heads):
            _head(params, layer, head, own, lambda space: t.project(stream, space).matrix)
        if mlp is not None:
            _mlp(params, layer, mlp, lambda space: t.project(stream, space).matrix)
    return Crafted(config, params, tuple(map(str, stream.basis)))


def _layers(t: Tracr, blocks: Sequence[Any]) -> list[tuple[list[Any], Any]]:
    """(heads, MLP or None) of each layer; in a layer attention comes first."""
    layers: list[tuple[list[Any], Any]] = []
    for block in blocks:
        if isinstance(block, t.transformers.MLP):
            if layers and layers[-1][1] is None:
                layers[-1] = (layers[-1][0], block)
            else:
                layers.append(([], block))
        else:
            layers.append((list(block.as_multi().heads()), None))
    return layers


def _config(
    layers: Sequence[tuple[list[Any], Any]], words: int, length: int, width: int, *, causal: bool
) -> DecoderConfig:
    heads = [head for own, _ in layers for head in own]
    sizes = [max(*head.w_qk.matrix.shape, *head.w_ov.matrix.shape) for head in heads]
    return DecoderConfig(
        vocab_size=words,
        n_layers=len(layers),
        d_model=width,
        n_heads=max([1, *(len(own) for own, _ in layers)]),
        d_head=max([1, *sizes]),
        d_mlp=max([1, *(mlp.fst.output_space.num_dims for _, mlp in layers if mlp is not None)]),
        max_positions=length + 1,
        norm="none",
        positions="learned",
        activation="relu",
        causal=causal,
        unembed_bias=True,
        # Tracr means its scores as they are.
        scale_attn=False,
    )


def _head(
    params: dict[str, np.ndarray], layer: int, head: int, own: Any, onto: Callable[[Any], Any]
) -> None:
    q, k, v, o = (params[f"blocks/attn/{name}/kernel"][layer] for name in "qkvo")
    n, m = own.w_qk.matrix.shape[1], own.w_ov.matrix.shape[1]
    q[:, head, :n] = onto(own.w_qk.left_space) @ own.w_qk.matrix
    k[:, head, :n] = onto(own.w_qk.right_space)
    v[:, head, :m] = onto(own.w_ov.input_space) @ own.w_ov.matrix
    o[head, :m] = onto(own.w_ov.output_space).T


def _mlp(params: dict[str, np.ndarray], layer: int, mlp: Any, onto: Callable[[Any], Any]) -> None:
    size = mlp.fst.output_space.num_dims
    params["blocks/mlp/in/kernel"][layer, :, :size] = onto(mlp.fst.input_space) @ mlp.fst.matrix
    params["blocks/mlp/out/kernel"][layer, :size] = mlp.snd.matrix @ onto(mlp.snd.output_space).T


class Run(NamedTuple):
    """A run holds what a model computes, in float32.

    Attributes:
        logits: (N, T, V).
        heads: (L, N, T, H, d_head) what heads write with their output matrix.
        neurons: (L, N, T, F) activations.
    """

    logits: np.ndarray
    heads: np.ndarray
    neurons: np.ndarray

    __repr__ = one_line


def run(config: DecoderConfig, params: Mapping[str, Any], tokens: np.ndarray) -> Run:
    """Run a crafted model in NumPy, as a check that is independent of our decoder.

    Args:
        config: Of a model that was crafted here, so without norms, gates and biases of attention.
        params: Path → weights.
        tokens: (N, T) token ids.

    Returns:
        Logits, and what heads and neurons do.
    """
    p = {path: np.asarray(value, np.float32) for path, value in params.items()}
    length = tokens.shape[1]
    x = p["embed/embedding"][tokens] + p["positions/embedding"][:length]
    hidden = np.triu(np.ones((length, length), bool), 1) & config.causal
    heads, neurons = [], []
    for layer in range(config.n_layers):
        q, k, v = (
            np.einsum("ntd,dhk->nhtk", x, p[f"blocks/attn/{name}/kernel"][layer]) for name in "qkv"
        )
        scores = np.where(hidden, -np.inf, q @ k.swapaxes(-1, -2))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads.append((weights @ v).swapaxes(1, 2))
        x = x + np.einsum("nthk,hkd->ntd", heads[-1], p["blocks/attn/o/kernel"][layer])
        neurons.append(np.maximum(x @ p["blocks/mlp/in/kernel"][layer], 0))
        x = x + neurons[-1] @ p["blocks/mlp/out/kernel"][layer]
    return Run(x @ p["unembed/kernel"] + p["unembed/bias"], np.stack(heads), np.stack(neurons))
