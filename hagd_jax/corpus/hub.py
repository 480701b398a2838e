"""Data sets of the Hugging Face hub, streamed: nothing is downloaded ahead."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.corpus import Corpus
from hagd_jax.corpus.holdout import draw
from hagd_jax.corpus.layout import Layout, require_length, require_tokenizer
from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import LanguageModel, Tokenizer

_SPEC = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([^:@]+))?(?:@(.+))?")


class DataSet(NamedTuple):
    """A data set of the Hugging Face hub is named by repository, configuration and split.

    Attributes:
        path: `owner/name`.
        config: Its configuration; the default one if None.
        split: Its split.
    """

    path: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, text: str) -> DataSet:
        """Read `owner/name`, `owner/name:config` or `owner/name:config@split`.

        Raises:
            InputError: If it is none of these.

        Example:
            >>> DataSet.parse("HuggingFaceFW/fineweb:sample-10BT")
            DataSet(path='HuggingFaceFW/fineweb', config='sample-10BT', split='train')
        """
        found = _SPEC.fullmatch(text)
        if found is None:
            raise InputError(
                "data set", got=repr(text), expected="owner/name, owner/name:config or ...@split"
            )
        return cls(found[1], found[2], found[3] or "train")


def hub_corpus(source: str, model: LanguageModel, config: CorpusConfig) -> Corpus:
    """Make a corpus that streams a data set; each example is a document.

    Documents are held out by a draw from their number. A pass over the held-out part streams
    through the others too.

    Args:
        source: As `DataSet.parse` reads it.
        model: With the tokenizer.
        config: Length, what is held out, and the column of the text.

    Returns:
        The corpus.

    Raises:
        ConfigError: If sequences are longer than the model's positions.
        InputError: If there is no such data set, or it has no such column.
        MissingDependencyError: If `datasets` is not installed.
    """
    tokenizer = require_tokenizer(model)
    require_length(config.length, model.config)
    found = DataSet.parse(source)
    _check_column(found, load(found), config.column)
    # Grain takes a while to import, and most of the package does without it.
    from hagd_jax.corpus.stream import Stream

    layout = Layout.of(tokenizer, config)
    opening = functools.partial(load, found)
    encode = functools.partial(_encode, path=found.path, column=config.column, tokenizer=tokenizer)

    def held_out(document: int) -> bool:
        return draw(document, config.seed) < config.held_out

    content = repr((found, layout, config.held_out, config.seed, config.column)).encode()
    return Corpus(
        name=f"hf:{source}",
        train=Stream(opening, encode, lambda document: not held_out(document), layout),
        held_out=Stream(opening, encode, held_out, layout),
        fingerprint=hashlib.blake2b(content, digest_size=8).hexdigest(),
    )


def load(found: DataSet) -> Any:
    """Open a data set for streaming.

    Args:
        found: Which.

    Returns:
        A `datasets.IterableDataset`.

    Raises:
        InputError: If it does not exist or cannot be reached.
        MissingDependencyError: If `datasets` is not installed.
    """
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependencyError(
            "streaming from the Hugging Face hub needs the package datasets",
            mend='Install it with: pip install "hagd-jax[data]".',
        ) from error
    try:
        return datasets.load_dataset(found.path, found.config, split=found.split, streaming=True)
    # Whatever goes wrong on the way is an OSError; an unknown split or configuration a ValueError.
    except (OSError, ValueError) as error:
        raise InputError(
            f"data set {found.path}",
            got=f"{type(error).__name__}: {(str(error) or 'no more is known').splitlines()[0]}",
            expected=f"a reachable one with the split {found.split!r}",
            mend="Check its name, configuration and split; without a network, use text files.",
        ) from error


def _check_column(found: DataSet, dataset: Any, column: str) -> None:
    """Refuse a column that is not there."""
    # Data sets that do not say what they have show it in their first example.
    columns = getattr(dataset, "column_names", None) or list(next(iter(dataset), {column: ""}))
    if column not in columns:
        raise _no_column(found.path, columns, column)


def _encode(
    example: Mapping[str, Any], *, path: str, column: str, tokenizer: Tokenizer
) -> list[int]:
    if column not in example:
        raise _no_column(path, list(example), column)
    text = example[column]
    return [] if text is None else tokenizer.encode(text, begin=False, end=False)


def _no_column(path: str, columns: list[str], column: str) -> InputError:
    return InputError(
        f"data set {path}",
        got=f"columns {', '.join(columns)}",
        expected=f"the column {column!r}",
        mend="Name the one that holds the text: CorpusConfig(column=...).",
    )
