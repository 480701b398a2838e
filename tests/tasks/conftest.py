"""A small tokenizer that keeps the task words whole, trained here."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from hagd_jax.models import Tokenizer
from hagd_jax.tasks import capitals, ioi
from hagd_jax.tasks.lexicon import CAPITALS, NAMES

# Left out of the training text, so that they fall apart into pieces.
RARE = {"Vanessa", "Sylvia", "Paris", "Warsaw"}


def corpus() -> list[str]:
    words = [*NAMES, *(word for pair in CAPITALS for word in pair)]
    texts = [f"x {word}" for word in words if word not in RARE]
    texts += [t for scenes in ioi.SCENES.values() for t in scenes.templates]
    texts += [t for templates in capitals.TEMPLATES.values() for t in templates]
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
