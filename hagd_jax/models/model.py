"""A language model as a value, and the forward pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import flax.core.meta
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.core import Tracer

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.models.arrays import read_array, read_indices, require_key
from hagd_jax.models.config import DecoderConfig, float_dtype
from hagd_jax.models.decoder import Decoder, Options, param_specs
from hagd_jax.models.experts import without_unused
from hagd_jax.models.intervention import Identity, Intervention, check
from hagd_jax.models.sites import require_sites
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.models.trace import Trace
from hagd_jax.parallel import sharding
from hagd_jax.parallel.rules import require_mesh


class LanguageModel(struct.PyTreeNode):
    """A language model is a decoder with its weights, a pytree of parameters.

    Attributes:
        config: The decoder's configuration.
        params: Nested dict of arrays; `param_specs(config)` lists them.
        tokenizer: Text ↔ ids, if the model came with one.
        mesh: The devices the parameters lie on, or None for one device.
        name: Where it came from, for records.
    """

    params: dict[str, Any]
    config: DecoderConfig = struct.field(pytree_node=False)
    tokenizer: Tokenizer | None = struct.field(pytree_node=False, default=None)
    mesh: jax.sharding.Mesh | None = struct.field(pytree_node=False, default=None)
    name: str = struct.field(pytree_node=False, default="unnamed")

    def __repr__(self) -> str:
        c, leaves = self.config, jax.tree.leaves(self.params)
        if not isinstance(c, DecoderConfig):  # inside a transformation
            return one_line(self)
        count = sum(math.prod(getattr(leaf, "shape", ())) for leaf in leaves)
        words = "" if self.tokenizer is None else f", tokenizer of {self.tokenizer.vocab_size:,}"
        return (
            f"LanguageModel({self.name!r}: {c.family}, {c.n_layers} layers, d_model {c.d_model}, "
            f"{count:,} parameters, {c.dtype}, vocabulary of {c.vocab_size:,}{words})"
        )

    def bare(self) -> LanguageModel:
        """Drop tokenizer and name, which would only enlarge the compilation key."""
        return self.replace(tokenizer=None, name="")


class Output(struct.PyTreeNode):
    """An output holds what a forward pass returns.

    Attributes:
        logits: (B, T, V) float32; (B, S, V) where positions to read were given.
        trace: Site → array; block sites have a leading L. A site that was not captured is an
            `InputError`.
    """

    logits: jax.Array
    trace: Trace

    __repr__ = one_line


def init(
    config: DecoderConfig,
    key: jax.Array,
    *,
    mesh: jax.sharding.Mesh | None = None,
    tokenizer: Tokenizer | None = None,
    name: str = "random",
) -> LanguageModel:
    """Initialise a model with random float32 weights, in place on the mesh.

    Args:
        config: The decoder.
        key: PRNG key.
        mesh: Devices to spread the weights over, or None.
        tokenizer: Kept with the model.
        name: Kept with the model.

    Returns:
        The model.

    Raises:
        InputError: If `key` is no PRNG key.
        MeshError: If the mesh does not divide the model.

    Example:
        >>> config = DecoderConfig(vocab_size=10, n_layers=1, d_model=8, n_heads=2, d_mlp=16)
        >>> init(config, jax.random.key(0)).params["embed"]["embedding"].shape
        (10, 8)
    """
    require_is("config", config, DecoderConfig)
    require_mesh(mesh)
    require_key(key)
    params = _creator(config, mesh)(key)
    return LanguageModel(params, config, tokenizer, mesh, name)


@functools.cache
def _creator(config: DecoderConfig, mesh: jax.sharding.Mesh | None) -> Callable[[jax.Array], Any]:
    """Creates parameters where they belong; compiled once for each configuration and mesh."""

    def create(key: jax.Array) -> Any:
        variables = Decoder(config).init(key, jnp.zeros((1, 1), jnp.int32), Identity())
        params = flax.core.meta.unbox(variables["params"])
        blocks = params["blocks"]
        mlp = without_unused(blocks["mlp"], config)
        return {**params, "blocks": {**blocks, "mlp": mlp}}

    return jax.jit(create, out_shardings=_shardings(config, mesh))


def abstract(
    config: DecoderConfig, *, mesh: jax.sharding.Mesh | None = None, dtype: Any = None
) -> LanguageModel:
    """Make a model of shapes only, for planning; nothing is allocated.

    Args:
        config: The decoder.
        mesh: Devices its weights would be spread over, or None.
        dtype: Of the parameters; the compute dtype if None.

    Returns:
        A `LanguageModel` whose arrays are `jax.ShapeDtypeStruct`s with shardings.

    Raises:
        ConfigError: If there is no such floating dtype.
        MeshError: If the mesh does not divide the model.
    """
    require_is("config", config, DecoderConfig)
    require_mesh(mesh)
    dtype = config.dtype if dtype is None else float_dtype(dtype)
    shapes = {
        path: jax.ShapeDtypeStruct(
            spec.shape,
            dtype,
            sharding=mesh and sharding(mesh, spec.axes, spec.shape, name=path),
        )
        for path, spec in param_specs(config).items()
    }
    params = flax.traverse_util.unflatten_dict(shapes, sep="/")
    return LanguageModel(params, config, None, mesh, "abstract")


def forward(
    model: LanguageModel,
    tokens: Any,
    intervention: Intervention | None = None,
    capture: Iterable[str] = (),
    *,
    read: Any = None,
    remat: bool = False,
) -> Output:
    """Run a model, rewriting and capturing values at named sites.

    Compiled once for each combination of configuration, intervention structure, captured sites
    and array shapes; new array values never recompile.

    Args:
        model: The model.
        tokens: (B, T) ids, or one text, which the tokenizer begins and ends as its template says.
            Right-pad shorter prompts: in a causal model no position sees the padding after it. In
            one that is not (`causal=False`) every position would, so there run prompts of one
            length together.
        intervention: What rewrites values on their way, or None.
        capture: Sites to return, see `models.SITES`.
        read: (B, S) positions whose logits are wanted; all of them if None. With a large
            vocabulary the others take time and memory for nothing. `logits` is then (B, S, V), as
            a site too.
        remat: Recompute the blocks in a backward pass rather than store them: slower, and the
            memory of a gradient no longer grows with everything inside a block.

    Returns:
        Logits and the trace.

    Raises:
        InputError: If tokens are empty, not integers, too long, or outside the vocabulary, or
            positions to read are not those of tokens; if there is a text and no tokenizer; or if
            the intervention does not fit the model.
        ConfigError: If a captured site does not exist.

    Example:
        >>> config = DecoderConfig(vocab_size=10, n_layers=3, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> forward(model, [[1, 2, 3]], capture=["neuron"]).trace["neuron"].shape
        (3, 1, 3, 16)
    """
    require_is("model", model, LanguageModel, mend="models.load or models.init make one.")
    require_is("remat", remat, bool)
    tokens = [encode(model, tokens)] if isinstance(tokens, str) else tokens
    tokens = check_tokens(model.config, tokens)
    intervention = Identity() if intervention is None else intervention
    check(intervention, model.config, (tokens.shape[0], tokens.shape[1]))
    sites = tuple(sorted(set(require_sites(capture, "capture"))))
    options = Options(sites, model.mesh, remat)
    if read is not None:
        read = jnp.asarray(read_indices("read", read, tokens.shape[1], (len(tokens), None)))
    logits, trace = _forward(model.params, tokens, intervention, read, model.config, options)
    return Output(logits, Trace(trace))


@functools.partial(jax.jit, static_argnames=("config", "options"))
def _forward(
    params: Any,
    tokens: jax.Array,
    intervention: Intervention,
    read: jax.Array | None,
    config: DecoderConfig,
    options: Options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    return Decoder(config, options).apply({"params": params}, tokens, intervention, read)  # type: ignore[return-value]


def encode(model: LanguageModel, text: str) -> list[int]:
    """Encode a text with the model's tokenizer.

    Args:
        model: The model.
        text: Any text.

    Returns:
        The ids, with all that the tokenizer's template adds.

    Raises:
        InputError: If the model has no tokenizer, or the tokenizer cannot express the text.
    """
    if model.tokenizer is None:
        raise InputError(
            "prompt",
            got="a text",
            expected="token ids: this model has no tokenizer",
            mend="Load the model with tokenizer=..., or pass ids.",
        )
    return model.tokenizer.encode(text)


def check_tokens(config: DecoderConfig, tokens: Any) -> jax.Array:
    """Check token ids before tracing.

    Args:
        config: The decoder that shall read them.
        tokens: (B, T) integers; values are only looked at when they are concrete.

    Returns:
        The ids as an int32 array.

    Raises:
        InputError: As `forward` says.
    """
    require_is("config", config, DecoderConfig)
    _refuse_texts(tokens)
    tokens = read_array("tokens", tokens, "a (B, T) array of ids, right-padded to one length")
    if tokens.ndim != 2 or 0 in tokens.shape:
        empty = "An empty prompt has nothing to predict from."
        mends = {1: "Wrap one prompt in a list: forward(model, [ids]).", 2: empty}
        raise InputError(
            "tokens",
            got=f"shape {tokens.shape}",
            expected="a (B, T) array of ids with at least one token each, or one text",
            mend=mends.get(tokens.ndim) if tokens.size or tokens.ndim == 2 else empty,
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError("tokens", got=f"dtype {tokens.dtype}", expected="integer ids")
    if config.positions == "learned" and tokens.shape[1] > config.max_positions:
        raise InputError(
            "tokens",
            got=f"{tokens.shape[1]} positions",
            expected=f"at most max_positions = {config.max_positions}",
        )
    if not isinstance(tokens, Tracer):
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= config.vocab_size:
            raise InputError(
                "tokens",
                got=f"ids from {low} to {high}",
                expected=f"0 to {config.vocab_size - 1}",
                mend="Was the text encoded with this model's tokenizer?",
            )
    return jnp.asarray(tokens, jnp.int32)


def _refuse_texts(tokens: Any) -> None:
    """Refuse several texts, which have no common length."""
    if isinstance(tokens, list | tuple) and any(isinstance(row, str) for row in tokens):
        raise InputError(
            "tokens", got=f"a list of {len(tokens)} with texts in it",
            expected="one text, or (B, T) ids",
            mend="Run each text alone, or encode each with `model.tokenizer.encode(text)` and "
            "right-pad the rows to one length.",
        )  # fmt: skip


def _shardings(config: DecoderConfig, mesh: jax.sharding.Mesh | None) -> Any:
    if mesh is None:
        return None
    flat = {
        path: sharding(mesh, spec.axes, spec.shape, name=path)
        for path, spec in param_specs(config).items()
    }
    return flax.traverse_util.unflatten_dict(flat, sep="/")
