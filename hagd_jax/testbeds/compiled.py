"""RASP programs compiled to transformers: models whose computation is known, as it was written.

The compiler is Tracr (Lindner et al., 2023, arXiv:2301.05062; the package `tracr-pypi`). Its
models have no norms and read and write a labelled basis, one direction for every value of every
variable, so who reads what from whom stands in the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, param_specs
from hagd_jax.tasks.prompts import Prompts, make_prompts

BOS = "BOS"
_PAD = "compiler_pad"
_MOST_INPUTS = 20_000


class Program(NamedTuple):
    """A program, and what it runs on.

    Attributes:
        name: Of the program.
        make: Returns the RASP expression; called with the compiler's `rasp` and `lib` modules.
        vocabulary: The input tokens.
        length: Tokens of an input.
        causal: Whether attention sees earlier tokens alone.
    """

    name: str
    make: Callable[[Any, Any], Any]
    vocabulary: tuple[Any, ...]
    length: int
    causal: bool = False


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
        program: It.
        model: Tokens are the vocabulary and BOS, then output values that are no input tokens; the
            logits at a position say which value the program has there. Values of numerical
            programs compete by their distance: logit_c = 2 c y − c², the largest is the nearest.
        labels: (D,) what each direction of the stream stands for.
        values: All values that outputs can have, as tokens.
    """

    program: Program
    model: LanguageModel
    labels: tuple[str, ...]
    values: tuple[int, ...]


def compile_program(program: Program) -> Compiled:
    """Compile a program into our decoder.

    Args:
        program: The program.

    Returns:
        The model and what its directions mean.

    Raises:
        MissingDependencyError: If the compiler is not installed.
        InputError: If there are too many inputs to look at all.

    Example:
        >>> found = compile_program(PROGRAMS["reverse"])
        >>> found.model.config.n_layers
        4
    """
    rasp, lib, compiling = _compiler()
    count = len(program.vocabulary) ** program.length
    if count > _MOST_INPUTS:
        raise InputError(
            f"program {program.name}", got=f"{count} inputs", expected=f"at most {_MOST_INPUTS}"
        )
    expression = program.make(rasp, lib)
    made = compiling.compile_rasp_to_model(
        expression,
        vocab=set(program.vocabulary),
        max_seq_len=program.length,
        compiler_bos=BOS,
        compiler_pad=_PAD,
        causal=program.causal,
    )
    words = [*program.vocabulary, BOS]
    seen = _values(program, expression)
    numerical = not rasp.is_categorical(expression)
    extra = [value for value in seen if numerical or value not in words]
    vocabulary = [*words, *extra]
    config = _config(made, len(vocabulary), program.length + 1, numerical=numerical)
    params = _params(made, config, words)
    labels = np.array(made.residual_labels)
    if numerical:
        # An input token is never the answer.
        squares = [*[1e4] * len(words), *np.square(extra)]
        params["unembed/bias"][:] = -np.array(squares)
        scale = np.array([*[0.0] * len(words), *(2 * value for value in extra)])
        params["unembed/kernel"][:] = (labels == expression.label)[:, None] * scale
    else:
        columns = np.array([f"{expression.label}:{value}" for value in vocabulary])
        params["unembed/kernel"][:] = labels[:, None] == columns
    flat = {path: jnp.asarray(value, jnp.float32) for path, value in params.items()}
    tokenizer = Tokenizer.words([_word(value) for value in vocabulary])
    model = LanguageModel(
        flax.traverse_util.unflatten_dict(flat, sep="/"),
        config,
        tokenizer=tokenizer,
        name=f"tracr-{program.name}",
    )
    values = tuple(vocabulary.index(value) for value in seen)
    if numerical:
        values = tuple(range(len(words), len(vocabulary)))
    return Compiled(program, model, tuple(made.residual_labels), values)


def compiled_prompts(compiled: Compiled, length: int | None = None, *, seed: int = 0) -> Prompts:
    """Every input of one length, asked at every position at which the program has a value.

    Args:
        compiled: The program.
        length: Tokens of an input, BOS not counted; the longest by default. These models may read
            both ways, and would read padding.
        seed: Of the counterfactuals: other inputs, whose values there are the distractors where
            they differ.

    Returns:
        The prompts, input by input.
    """
    program, model = compiled.program, compiled.model
    length = program.length if length is None else length
    rasp, lib, _ = _compiler()
    expression = program.make(rasp, lib)
    inputs = list(itertools.product(program.vocabulary, repeat=length))
    number = _numbers(compiled, rasp, expression)
    bos = len(program.vocabulary)
    tokens = np.array([[bos, *map(program.vocabulary.index, row)] for row in inputs])
    found = np.array([[-1, *map(number, expression(list(row)))] for row in inputs])
    rng = np.random.default_rng(seed)
    rows, positions = np.nonzero(found >= 0)
    others = (rows + rng.integers(1, max(len(inputs), 2), len(rows))) % len(inputs)
    right, wrong = found[rows, positions], found[others, positions]
    values = np.array(compiled.values)
    spare = values[(values != right[:, None]).argmax(1)]
    wrong = np.where((wrong < 0) | (wrong == right), spare, wrong)
    return make_prompts(
        tokens[rows].tolist(),
        tokens[others].tolist(),
        right,
        wrong,
        vocab_size=model.config.vocab_size,
        position=positions.tolist(),
    )


def _numbers(compiled: Compiled, rasp: Any, expression: Any) -> Callable[[Any], int]:
    """Values of a program → tokens; −1 for none."""
    words = [*compiled.program.vocabulary, BOS]
    seen = _values(compiled.program, expression)
    if not rasp.is_categorical(expression):
        place = {value: len(words) + i for i, value in enumerate(seen)}
        return lambda value: -1 if value is None else place[float(value)]
    vocabulary = [*words, *(value for value in seen if value not in words)]
    return lambda value: -1 if value is None else vocabulary.index(value)


def _values(program: Program, expression: Any) -> list[Any]:
    """What a program can say, over all inputs of all lengths."""
    seen: dict[Any, None] = {}
    for length in range(1, program.length + 1):
        for row in itertools.product(program.vocabulary, repeat=length):
            seen |= dict.fromkeys(value for value in expression(list(row)) if value is not None)
    numbers = all(isinstance(value, int | float) for value in seen)
    return sorted(seen) if numbers else sorted(seen, key=str)


def _compiler() -> tuple[Any, Any, Any]:
    try:
        from tracr.compiler import compiling, lib
        from tracr.rasp import rasp
    except ImportError as error:
        raise MissingDependencyError(
            "tracr", got="not installed", mend="pip install 'hagd-jax[tracr]'"
        ) from error
    return rasp, lib, compiling


def _config(made: Any, vocabulary: int, positions: int, *, numerical: bool) -> DecoderConfig:
    c = made.model_config
    return DecoderConfig(
        vocab_size=vocabulary,
        n_layers=c.num_layers,
        d_model=len(made.residual_labels),
        n_heads=c.num_heads,
        d_head=c.key_size,
        d_mlp=c.mlp_hidden_size,
        max_positions=positions,
        norm="none",
        positions="learned",
        activation="relu",
        causal=c.causal,
        unembed_bias=numerical,
    )


def _params(made: Any, config: DecoderConfig, words: Sequence[Any]) -> dict[str, np.ndarray]:
    """Path → the compiler's weights in our shapes; the unembedding is zero."""
    params = {path: np.zeros(spec.shape) for path, spec in param_specs(config).items()}
    theirs = {name: {k: np.asarray(v) for k, v in own.items()} for name, own in made.params.items()}
    place = made.input_encoder.encoding_map
    table = theirs["token_embed"]["embeddings"]
    params["embed/embedding"][: len(words)] = table[[place[word] for word in words]]
    params["positions/embedding"][:] = theirs["pos_embed"]["embeddings"]
    heads, width = config.n_heads, config.d_head
    for layer in range(config.n_layers):
        own = f"transformer/layer_{layer}"
        for ours, name in (("q", "query"), ("k", "key"), ("v", "value")):
            part = theirs[f"{own}/attn/{name}"]
            params[f"blocks/attn/{ours}/kernel"][layer] = part["w"].reshape(-1, heads, width)
            params[f"blocks/attn/{ours}/bias"][layer] = part["b"].reshape(heads, width)
        out = theirs[f"{own}/attn/linear"]
        params["blocks/attn/o/kernel"][layer] = out["w"].reshape(heads, width, -1)
        params["blocks/attn/o/bias"][layer] = out["b"]
        for ours, name in (("in", "linear_1"), ("out", "linear_2")):
            part = theirs[f"{own}/mlp/{name}"]
            params[f"blocks/mlp/{ours}/kernel"][layer] = part["w"]
            params[f"blocks/mlp/{ours}/bias"][layer] = part["b"]
    return params


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
