"""Text files: found, read, tokenised and packed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.corpus import Corpus
from hagd_jax.corpus.holdout import held_out_mask
from hagd_jax.corpus.layout import Layout, require_length, require_tokenizer
from hagd_jax.corpus.rows import Packed
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, Tokenizer

Progress = Callable[[str, int, int], None]
# Tokenised together, one piece a thread.
_PIECE, _GROUP = 2**16, 2**20
# Single line ends between words: tokenizers that look no further than a run of white space give
# the same tokens when a text is cut behind one.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


def text_corpus(
    source: str | Path | Sequence[str | Path],
    model: LanguageModel,
    config: CorpusConfig,
    progress: Progress | None = None,
) -> Corpus:
    """Make a corpus from text files; each of them is a document.

    Args:
        source: As for `find_files`.
        model: With the tokenizer.
        config: Length and what is held out.
        progress: Called with ("tokenise", characters done, characters in all).

    Returns:
        The corpus.

    Raises:
        ConfigError: If sequences are longer than the model's positions.
        InputError: If a file cannot be read or is no text, or there are not enough of them.
    """
    tokenizer = require_tokenizer(model)
    require_length(config.length, model.config)
    files = find_files(source)
    texts = [text for text in map(read_text, files) if text]
    name = str(files[0]) if len(files) == 1 else f"{len(files)} files from {files[0].parent}"
    documents = tokenise(texts, tokenizer, progress)
    layout = Layout.of(tokenizer, config)
    total = sum(len(document) for document in documents)
    least = layout.body * (2 if config.held_out else 1)
    if total < least:
        raise InputError(
            f"text of {name}",
            got=f"{total} tokens" if total else "an empty text",
            expected=f"at least {least}, " + ("two sequences" if config.held_out else "a sequence"),
            mend="Use more text or shorter sequences (length).",
        )
    train, held_out = (Packed(part, layout) for part in _split(documents, layout, config))
    return Corpus.of_rows(name, train, held_out, model)


def find_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Find the files that a path, pattern or folder names.

    Args:
        source: A file, a pattern such as `books/**/*.txt`, a folder (all files in it, at any
            depth, but hidden ones), or a list of these.

    Returns:
        The files, once each; those of a pattern or folder in alphabetical order.

    Raises:
        InputError: If there are none.
    """
    if isinstance(source, str | Path):
        found = _match(os.path.expanduser(source))
        if not found:
            raise InputError("corpus", got=repr(str(source)), expected="a text file, or several")
        return [Path(name) for name in found]
    files = [file for one in source for file in find_files(one)]
    if not files:
        raise InputError("corpus", got="an empty list", expected="text files")
    return list(dict.fromkeys(files))


def _match(name: str) -> list[str]:
    if os.path.isdir(name):
        name = os.path.join(glob.escape(name), "**")
    elif os.path.exists(name):
        return [name]
    return sorted(n for n in glob.glob(name, recursive=True) if not os.path.isdir(n))


def read_text(path: Path) -> str:
    """Read the text of a file; line ends become those of Unix.

    Args:
        path: The file, UTF-8.

    Returns:
        Its text, without a byte order mark.

    Raises:
        InputError: If it cannot be read, or is not UTF-8, or has a zero byte in it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), got=error.strerror, expected="a readable file") from error
    try:
        text = data.decode()
        bad = data.find(0)
    except UnicodeDecodeError as error:
        text, bad = "", error.start
    if bad >= 0:
        raise InputError(
            str(path),
            got=f"byte 0x{data[bad]:02x} at offset {bad}",
            expected="text in UTF-8",
            mend="Leave the file out, or convert it: iconv -t UTF-8.",
        )
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def tokenise(
    texts: Sequence[str], tokenizer: Tokenizer, progress: Progress | None = None
) -> list[np.ndarray]:
    """Encode texts as token ids, in parallel.

    Args:
        texts: The texts.
        tokenizer: The tokenizer.
        progress: Called with ("tokenise", characters done, characters in all).

    Returns:
        For each text its ids, uint16 if they fit, else uint32.

    Raises:
        InputError: If the vocabulary cannot express a text.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    found: list[list[np.ndarray]] = [[] for _ in texts]
    total, done = sum(len(text) for text in texts), 0
    for group in _groups(texts):
        encoded = tokenizer.encode_batch([piece for _, piece in group])
        for (document, piece), ids in zip(group, encoded, strict=True):
            found[document].append(np.asarray(ids, dtype))
            done += len(piece)
        if progress is not None:
            progress("tokenise", done, total)
    return [np.concatenate([*parts, np.empty(0, dtype)]) for parts in found]


def _groups(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Pieces with the number of their text, about a million characters at a time."""
    group, size = [], 0
    for number, text in enumerate(texts):
        for piece in pieces(text):
            group.append((number, piece))
            size += len(piece)
            if size >= _GROUP:
                yield group
                group, size = [], 0
    if group:
        yield group


def pieces(text: str, size: int = _PIECE) -> Iterator[str]:
    """Cut a text after line ends where that does not change its tokens.

    Args:
        text: The text.
        size: Characters that a piece has at least, but for the last.

    Returns:
        An iterator over the pieces.
    """
    start = 0
    while (cut := _CUT.search(text, start + size)) is not None:
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _split(
    documents: list[np.ndarray], layout: Layout, config: CorpusConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What is trained on and what is held out: documents, or the end of the text."""
    count = min(round(config.held_out * len(documents)), len(documents) - 1)
    if count or not config.held_out:
        mask = held_out_mask(len(documents), count, config.seed)
        kept, held = (
            [d for d, out in zip(documents, mask, strict=True) if out == part]
            for part in (False, True)
        )
        return _join(kept, layout), _join(held, layout)
    stream = _join(documents, layout)
    rows = -(-len(stream) // layout.body)
    cut = (rows - max(1, round(config.held_out * rows))) * layout.body
    return stream[:cut], stream[cut:]


def _join(documents: list[np.ndarray], layout: Layout) -> np.ndarray:
    """One stream, a separator between two documents."""
    if not documents:
        return np.empty(0, np.uint16)
    between = [] if layout.separator is None else [layout.separator]
    gap = np.asarray(between, documents[0].dtype)
    parts = [part for document in documents for part in (gap, document)]
    return np.concatenate(parts[1:])
