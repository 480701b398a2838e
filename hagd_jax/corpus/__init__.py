"""What transcoders are trained on: text, data sets, prompts, or what the model writes itself."""

from hagd_jax.corpus.batches import Batches
from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.corpus import Corpus, corpus_of_tokens
from hagd_jax.corpus.layout import Batch
from hagd_jax.corpus.opening import open_corpus

__all__ = ["Batch", "Batches", "Corpus", "CorpusConfig", "corpus_of_tokens", "open_corpus"]
