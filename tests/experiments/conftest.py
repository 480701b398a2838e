"""A tiny language model under the name of the real one, a transcoder of it, and text."""

import json

import jax
import pytest

from hagd_jax import models, transcoders
from hagd_jax.models import DecoderConfig, Tokenizer
from tests.tasks.conftest import RARE, byte_bpe, corpus

NAME = "smollm2-135m"


def tiny_config(vocabulary: int, layers: int = 2) -> DecoderConfig:
    """A Llama-like model of few nodes."""
    return DecoderConfig(
        family="llama", vocab_size=vocabulary, n_layers=layers, d_model=16, n_heads=4, d_mlp=12,
        max_positions=128, norm="rms", positions="rotary", activation="silu", gated_mlp=True,
        qkv_bias=False, attn_out_bias=False, mlp_bias=False,
    )  # fmt: skip


def save_tiny(folder, layers: int = 2) -> str:
    """Write such a model, whose tokenizer keeps the words of all tasks whole."""
    native = byte_bpe([*corpus(), *(f"x {word}" for word in RARE)], special=["<s>", "</s>"])
    tokenizer = Tokenizer(native.to_str(), bos_id=0, eos_id=1)
    config = tiny_config(tokenizer.vocab_size, layers)
    model = models.init(config, jax.random.key(0), tokenizer=tokenizer, name=folder.name)
    # Heads carry nearly all that it does, so that a small part of it is a circuit.
    blocks = model.params["blocks"]
    quiet = blocks["mlp"] | {"out": jax.tree.map(lambda x: 0.01 * x, blocks["mlp"]["out"])}
    params = model.params | {"blocks": blocks | {"mlp": quiet}}
    return str(models.save(model.replace(params=params), folder))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of the model."""
    return save_tiny(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture(scope="session")
def features(tiny, tmp_path_factory):
    """Folder of a transcoder of it that nobody trained."""
    config = transcoders.TranscoderConfig(n_layers=2, d_model=16, n_features=20, k=4)
    made = transcoders.init(config, jax.random.key(1))
    w_dec = 0.3 * jax.random.normal(jax.random.key(2), made.params["W_dec"].shape)
    made = made.replace(params=made.params | {"W_dec": w_dec})
    return str(transcoders.save(made, tmp_path_factory.mktemp("transcoders") / "transcoder"))


@pytest.fixture
def read(tmp_path):
    """Read a record that an experiment wrote into this test's folder."""

    def read(name: str) -> dict:
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert {"command", "machine", "date", "seconds", "versions", "rows"} <= result.keys()
        assert result["rows"]
        return result

    return read


@pytest.fixture
def places(tmp_path):
    """Where an experiment writes in this test."""
    return {"results": tmp_path, "runs": tmp_path / "runs"}
