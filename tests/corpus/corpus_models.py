"""Tiny models with tokenizers, for the tests of corpora."""

import jax

from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, init

WORDS = [str(i) for i in range(40)]
BOS, EOS = 40, 41


def word_tokenizer(*, special=True):
    """Numbers as words, each its own id; 40 and 41 begin and end a text."""
    plain = Tokenizer.words([*WORDS, "<s>", "</s>"])
    return Tokenizer(plain.json, BOS, EOS) if special else plain


def tiny_model(tokenizer=None, **changes):
    """A model without weights: opening a corpus does not need them, but for `self`."""
    options = {"vocab_size": 42, "n_layers": 1, "d_model": 8, "n_heads": 2, "d_mlp": 8}
    config = DecoderConfig(**(options | {"max_positions": 128} | changes))
    return LanguageModel({}, config, tokenizer, None, "tiny")


def with_weights(model):
    return init(model.config, jax.random.key(0), tokenizer=model.tokenizer, name=model.name)


def plain_rows(documents, length, *, bos=BOS, separator=EOS, pad=EOS):
    """Packing, spelt out with lists: rows of tokens and rows of weights."""
    stream = []
    for i, document in enumerate(documents):
        stream += ([separator] if i and separator is not None else []) + list(document)
    front = [] if bos is None else [bos]
    body = length - len(front)
    rows, weights = [], []
    for start in range(0, len(stream), body):
        part = stream[start : start + body]
        fill = [pad] * (body - len(part))
        rows.append(front + part + fill)
        weights.append(
            [0.0] * len(front) + [float(t not in (BOS, EOS)) for t in part] + [0.0] * len(fill)
        )
    return rows, weights


def counted(batch):
    """The tokens that weigh something, row by row."""
    return [row[w > 0].tolist() for row, w in zip(batch.tokens, batch.weight, strict=True)]
