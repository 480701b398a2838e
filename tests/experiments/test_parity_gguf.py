"""The comparison of GGUF files with `transformers`, against peers made here."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.parity import gguf as script
from experiments.parity import tokenizer as texts
from hagd_jax import models
from hagd_jax.errors import CheckpointError
from hagd_jax.models.gguf.source import open_gguf
from tests.models import gguf_tiny
from tests.models.test_gguf_tokenizer import metadata


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tiny model with a real tokenizer."""
    given = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in metadata("qwen2").items()}
    tensors = gguf_tiny.tensors(tied=True)
    rows = np.random.default_rng(1).normal(size=(448, gguf_tiny.D_MODEL)).astype(np.float32)
    tensors["token_embd.weight"] = rows
    return gguf_tiny.write(tmp_path / "tiny.gguf", tensors, gguf_tiny.SETTINGS | given)


def logits(path: Path, prompts: list[list[int]], change: float = 0.0) -> list[np.ndarray]:
    model = models.load(path)
    found = [np.asarray(models.forward(model, [ids]).logits)[0] for ids in prompts]
    return [values + np.float32(change) for values in found]


def test_the_record(file: Path, places: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    tokenizer = open_gguf(file).tokenizer()
    assert tokenizer is not None

    def peer(text: str) -> list[int]:
        ids = tokenizer.encode(text)
        return ids[1:] if text.startswith("\t") else ids

    monkeypatch.setattr(script, "need", lambda *_, **__: None)
    monkeypatch.setattr(script, "quiet", lambda: None)
    monkeypatch.setattr(script, "PACKAGES", ())
    monkeypatch.setattr(script, "PROMPTS", ["a b", "c d"])
    monkeypatch.setattr(script, "transformers_ids", lambda path: peer)
    monkeypatch.setattr(script, "transformers_logits", logits)
    monkeypatch.setattr(texts, "PER_KIND", 3)
    script.main(script.Config(**places, model=file))
    result = json.loads((places["results"] / "gguf_parity.json").read_text())
    (row,) = result["files"].values()
    assert (row["architecture"], row["tensors"]) == ("llama", {"F32": 20})
    assert row["texts"] == len(texts.FIXED) + 3 * 11
    tabs = sum(text.startswith("\t") for found in script.every_text(open_gguf(file)).values()
               for text in found)  # fmt: skip
    assert row["equal"]["transformers"] == row["texts"] - tabs < row["texts"]
    assert len(row["differences"]) == tabs
    assert all(found["largest"] < 1e-5 < found["spread"] for found in row["logits"])
    monkeypatch.setattr(script, "transformers_logits", functools.partial(logits, change=0.1))
    with pytest.raises(SystemExit, match=r"allowed 0\.005"):
        script.main(script.Config(**places, model=file, ids=False))
    (after,) = json.loads((places["results"] / "gguf_parity.json").read_text())["files"].values()
    assert after["differences"] == row["differences"]
    assert after["logits"] != row["logits"]


def test_a_file_without_a_tokenizer(tmp_path: Path, places: dict[str, Any], monkeypatch):
    monkeypatch.setattr(script, "need", lambda *_, **__: None)
    monkeypatch.setattr(script, "quiet", lambda: None)
    path = gguf_tiny.write(tmp_path / "bare.gguf", gguf_tiny.tensors())
    with pytest.raises(CheckpointError, match="no tokenizer"):
        script.main(script.Config(**places, model=path))
