"""A small tokenizer that keeps the task words whole, trained here."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from hagd_jax.models import Tokenizer
from hagd_jax.tasks import agreement, greater_than, ioi, lexicon, pronouns, word_arithmetic
from hagd_jax.tasks.lexicon import NAMES
from hagd_jax.tasks.relations import RELATIONS

# Left out of the training text, so that they fall apart into pieces.
RARE = {"Vanessa", "Sylvia", "Paris", "Warsaw"}


def corpus() -> list[str]:
    pairs = [pair for relation in RELATIONS.values() for pair in relation.pairs]
    words = [*NAMES, *(word for pair in (*pairs, *lexicon.NOUNS) for word in pair)]
    words += [*lexicon.MALE, *lexicon.FEMALE, *lexicon.NUMBERS, *lexicon.EVENTS, "she", "he"]
    words += [*agreement.SINGULAR.split("|"), *agreement.PLURAL.split("|")]
    texts = [f"x {word}" for word in words if word not in RARE]
    by_split = [scenes.templates for scenes in ioi.SCENES.values()]
    by_split += [t for relation in RELATIONS.values() for t in relation.templates.values()]
    for module in (agreement, greater_than, pronouns):
        by_split += module.TEMPLATES.values()
    texts += [template for templates in by_split for template in templates]
    texts += [t for templates in word_arithmetic.TEMPLATES.values() for t, _ in templates]
    return texts


def byte_bpe(texts: list[str], *, special: list[str] | None = None) -> tokenizers.Tokenizer:
    native = tokenizers.Tokenizer(models.BPE())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        show_progress=False,
        special_tokens=special or [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    native.train_from_iterator(texts, trainer)
    return native


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_bpe(corpus()).to_str())


@pytest.fixture(scope="session")
def bos_tokenizer() -> Tokenizer:
    native = byte_bpe(corpus(), special=["<s>", "</s>"])
    return Tokenizer(native.to_str(), bos_id=0, eos_id=1, add_bos=True)


@pytest.fixture
def write(tmp_path):
    """Write rows as JSON lines; those that are texts already stay as they are."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
