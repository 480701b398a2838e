"""Text to token ids and back: a frozen, hashable wrapper of the `tokenizers` library."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models.tokenizer_files import parse, read_settings, special_token, template_bos


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as a value: equal and hashable by content, so it may be static under `jit`.

    Attributes:
        json: The tokenizer in the format of the `tokenizers` library (a `tokenizer.json`).
        bos_id: Id of the token that begins a text, if there is one.
        eos_id: Id of the token that ends a text, if there is one.
        add_bos: Whether `encode` puts `bos_id` in front. End tokens are never added: prompts go on.

    Raises:
        CheckpointError: If the JSON is broken, or an id above is not in the vocabulary.

    Example:
        >>> tokenizer = Tokenizer.words(["0", "1", "+", "="])
        >>> tokenizer.encode("1 + 0 =")
        [1, 2, 0, 3]
        >>> tokenizer.decode([1, 2, 0, 3])
        '1 + 0 ='
    """

    json: str = dataclasses.field(repr=False)
    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = False
    # Parsed already, then `json` is taken from it: large vocabularies take seconds to parse.
    native: dataclasses.InitVar[tokenizers.Tokenizer | None] = None

    def __post_init__(self, native: tokenizers.Tokenizer | None):
        backend = parse(self.json) if native is None else native
        # A file may ask for training-time truncation or padding; prompts are taken whole.
        backend.no_truncation()
        backend.no_padding()
        object.__setattr__(self, "json", backend.to_str())
        object.__setattr__(self, "_backend", backend)
        for field in ("bos_id", "eos_id"):
            value = getattr(self, field)
            if value is not None and backend.id_to_token(value) is None:
                raise CheckpointError(f"tokenizer {field}", got=value, expected="a token's id")
        if self.add_bos and self.bos_id is None:
            raise CheckpointError("tokenizer add_bos", got=True, expected="a bos_id to add")

    @classmethod
    def from_native(
        cls,
        native: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        add_bos: bool | None = None,
    ) -> Tokenizer:
        """A tokenizer from an object of the `tokenizers` library.

        Args:
            native: The object; do not change it afterwards.
            bos_id: Beginning token; if None, the one that its template puts in front.
            eos_id: Ending token, if any.
            add_bos: Whether to begin with it; if None, as the template does.

        Returns:
            The tokenizer.

        Raises:
            CheckpointError: If an id is not in the vocabulary.
        """
        template = template_bos(native)
        if add_bos is None:
            add_bos = template is not None
        return cls("", template if bos_id is None else bos_id, eos_id, add_bos, native)

    @classmethod
    def from_json(cls, text: str, **ids: Any) -> Tokenizer:
        """A tokenizer from the text of a `tokenizer.json`; `ids` as for `from_native`.

        Raises:
            CheckpointError: If the JSON is broken, or an id is not in the vocabulary.
        """
        return cls.from_native(parse(text), **ids)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """A tokenizer from a `tokenizer.json`, or from the folder of a Hugging Face model.

        `tokenizer_config.json` beside it, if there is one, names the beginning and ending tokens
        and may say `add_bos_token`.

        Args:
            path: File or folder.

        Returns:
            The tokenizer.

        Raises:
            CheckpointError: If a file is missing or broken, or names a token that there is not.
        """
        file = Path(path, "tokenizer.json") if Path(path).is_dir() else Path(path)
        settings = read_settings(file.parent / "tokenizer_config.json")
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                str(file),
                got=error,
                expected="a tokenizer.json",
                mend="Older formats: load with transformers' AutoTokenizer and save_pretrained.",
            ) from error
        try:
            native = parse(text)
            bos, eos = (
                special_token(native, settings, field) for field in ("bos_token", "eos_token")
            )
            return cls.from_native(
                native, bos_id=bos, eos_id=eos, add_bos=settings.get("add_bos_token")
            )
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error

    @classmethod
    def words(cls, vocabulary: Sequence[str]) -> Tokenizer:
        """A tokenizer for algorithmic tasks: words apart by whitespace, each of them one token.

        Args:
            vocabulary: The words; a word's place is its id.

        Returns:
            The tokenizer, without special tokens.

        Raises:
            InputError: If a word is empty, has whitespace in it, or comes twice.

        Example:
            >>> Tokenizer.words(["0", "1", "odd", "even"]).encode("1 0 odd")
            [1, 0, 2]
        """
        for word in vocabulary:
            if not isinstance(word, str) or word.split() != [word]:
                raise InputError("vocabulary", got=repr(word), expected="words without whitespace")
        ids = {word: i for i, word in enumerate(vocabulary)}
        if len(ids) < len(vocabulary) or not ids:
            raise InputError(
                "vocabulary", got=f"{list(vocabulary)}", expected="some words, once each"
            )
        native = tokenizers.Tokenizer(models.WordLevel(ids))
        native.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls.from_native(native)

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's own vocabulary may be padded further."""
        return max(self._native.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Token ids of a text; special tokens written out in it are recognised.

        Args:
            text: Any text; an empty one has no tokens.
            bos: Whether to begin with `bos_id`; as the file says (`add_bos`) if None.

        Returns:
            The ids.

        Raises:
            InputError: If the text is not one, holds lone surrogates, or has a word the
                vocabulary cannot express; or if `bos` asks for a token that there is not.
        """
        if not isinstance(text, str):
            raise InputError("text", got=type(text).__name__, expected="a str")
        start = self.add_bos if bos is None else bos
        if start and self.bos_id is None:
            raise InputError("bos", got=True, expected="a tokenizer that has a bos_id")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError("text", got=repr(text[:80]), expected="valid Unicode") from error
        try:
            ids = self._native.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            unknown = [word for word in text.split() if self._native.token_to_id(word) is None]
            raise InputError(
                "text", got=repr((*unknown, text)[0][:80]), expected="words of the vocabulary"
            ) from error
        return [self.bos_id, *ids] if start and self.bos_id is not None else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, found in parallel; no token is put in front of them.

        Args:
            texts: The texts.

        Returns:
            The ids of each.

        Raises:
            InputError: As `encode` says.

        Example:
            >>> Tokenizer.words(["0", "1"]).encode_batch(["1 0", "1"])
            [[1, 0], [1]]
        """
        try:
            found = self._native.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception:  # the library raises nothing narrower, and does not say which text
            return [self.encode(text, bos=False) for text in texts]
        return [encoding.ids for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens, special ones included.

        Args:
            ids: Integers, of Python, NumPy or JAX.

        Returns:
            The text; bytes that are no valid UTF-8 together become U+FFFD.

        Raises:
            InputError: If an id is not in the vocabulary.
        """
        return self._native.decode([self._check(i) for i in ids], skip_special_tokens=False)

    def token(self, id: int) -> str:
        """How one token reads inside a text, e.g. `" Paris"`.

        Args:
            id: Its id.

        Returns:
            Its text, or its entry in the vocabulary if it is only a part of a character.

        Raises:
            InputError: If the id is not in the vocabulary.
        """
        id = self._check(id)
        piece = self._native.id_to_token(id) or ""
        if self._native.decoder is None:
            return piece
        # Decoded after itself, since decoders may strip the space in front of a text.
        once, twice = self.decode([id]), self.decode([id, id])
        text = twice[len(once) :]
        return piece if "\ufffd" in text and "\ufffd" not in piece else text

    def to_json(self) -> str:
        """The tokenizer in the format of the `tokenizers` library."""
        return self.json

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `transformers` reads them.

        Args:
            folder: An existing folder.
        """
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for field, id in (("bos_token", self.bos_id), ("eos_token", self.eos_id)):
            if id is not None:
                config[field] = self._native.id_to_token(id)
        config |= {"add_bos_token": self.add_bos, "clean_up_tokenization_spaces": False}
        Path(folder, "tokenizer.json").write_text(self.json, "utf-8")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")

    @property
    def _native(self) -> tokenizers.Tokenizer:
        return self.__dict__["_backend"]

    def _check(self, id: int) -> int:
        try:
            number = id.__index__()
        except (AttributeError, TypeError) as error:
            raise InputError("token id", got=repr(id), expected="an integer") from error
        if 0 <= number < 2**32 and self._native.id_to_token(number) is not None:
            return number
        raise InputError("token id", got=number, expected=f"0 to {self.vocab_size - 1}")
