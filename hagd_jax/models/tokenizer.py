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

from hagd_jax.brief import quoted
from hagd_jax.errors import (
    CheckpointError,
    InputError,
    require_index,
    require_is,
    require_list,
    shown,
)
from hagd_jax.files import as_path, read_text, write_atomic
from hagd_jax.files.tokenizer_json import TOKENIZER
from hagd_jax.models.tokenizer_files import (
    FLAGS,
    NativeError,
    attempt,
    parse,
    read_settings,
    special_token,
    template_ends,
    whole_texts,
    with_template,
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer is a value, equal and hashable by content, so it may be static under `jit`.

    Attributes:
        json: The tokenizer in the format of the `tokenizers` library (a `tokenizer.json`). Its
            post-processor is the template: it says which tokens begin and end a text.
        bos_id: Id of the token that begins a text, if there is one; if None, the first that the
            template puts in front.
        eos_id: Id of the token that ends a text, if there is one; if None, the first that the
            template puts behind.
        add_bos: Whether a text begins with tokens of the template. If None, as the JSON says; if
            True and the JSON adds none, `bos_id` becomes the template's.
        add_eos: The same of its end, and of `eos_id`.

    Raises:
        CheckpointError: If the JSON is broken, an id above is not in the vocabulary, or one that
            is to be added is not given.

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
    add_bos: bool | None = None
    add_eos: bool | None = None
    # Parsed already, then `json` is taken from it: large vocabularies take seconds to parse.
    native: dataclasses.InitVar[tokenizers.Tokenizer | None] = None

    def __post_init__(self, native: tokenizers.Tokenizer | None):
        backend = whole_texts(parse(self.json) if native is None else native)
        for field in ("bos_id", "eos_id"):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32
            if value is not None and not (whole and backend.id_to_token(value) is not None):
                raise CheckpointError(f"tokenizer {field}", got=value, expected="a token's id")
        for field in ("add_bos", "add_eos"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, bool):
                raise CheckpointError(
                    f"tokenizer {field}", got=shown(value), expected="True, False or None"
                )
        has = template_ends(backend)
        wanted = self._ends("bos", has[0]), self._ends("eos", has[1])
        if wanted != has:
            backend = with_template(backend, *wanted)
        values = {"json": backend.to_str(), "_backend": backend, "_ends_of_text": wanted}
        values |= {"add_bos": bool(wanted[0]), "add_eos": bool(wanted[1])}
        for field, tokens in (("bos_id", has[0]), ("eos_id", has[1])):
            if getattr(self, field) is None and tokens:
                values[field] = tokens[0]
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _ends(self, which: str, template: tuple[int, ...]) -> tuple[int, ...]:
        """What a text begins (`bos`) or ends (`eos`) with, given what the template adds there."""
        add, id = getattr(self, f"add_{which}"), getattr(self, f"{which}_id")
        if add is None or add == bool(template):
            return template
        if add and id is None:
            raise CheckpointError(
                f"tokenizer add_{which}", got=True, expected=f"a {which}_id to add"
            )
        return (id,) if add else ()

    @classmethod
    def from_native(
        cls,
        native: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
    ) -> Tokenizer:
        """Make a tokenizer from an object of the `tokenizers` library.

        Args:
            native: The object; do not change it afterwards.
            bos_id: Beginning token, see `Tokenizer`.
            eos_id: Ending token.
            add_bos: Whether a text begins with tokens, see `Tokenizer`.
            add_eos: Whether a text ends with tokens.

        Returns:
            The tokenizer.

        Raises:
            CheckpointError: If an id is not in the vocabulary.
        """
        return cls("", bos_id, eos_id, add_bos, add_eos, native)

    @classmethod
    def from_json(cls, text: str, **ids: Any) -> Tokenizer:
        """Make a tokenizer from the text of a `tokenizer.json`; `ids` as for `from_native`.

        Raises:
            CheckpointError: If the JSON is broken, or an id is not in the vocabulary.
        """
        return cls.from_native(parse(text), **ids)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer from a `tokenizer.json` or a Hugging Face model folder.

        `tokenizer_config.json` beside it, if there is one, names the beginning and ending tokens.
        If it says `add_bos_token` or `add_eos_token`, these two decide whether a text begins and
        ends with tokens, as in transformers 5; which ones, the template says where it has any.

        Args:
            path: File or folder.

        Returns:
            The tokenizer.

        Raises:
            CheckpointError: If a file is missing or broken, or names a token that there is not.
        """
        file = as_path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        settings = read_settings(file.parent / "tokenizer_config.json")
        try:
            text = read_text(file, TOKENIZER.size)
        except CheckpointError as error:
            raise CheckpointError(
                str(error),
                mend="Older formats: load with transformers' AutoTokenizer and save_pretrained.",
            ) from error
        try:
            native = parse(text)
            bos, eos = (
                special_token(native, settings, field) for field in ("bos_token", "eos_token")
            )
            said = any(settings.get(flag) is not None for flag in FLAGS)
            add_bos, add_eos = (bool(settings.get(flag)) if said else None for flag in FLAGS)
            return cls.from_native(native, bos_id=bos, eos_id=eos, add_bos=add_bos, add_eos=add_eos)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error

    @classmethod
    def words(cls, vocabulary: Sequence[str]) -> Tokenizer:
        """Make a tokenizer whose tokens are words separated by whitespace.

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
        vocabulary = require_list("vocabulary", vocabulary, "a list of words")
        for word in vocabulary:
            if not isinstance(word, str) or word.split() != [word]:
                raise InputError(
                    "vocabulary", got=quoted(word), expected="words without whitespace"
                )
        ids = {word: i for i, word in enumerate(vocabulary)}
        if len(ids) < len(vocabulary) or not ids:
            raise InputError("vocabulary", got=quoted(vocabulary), expected="some words, once each")
        native = tokenizers.Tokenizer(models.WordLevel(ids))
        native.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls.from_native(native)

    @functools.cached_property
    def vocab_size(self) -> int:
        """Return the largest id plus one; a model's own vocabulary may be padded further."""
        return max(self._native.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def begin(self) -> tuple[int, ...]:
        """Return the tokens that the template puts in front of a text, in order."""
        return self.__dict__["_ends_of_text"][0]

    @property
    def end(self) -> tuple[int, ...]:
        """Return the tokens that the template puts behind a text, in order."""
        return self.__dict__["_ends_of_text"][1]

    def encode(self, text: str, *, begin: bool = True, end: bool = True) -> list[int]:
        """Encode a text as token ids; special tokens written out in it are recognised.

        Args:
            text: Any text; an empty one has no tokens of its own.
            begin: Whether to put `self.begin` in front.
            end: Whether to put `self.end` behind; a prompt that goes on has no end.

        Returns:
            The ids.

        Raises:
            InputError: If the text is not one, holds lone surrogates, has a word the vocabulary
                cannot express, or takes the tokenizer's pattern too long.
        """
        if not isinstance(text, str):
            raise InputError("text", got=type(text).__name__, expected="a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError("text", got=quoted(text), expected="valid Unicode") from error
        try:
            ids = attempt(self._native.encode, text, add_special_tokens=False).ids
        except NativeError as error:
            unknown = [word for word in text.split() if self._native.token_to_id(word) is None]
            expected = f"words of the vocabulary; the tokenizer says: {error}"
            raise InputError("text", got=quoted((*unknown, text)[0]), expected=expected) from error
        return [*(self.begin if begin else ()), *ids, *(self.end if end else ())]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts in parallel; the template adds nothing to them.

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
        require_is("texts", texts, list, tuple)
        try:
            found = attempt(self._native.encode_batch_fast, list(texts), add_special_tokens=False)
        except NativeError:  # it does not say which text
            return [self.encode(text, begin=False, end=False) for text in texts]
        return [encoding.ids for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode tokens to text, special ones included.

        Args:
            ids: Integers, of Python, NumPy or JAX.

        Returns:
            The text; bytes that are no valid UTF-8 together become U+FFFD.

        Raises:
            InputError: If an id is not in the vocabulary, or the tokenizer cannot decode them.
        """
        numbers = [self._check(i) for i in require_list("token ids", ids, "integers")]
        try:
            return attempt(self._native.decode, numbers, skip_special_tokens=False)
        except NativeError as error:
            got = f"{quoted(numbers)}: {error}"
            raise InputError("token ids", got=got, expected="a text's tokens") from error

    def token(self, id: int) -> str:
        """Return one token's text as it reads inside a text, e.g. `" Paris"`.

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
        """Return the tokenizer as JSON of the `tokenizers` library."""
        return self.json

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `transformers` reads them.

        The template stands in the JSON, where all readers find it. The flags are written only
        where they say the same: transformers 5 makes a new template from them.

        Args:
            folder: An existing folder.

        Raises:
            CheckpointError: If it cannot be written.
        """
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for field, id in (("bos_token", self.bos_id), ("eos_token", self.eos_id)):
            if id is not None:
                config[field] = self._native.id_to_token(id)
        if self.begin in ((), (self.bos_id,)) and self.end in ((), (self.eos_id,)):
            config |= {"add_bos_token": self.add_bos, "add_eos_token": self.add_eos}
        config["clean_up_tokenization_spaces"] = False
        folder = as_path(folder, "folder")
        write_atomic(folder / "tokenizer.json", self.json)
        write_atomic(folder / "tokenizer_config.json", json.dumps(config, indent=2))

    @property
    def _native(self) -> tokenizers.Tokenizer:
        return self.__dict__["_backend"]

    def _check(self, id: int) -> int:
        number = require_index("token id", id, self.vocab_size)
        if self._native.id_to_token(number) is None:
            raise InputError("token id", got=number, expected="an id that the vocabulary has")
        return number


def token_label(tokenizer: Tokenizer | None, id: int) -> str:
    """Label a token for print by its text, or by its number where it has none.

    A model's vocabulary may be padded beyond its tokenizer's, and a tokenizer's may have gaps.

    Args:
        tokenizer: The model's, or None.
        id: The token's id.

    Returns:
        Its text, or `#` and its id.

    Raises:
        InputError: If the id is no integer, or negative.

    Example:
        >>> words = Tokenizer.words(["no", "yes"])
        >>> [token_label(words, 1), token_label(words, 7), token_label(None, 1)]
        ['yes', '#7', '#1']
    """
    number = require_index("token id", id)
    if tokenizer is None:
        return f"#{number}"
    require_is("tokenizer", tokenizer, Tokenizer)
    try:
        return tokenizer.token(number) or f"#{number}"
    except InputError:
        return f"#{number}"
