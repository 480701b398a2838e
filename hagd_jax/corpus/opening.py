"""From what a user calls a corpus to one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.corpus import Corpus
from hagd_jax.corpus.hub import hub_corpus
from hagd_jax.corpus.prompts import task_corpus
from hagd_jax.corpus.sampling import self_corpus
from hagd_jax.corpus.text import find_files, text_corpus
from hagd_jax.errors import InputError, require_is, shown
from hagd_jax.models import LanguageModel
from hagd_jax.tasks import Task

Progress = Callable[[str, int, int], None]
_EXPECTED = "text files, hf:OWNER/NAME, task:NAME or self"


def open_corpus(
    source: str | Path | Sequence[str | Path] | Task,
    model: LanguageModel,
    config: CorpusConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Corpus:
    """Open the corpus on which a model's transcoder is trained.

    Args:
        source: One of

            - text files in UTF-8: a file, a pattern (`"books/**/*.txt"`), a folder, or a list;
            - `"hf:OWNER/NAME"`, `"hf:OWNER/NAME:CONFIG"` or `"hf:OWNER/NAME:CONFIG@SPLIT"`: a data
              set of the Hugging Face hub, streamed (the split is `train` if none is named);
            - `"task:NAME"` or a `Task`: clean and corrupted prompts of its discover split;
            - `"self"`: text sampled from the model itself.
        model: Who shall read it, with its tokenizer.
        config: Length of sequences, what is held out; the defaults if None.
        progress: Called with (stage, done, total) while text is tokenised or sampled.

    Returns:
        The corpus: `train` and `held_out` rows, and `batches` of either.

    Raises:
        ConfigError: If sequences are longer than the model's positions.
        InputError: If there is no such corpus, or a file is no text, or there is too little of
            it, or the model has no tokenizer.
        MissingDependencyError: If `hf:` is used without the package `datasets`.

    Example:
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> written = Path("book.txt").write_text(50 * "a b yes b a ")
        >>> corpus = open_corpus("*.txt", model, CorpusConfig(length=4))
        >>> batches = corpus.batches(8, seed=0)
        >>> next(batches).tokens.shape
        (8, 4)
        >>> batches.restore(batches.state())
    """
    config = CorpusConfig() if config is None else config
    require_is("model", model, LanguageModel)
    require_is("config", config, CorpusConfig)
    paths = source if isinstance(source, list | tuple) else [source]
    alone = isinstance(source, Task)
    if not alone and not all(isinstance(path, str | os.PathLike) for path in paths):
        raise InputError("corpus", got=shown(source), expected=_EXPECTED)
    if isinstance(source, Task):
        return task_corpus(source, model, config)
    if isinstance(source, str):
        scheme, _, rest = source.partition(":")
        if source == "self":
            return self_corpus(model, config, progress)
        if scheme == "task":
            return task_corpus(rest, model, config)
        if scheme == "hf":
            return hub_corpus(rest, model, config)
        _require_known(source)
    return text_corpus(source, model, config, progress)


def _require_known(source: str) -> None:
    """Tell an unknown scheme from a file that is missing."""
    # One letter and a colon may be a drive.
    if re.match(r"[A-Za-z][\w+-]+:", source):
        try:
            find_files(source)
        except InputError as error:
            raise InputError("corpus", got=repr(source), expected=_EXPECTED) from error
