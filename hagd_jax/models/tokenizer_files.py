"""What the files of a tokenizer say: its JSON, and the settings beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from hagd_jax.errors import CheckpointError


def parse(text: str) -> tokenizers.Tokenizer:
    """A tokenizer of the `tokenizers` library, from the text of a `tokenizer.json`.

    Raises:
        CheckpointError: If the text is no such thing.
    """
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(
            "tokenizer JSON", got=error, expected="a tokenizer of the tokenizers library"
        ) from error


def template_bos(native: tokenizers.Tokenizer) -> int | None:
    """The special token that the post-processor puts in front of a text, if any."""
    # A post-processor pickles as its JSON.
    state = None if native.post_processor is None else native.post_processor.__getstate__()
    processor = {} if state is None else json.loads(state)
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing" and step["single"]:
            first = step["single"][0].get("SpecialToken")
            if first is not None:
                return step["special_tokens"][first["id"]]["ids"][0]
    return None


def read_settings(path: Path) -> dict[str, Any]:
    """A `tokenizer_config.json`; nothing if there is no such file.

    Raises:
        CheckpointError: If it is not a JSON object, or its `add_bos_token` is no boolean.
    """
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(str(path), got=error, expected="JSON") from error
    if not isinstance(settings, dict):
        raise CheckpointError(str(path), got=type(settings).__name__, expected="a JSON object")
    add_bos = settings.get("add_bos_token")
    if add_bos is not None and not isinstance(add_bos, bool):
        raise CheckpointError(f"{path}: add_bos_token", got=repr(add_bos), expected="true or false")
    return settings


def special_token(native: tokenizers.Tokenizer, settings: dict[str, Any], field: str) -> int | None:
    """Id of a token that the settings name, as a string or (older files) as an object.

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
        raise CheckpointError(field, got=repr(token), expected="a token of the vocabulary")
    return id
