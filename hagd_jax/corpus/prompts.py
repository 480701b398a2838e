"""The prompts of a task as a corpus."""

from __future__ import annotations

import numpy as np

from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.corpus import Corpus, corpus_of_tokens
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.tasks import Sizes, Task, task


def task_corpus(source: str | Task, model: LanguageModel, config: CorpusConfig) -> Corpus:
    """Make a corpus of clean and corrupted prompts of a task's discover split, one per row.

    They stay as the task makes them: not packed, and begun as its tokenizer begins a prompt.

    Args:
        source: A task, or the name of one.
        model: Whose tokens they are.
        config: How many, and what is held out.

    Returns:
        The corpus.

    Raises:
        InputError: If there is no such task, or it does not fit the model.
    """
    if isinstance(source, str):
        source = task(source, model, sizes=Sizes(discover=config.prompts), seed=config.seed)
    if "discover" not in source.splits:
        raise InputError(f"task {source.name!r}", got=sorted(source.splits), expected="'discover'")
    prompts = source.splits["discover"]
    prompts.check(model.config.vocab_size)
    return corpus_of_tokens(
        f"task:{source.name}",
        np.concatenate([prompts.inputs(), prompts.inputs("corrupted")]),
        model,
        config,
        lengths=np.concatenate([prompts.row_length, prompts.row_length]),
    )
