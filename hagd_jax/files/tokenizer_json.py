"""Check a `tokenizer.json` before native code allocates memory by it."""

from __future__ import annotations

from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, HagdError
from hagd_jax.files.parsing import Bounds, parse_json
from hagd_jax.files.patterns import require_pattern
from hagd_jax.files.reading import MIB

# The largest published vocabulary has 256,000 tokens. The library allocates tables as long as the
# largest id, and aborts the process if the memory does not suffice.
MOST_IDS = 2**22
# The tokenizer of Llama 3 has 9 MB and 560,000 values.
TOKENIZER = Bounds(size=128 * MIB, depth=32, items=8_000_000)
_TEXT = 2**16
# Largest number of steps, such as normalizers; published tokenizers have up to a dozen.
_STEPS = 1000
# Longest texts of SentencePiece's own tables, in base64.
_TABLES = {"precompiled_charsmap": 16 * MIB}


def require_tokenizer(
    text: str, where: str = "tokenizer JSON", error: type[HagdError] = CheckpointError
) -> dict[str, Any]:
    """Check the sizes in the text of a `tokenizer.json`; the tokenizers library checks the rest.

    Args:
        text: The text.
        where: Name of the text, for the message.
        error: The class of error to raise.

    Returns:
        The parsed JSON object.

    Raises:
        HagdError: Of the given class, if the text is not JSON, an id is too large, a part is too
            long, or a regular expression in it may take too long.

    Example:
        >>> require_tokenizer('{"model": {"vocab": {"a": 0}}}')["model"]
        {'vocab': {'a': 0}}
    """
    record = parse_json(text, where, TOKENIZER, error)
    model = record.get("model") if isinstance(record, dict) else None
    if not isinstance(model, dict):
        raise error(where, got="no model", expected="a tokenizer of the tokenizers library")
    vocab = model.get("vocab")
    ids = [] if not isinstance(vocab, dict) else list(vocab.items())
    added = record.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict):
            ids.append((token.get("content"), token.get("id")))
    for token, id in ids:
        if type(id) is not int or not 0 <= id < MOST_IDS:
            raise error(
                f"{where}: id of token {quoted(token)}",
                got=quoted(id),
                expected=f"an integer from 0 to {MOST_IDS - 1:,}",
            )
    if isinstance(vocab, list) and len(vocab) > MOST_IDS:
        raise error(where, got=f"{len(vocab):,} tokens", expected=f"at most {MOST_IDS:,}")
    rest = {name: part for name, part in model.items() if name not in ("vocab", "merges")}
    others = {name: part for name, part in record.items() if name not in ("model", "added_tokens")}
    _require_short([rest, others], where, error)
    return record


def _require_short(parts: list[Any], where: str, error: type[HagdError]) -> None:
    """Limit the number and length of a tokenizer's steps, which native code runs on every text."""
    count = 0
    while parts:
        part = parts.pop()
        count += isinstance(part, dict)
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            for name, value in part.items():
                if name == "Regex" and isinstance(value, str):
                    require_pattern(value, f"{where}: pattern", error)
                if isinstance(value, str) and len(value) <= _TABLES.get(name, _TEXT):
                    continue
                parts.append(value)
        elif isinstance(part, str) and len(part) > _TEXT:
            got = f"a text of {len(part):,} characters"
            raise error(where, got=got, expected=f"at most {_TEXT:,} in a step")
        elif isinstance(part, int) and abs(part) > 2**31:
            raise error(where, got=quoted(part), expected="numbers of a tokenizer")
        if count > _STEPS:
            raise error(where, got=f"more than {_STEPS:,} steps", expected="fewer")
