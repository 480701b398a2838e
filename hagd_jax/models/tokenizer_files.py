"""What the files of a tokenizer say: its JSON, and the settings beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from hagd_jax.brief import quoted, said
from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import read_json_object, require_tokenizer

# Whether a text begins with `bos_token` and ends with `eos_token`.
FLAGS = ("add_bos_token", "add_eos_token")


class NativeError(Exception):
    """NativeError is raised in place of all that the `tokenizers` library raises."""


def attempt(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function of the `tokenizers` library.

    Args:
        function: The function.
        arguments: Its arguments.
        options: Its keyword arguments.

    Returns:
        What it returns.

    Raises:
        NativeError: If it raises anything, or its Rust panics, which is no `Exception` of Python:
            as an engine of regular expressions does on a text that takes it too long.
    """
    try:
        return function(*arguments, **options)
    # The library raises nothing narrower.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise NativeError(said(error)) from error


def parse(text: str, where: str = "tokenizer JSON") -> tokenizers.Tokenizer:
    """Parse the text of a `tokenizer.json` with the `tokenizers` library.

    Args:
        text: The text.
        where: What it is, for the message.

    Returns:
        The tokenizer.

    Raises:
        CheckpointError: If the text is no such thing, or names ids that no vocabulary has.
    """
    require_is("tokenizer JSON", text, str)
    require_tokenizer(text, where)
    try:
        return attempt(tokenizers.Tokenizer.from_str, text)
    except NativeError as error:
        raise CheckpointError(
            where, got=str(error), expected="a tokenizer of the tokenizers library"
        ) from error


def template_ends(native: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the tokens that the post-processor (template) puts before and after a text.

    They are read off an encoded token rather than off the template: there are several kinds of
    post-processors, and they may be chained.

    Args:
        native: The tokenizer.

    Returns:
        Ids in front and behind, in order.

    Raises:
        CheckpointError: If it leaves the text out, or repeats it.
    """
    if native.post_processor is None:
        return (), ()
    size, added = native.get_vocab_size(with_added_tokens=True), native.get_added_tokens_decoder()
    # Special tokens may stand in the template themselves: others are tried first.
    for id in sorted(range(size), key=lambda id: id in added):
        token = native.id_to_token(id)
        try:
            bare = attempt(native.encode, token or "", add_special_tokens=False)
        except NativeError:
            continue
        if not bare.ids:
            continue
        text, whole = bare.ids, native.post_process(bare).ids
        found = [
            at for at in range(len(whole) - len(text) + 1) if whole[at : at + len(text)] == text
        ]
        if len(found) == 1:
            return tuple(whole[: found[0]]), tuple(whole[found[0] + len(text) :])
        if id not in added:
            break
    raise CheckpointError(
        "tokenizer post_processor",
        got="one that leaves the text out or repeats it",
        expected="tokens in front of the text, and behind it",
    )


def with_template(
    native: tokenizers.Tokenizer, begin: Sequence[int], end: Sequence[int]
) -> tokenizers.Tokenizer:
    """Copy a tokenizer with a template that adds other tokens.

    Args:
        native: The tokenizer.
        begin: Ids to put in front of a text.
        end: Ids to put behind it.

    Returns:
        The copy.
    """
    copy = tokenizers.Tokenizer.from_str(native.to_str())
    set_template(copy, begin, end)
    return copy


def set_template(native: tokenizers.Tokenizer, begin: Sequence[int], end: Sequence[int]) -> None:
    """Give a tokenizer that nobody else holds a template that adds other tokens.

    Args:
        native: The tokenizer, which is changed: a copy of a large one takes seconds.
        begin: Ids to put in front of a text.
        end: Ids to put behind it.
    """
    # A post-processor pickles as its JSON; byte-level ones only move offsets, and stay.
    old = native.post_processor
    state = {} if old is None else json.loads(old.__getstate__())
    kept = [
        processors.ByteLevel(trim_offsets=step["trim_offsets"])
        for step in state.get("processors", [state])
        if step.get("type") == "ByteLevel"
    ]
    names = {id: _piece(native.id_to_token(id), id) for id in (*begin, *end)}
    one, two = ([f"{names[id]}:{side}" for id in begin] for side in (0, 1))
    one_end, two_end = ([f"{names[id]}:{side}" for id in end] for side in (0, 1))
    template = processors.TemplateProcessing(
        single=[*one, "$A:0", *one_end],
        pair=[*one, "$A:0", *one_end, *two, "$B:1", *two_end],
        special_tokens=[
            {"id": name, "ids": [id], "tokens": [native.id_to_token(id)]}
            for id, name in names.items()
        ],
    )
    native.post_processor = processors.Sequence([*kept, template]) if kept else template


def _piece(token: str | None, id: int) -> str:
    """What a template calls a token; pieces of a template have a syntax of their own."""
    if token is None or ":" in token or token.startswith("$"):
        return f"token{id}"
    return token


def whole_texts(native: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Switch off truncation and padding in a tokenizer."""
    if native.truncation is None and native.padding is None:
        return native
    copy = tokenizers.Tokenizer.from_str(native.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def read_settings(path: Path) -> dict[str, Any]:
    """Read a `tokenizer_config.json`; empty if there is no such file.

    Raises:
        CheckpointError: If it is not a JSON object, or a flag in it is no boolean.
    """
    if not path.exists():
        return {}
    settings = read_json_object(path)
    for flag in FLAGS:
        value = settings.get(flag)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{path}: {flag}", got=quoted(value), expected="true or false")
    return settings


def special_token(native: tokenizers.Tokenizer, settings: dict[str, Any], field: str) -> int | None:
    """Find the id of a token in the settings, given as a string or (older files) an object.

    Raises:
        CheckpointError: If there is no such token in the vocabulary.
    """
    token = settings.get(field)
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        return None
    id = native.token_to_id(token) if isinstance(token, str) else None
    if id is None:
        raise CheckpointError(field, got=quoted(token), expected="a token of the vocabulary")
    return id
