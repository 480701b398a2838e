"""Text that a model writes itself, for models that have no corpus."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.corpus import Corpus, corpus_of_tokens
from hagd_jax.corpus.layout import Layout, require_length
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import batch_parts, constrain, replicate

Progress = Callable[[str, int, int], None]
# Logits of one call: 256 MiB of float32.
_LOGITS = 2**26


def self_corpus(
    model: LanguageModel, config: CorpusConfig, progress: Progress | None = None
) -> Corpus:
    """Make a corpus sampled from the model, starting from its beginning token.

    Nothing is cached between positions: it takes up to T forward passes over all sequences, which
    is quick for small models or on an accelerator, and slow for large ones on a CPU.

    Args:
        model: The model. Without a beginning or ending token to start from, the first token of
            each sequence is drawn from all tokens alike.
        config: How many sequences, of which length.
        progress: Called with ("sample", sequences done, sequences in all).

    Returns:
        The corpus; the same for the same model, configuration and machine.

    Raises:
        ConfigError: If sequences are longer than the model's positions.
        InputError: If the model is not causal, so that it has no next token.
    """
    require_length(config.length, model.config)
    if not model.config.causal:
        raise InputError(
            f"model {model.name}",
            got="one that reads both ways",
            expected="a causal model to sample from",
        )
    layout = Layout.of(model.tokenizer, config)
    special = () if layout.separator is None else (layout.separator,)
    begin = layout.begin or special
    tokens = sample(model, config.samples, config.length, config.seed, begin, progress)
    return corpus_of_tokens(f"self:{model.name}", tokens, model, config)


def sample(
    model: LanguageModel,
    count: int,
    length: int,
    seed: int,
    begin: Sequence[int] = (),
    progress: Progress | None = None,
) -> np.ndarray:
    """Sample sequences from the model's own distribution, at temperature 1.

    Args:
        model: A causal model.
        count: Sequences, N.
        length: Tokens of each, T.
        seed: Of the draw.
        begin: Tokens that each begins with; without any, the first is drawn from all alike.
        progress: Called with ("sample", sequences done, N).

    Returns:
        (N, T) int32.
    """
    parts = batch_parts(model.mesh)
    most = max(1, _LOGITS // (length * model.config.vocab_size))
    size = -(-min(count, most) // parts) * parts
    first, found = np.asarray(begin, np.int32), []
    for start in range(0, count, size):
        rows = np.arange(start, start + size, dtype=np.uint32)
        found.append(np.asarray(_sample(model.bare(), rows, np.uint32(seed), first, length)))
        if progress is not None:
            progress("sample", min(start + size, count), count)
    return np.concatenate(found)[:count]


@functools.partial(jax.jit, static_argnames="length")
def _sample(
    model: LanguageModel, rows: jax.Array, seed: jax.Array, begin: jax.Array, length: int
) -> jax.Array:
    """Sequences as the fixed point of x_t = argmax(logits(x_<t) + Gumbel noise of t).

    Position t is right once those before it are, so `length` rounds settle all of them; they stop
    sooner where a token hangs on few of those before it. Without `begin` the first is drawn.
    """
    noise, start = jax.vmap(lambda row: _noise(model, seed, row, length))(rows)
    fixed = jnp.tile(begin, (len(rows), 1)) if len(begin) else start[:, None]

    def settle(state: tuple) -> tuple:
        tokens, _, step = state
        logits = forward(model, tokens).logits[:, :-1]
        chosen = jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)
        settled = jnp.concatenate([fixed, chosen[:, fixed.shape[1] - 1 :]], axis=1)
        settled = constrain(settled, ("batch", None), model.mesh)
        return settled, jnp.any(settled != tokens), step + 1

    tokens = jnp.zeros((len(rows), length), jnp.int32).at[:, : fixed.shape[1]].set(fixed)
    state = (constrain(tokens, ("batch", None), model.mesh), True, 0)
    tokens, _, _ = jax.lax.while_loop(lambda s: s[1] & (s[2] < length), settle, state)
    return replicate(tokens, model.mesh)


def _noise(
    model: LanguageModel, seed: jax.Array, row: jax.Array, length: int
) -> tuple[jax.Array, jax.Array]:
    """What decides one sequence: (T − 1, V) noise, and a first token."""
    noise, start = jax.random.split(jax.random.fold_in(jax.random.key(seed), row))
    size = model.config.vocab_size
    gumbel = jax.random.gumbel(noise, (length - 1, size))
    return gumbel, jax.random.randint(start, (), 0, size, jnp.int32)
