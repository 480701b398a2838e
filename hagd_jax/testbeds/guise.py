"""The same computation in another guise: wider, among units that do nothing, and turned around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.traverse_util
import jax
import numpy as np

from hagd_jax.causal.node import Node
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, require_supported
from hagd_jax.testbeds.blank import written, zeros
from hagd_jax.testbeds.case import Case

# The logit of a word that a model does not have.
_NEVER = -1e4
# Directions of the stream that units without a purpose need at least.
_SPARE = 4


def scrambled(case: Case, seed: int) -> Case:
    """Permute heads and neurons and rotate the stream, without changing the computation.

    Args:
        case: Without norms, as all are here.
        seed: Of the permutations and the rotation.

    Returns:
        The case, with its truth in the new places.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> len(scrambled(case, 1).truth["mean"]) == len(case.truth["mean"])
        True
    """
    require_is("case", case, Case)
    rng = np.random.default_rng(require_index("seed", seed))
    c, p = case.model.config, jax.tree.map(np.array, case.model.params)
    turn, _ = np.linalg.qr(rng.normal(size=(c.d_model, c.d_model)))
    moved: dict[tuple[str, int], np.ndarray] = {}
    attn, mlp = p["blocks"]["attn"], p["blocks"]["mlp"]
    for layer in range(c.n_layers):
        heads, neurons = rng.permutation(c.n_heads), rng.permutation(c.d_mlp)
        # New place i holds what was at place order[i].
        moved["head", layer], moved["neuron", layer] = np.argsort(heads), np.argsort(neurons)
        for name in "qkv":
            kernel = np.einsum("ed,dhk->ehk", turn.T, attn[name]["kernel"][layer])
            attn[name]["kernel"][layer] = kernel[:, heads]
            attn[name]["bias"][layer] = attn[name]["bias"][layer][heads]
        attn["o"]["kernel"][layer] = attn["o"]["kernel"][layer][heads] @ turn
        for name in mlp.keys() - {"out"}:
            mlp[name]["kernel"][layer] = (turn.T @ mlp[name]["kernel"][layer])[:, neurons]
            mlp[name]["bias"][layer] = mlp[name]["bias"][layer][neurons]
        mlp["out"]["kernel"][layer] = mlp["out"]["kernel"][layer][neurons] @ turn
    attn["o"]["bias"], mlp["out"]["bias"] = attn["o"]["bias"] @ turn, mlp["out"]["bias"] @ turn
    for table in ("embed", "positions"):
        if table in p:
            p[table]["embedding"] = p[table]["embedding"] @ turn
    p["unembed"]["kernel"] = turn.T @ p["unembed"]["kernel"]
    place = lambda n: Node(n.kind, n.layer, int(moved[n.kind, n.layer][n.index]))  # noqa: E731
    truth = {name: frozenset(map(place, nodes)) for name, nodes in case.truth.items()}
    params = jax.device_put(jax.tree.map(np.float32, p))
    return case._replace(model=case.model.replace(params=params), truth=truth)


def hidden_in(
    case: Case, config: DecoderConfig, seed: int, layers: Sequence[int] | None = None
) -> Case:
    """Embed a case in a larger model whose other heads and neurons are never read.

    Cases have none of the options that a forward pass knows beyond GPT-2's, such as windows, soft
    caps and norms of heads, and the larger model would compute something else with them.

    All models that are hidden in one configuration share their compiled programs. What was added
    writes to directions that neither the case nor the logits read, so every logit stays.

    Args:
        case: Without norms.
        config: Of the larger model: without norms, with learned positions and a bias on the logits.
        seed: Of the weights that are added.
        layers: Those of the larger model that the case's layers become, ascending; its first ones
            if None.

    Returns:
        The case; its units keep their places in their layers. `scrambled` moves them.

    Raises:
        InputError: If the case does not fit, or there are no such layers.
        ConfigError: If the larger model has such an option.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> wide = case.model.config.replace(d_model=32, unembed_bias=True, positions="learned")
        >>> hidden_in(case, wide, seed=0).model.config.d_model
        32
    """
    small = case.model.config
    require_supported(config, "hidden_in", ())
    _require_room(case.name, small, config)
    flat = flax.traverse_util.flatten_dict(case.model.params, sep="/")
    own = {path: np.asarray(value) for path, value in flat.items()}
    rows = _require_layers(case.name, small, config, layers)
    params = zeros(config)
    for path, value in own.items():
        inside = tuple(map(slice, value.shape))
        params[path][(rows, *inside[1:]) if path.startswith("blocks/") else inside] = value
    params["unembed/bias"][small.vocab_size :] = _NEVER
    if small.scale_attn and not config.scale_attn:
        for path in ("blocks/attn/q/kernel", "blocks/attn/q/bias"):
            params[path] /= np.sqrt(small.d_head)
    _decoys(params, small.d_model, np.random.default_rng(seed))
    tokenizer = case.model.tokenizer
    assert tokenizer is not None
    words = [tokenizer.token(i).strip() for i in range(small.vocab_size)]
    words += [f"unused{i}" for i in range(small.vocab_size, config.vocab_size)]
    model = LanguageModel(written(params), config, tokenizer=Tokenizer.words(words), name=case.name)
    truth = {name: frozenset(Node(node.kind, rows[node.layer], node.index) for node in nodes)
             for name, nodes in case.truth.items()}  # fmt: skip
    return case._replace(model=model, truth=truth)


def _require_layers(
    name: str, small: DecoderConfig, wide: DecoderConfig, layers: Sequence[int] | None
) -> list[int]:
    """The layers that a case's become."""
    if layers is None:
        return list(range(small.n_layers))
    rows = [require_index("layers", layer, wide.n_layers) for layer in layers]
    if len(rows) != small.n_layers or sorted(set(rows)) != rows:
        raise InputError(f"layers of case {name}", got=str(rows)[:80],
                         expected=f"{small.n_layers} layers, ascending")  # fmt: skip
    return rows


def _require_room(name: str, small: DecoderConfig, wide: DecoderConfig) -> None:
    for field in ("vocab_size", "n_layers", "n_heads", "d_head", "d_mlp", "max_positions"):
        if getattr(small, field) > getattr(wide, field):
            raise InputError(
                f"{field} of case {name}",
                got=getattr(small, field),
                expected=f"at most {getattr(wide, field)}",
            )
    if small.d_model + _SPARE > wide.d_model:
        raise InputError(
            f"d_model of case {name}",
            got=small.d_model,
            expected=f"at most {wide.d_model - _SPARE}",
        )
    same = ("norm", "activation", "gated_mlp", "causal")
    for field in same:
        if getattr(small, field) != getattr(wide, field):
            raise InputError(
                f"{field} of case {name}",
                got=getattr(small, field),
                expected=f"{getattr(wide, field)}, as the larger model has",
            )


def _decoys(params: dict[str, np.ndarray], used: int, rng: np.random.Generator) -> None:
    """Random weights for heads and neurons that write nothing, into directions beyond `used`."""
    out, wide = params["blocks/attn/o/kernel"], params["blocks/mlp/out/kernel"]
    width = out.shape[-1]
    spare = np.arange(width) >= used
    for layer, head in np.argwhere(~out.any((2, 3))):
        for name in "qkv":
            kernel = params[f"blocks/attn/{name}/kernel"]
            kernel[layer, :, head] = rng.normal(size=kernel.shape[1::2]) / np.sqrt(width)
        out[layer, head] = rng.normal(size=out.shape[2:]) * spare / np.sqrt(out.shape[2])
    for layer, neuron in np.argwhere(~wide.any(2)):
        for name in ("in", "gate"):
            if f"blocks/mlp/{name}/kernel" in params:
                kernel = params[f"blocks/mlp/{name}/kernel"]
                kernel[layer, :, neuron] = rng.normal(size=width) / np.sqrt(width)
        wide[layer, neuron] = rng.normal(size=width) * spare / np.sqrt(wide.shape[1])


def sharpened(case: Case, scale: float) -> Case:
    """Scale the logits of a case, so that its answers are more certain.

    Args:
        case: Any.
        scale: What its logits are multiplied by.

    Returns:
        The case.
    """
    params: Mapping = case.model.params
    unembed = {name: np.asarray(x) * np.float32(scale) for name, x in params["unembed"].items()}
    return case._replace(
        model=case.model.replace(params={**params, "unembed": jax.device_put(unembed)})
    )
