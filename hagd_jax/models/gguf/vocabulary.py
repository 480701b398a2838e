"""The vocabulary in the metadata of a GGUF file, with its types, sizes and ids checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from gguf.constants import TokenType

from hagd_jax.errors import CheckpointError
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.models.tokenizer_files import set_template


class Vocabulary:
    """A vocabulary is the `tokenizer.ggml.*` part of the metadata, checked.

    Attributes:
        tokens: Text of each token.
        ids: Token → id.
        kinds: (V,) `TokenType` of each.
        bos: Id of the token that begins a text, if there is one.
        eos: Of the one that ends it.
    """

    def __init__(
        self, metadata: Mapping[str, Any], where: str, *, bos: int | None, eos: int | None
    ):
        self.metadata, self.where = metadata, where
        self.tokens = [t or f"[EMPTY_{i}]" for i, t in enumerate(self.strings("tokens"))]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise self.error("tokens", f"{twice!r} twice", "each token once")
        self.kinds = np.full(len(self.tokens), TokenType.NORMAL, np.int64)
        if "tokenizer.ggml.token_type" in metadata:
            self.kinds = self.numbers("token_type")
        self.bos, self.eos = self.id("bos_token_id", bos), self.id("eos_token_id", eos)

    def error(self, key: str, got: object, expected: str) -> CheckpointError:
        """Make a typed error that names the file and the key."""
        return CheckpointError(f"{self.where}: tokenizer.ggml.{key}", got=got, expected=expected)

    def strings(self, key: str) -> list[str]:
        """Read an array of strings that must be there."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.error(key, type(value).__name__, "an array of strings")

    def numbers(self, key: str) -> np.ndarray:
        """Read an array with one number a token."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(value, np.ndarray) and len(value) == len(self.tokens):
            return value
        got = f"{len(value)} numbers" if isinstance(value, np.ndarray) else type(value).__name__
        raise self.error(key, got, f"{len(self.tokens)} numbers, one a token")

    def scores(self) -> np.ndarray:
        """Read the (V,) float64 score of each token."""
        found = self.numbers("scores")
        if found.dtype.kind != "f" or not np.isfinite(found).all():
            wrong = found.dtype if found.dtype.kind != "f" else found[~np.isfinite(found)][0]
            raise self.error("scores", wrong, "finite numbers of floating point")
        return found.astype(np.float64)

    def flag(self, key: str, default: bool) -> bool:
        """Read a setting that is on or off."""
        value = self.metadata.get(f"tokenizer.ggml.{key}", default)
        if isinstance(value, bool):
            return value
        raise self.error(key, repr(value)[:80], "true or false")

    def id(self, key: str, default: int | None) -> int | None:
        """Read the id of a special token, if there is one."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return default if default is not None and default < len(self.tokens) else None
        if isinstance(value, int) and 0 <= value < len(self.tokens):
            return value
        raise self.error(key, repr(value)[:80], f"an id from 0 to {len(self.tokens) - 1}")

    def native(
        self, model: Any, scored: list[tuple[str, float]] | None = None, **settings: Any
    ) -> tokenizers.Tokenizer:
        """Make a tokenizer with this vocabulary, or scored tokens, and its special tokens."""
        try:
            native = tokenizers.Tokenizer(model(vocab=scored or self.ids, **settings))
        except Exception as error:  # the library raises nothing narrower
            raise self.error("tokens", error, "a vocabulary that fits its merges") from error
        for kind, special in (
            (TokenType.CONTROL, True),
            (TokenType.UNKNOWN, True),
            (TokenType.USER_DEFINED, False),
        ):
            chosen = [self.tokens[i] for i in np.flatnonzero(self.kinds == kind)]
            native.add_tokens(
                [tokenizers.AddedToken(t, special=special, normalized=False) for t in chosen]
            )
        return native

    def finish(
        self, native: tokenizers.Tokenizer, *, add_bos: bool, add_eos: bool = False
    ) -> Tokenizer:
        """Make the tokenizer a value; `add_bos` and `add_eos` hold if the file does not say."""
        ends = [
            (id,) if self.flag(f"add_{end}_token", default) and id is not None else ()
            for end, id, default in (("bos", self.bos, add_bos), ("eos", self.eos, add_eos))
        ]
        if any(ends):
            set_template(native, *ends)
        return Tokenizer.from_native(native, bos_id=self.bos, eos_id=self.eos)
