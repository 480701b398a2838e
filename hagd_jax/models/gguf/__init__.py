"""GGUF files: header, settings, tensors and tokenizer, as llama.cpp converters write them."""

from hagd_jax.models.gguf.source import GgufFile, GgufSource, open_gguf

__all__ = ["GgufFile", "GgufSource", "open_gguf"]
