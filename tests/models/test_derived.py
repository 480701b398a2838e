"""Tensors that a configuration derives, and that the file says otherwise."""

from __future__ import annotations

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from hagd_jax.errors import CheckpointError
from hagd_jax.models import families, forward, load, save
from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.rope import frequencies
from tests.models import gguf_tiny
from tests.models.test_loading import GPT2, LLAMA, NEOX, tensors_of, write

CUSTOM = DecoderConfig(vocab_size=11, n_layers=1, d_model=8, n_heads=2, d_mlp=8, max_positions=16)
TOKENS = np.array([[1, 2, 3, 4]])
FREQUENCIES = "model.layers.0.self_attn.rotary_emb.inv_freq"


def head_of(family):
    """The name of the unembedding, and whether it is stored as (D, V)."""
    return families.FAMILIES[family].unembed, family == "custom"


@pytest.mark.parametrize("config", [LLAMA, GPT2, NEOX, CUSTOM], ids=lambda c: c.family)
@pytest.mark.parametrize("strict", [True, False])
def test_a_stored_head_is_used_where_the_configuration_ties_it(tmp_path, config, strict, caplog):
    tied = config.replace(tied=True)
    rng, (name, turned) = np.random.default_rng(1), head_of(config.family)
    head = rng.normal(size=(config.vocab_size, config.d_model)).astype(np.float32)
    tensors = tensors_of(tied)
    folder = write(tmp_path / "m", tied, tensors | {name: head.T.copy() if turned else head})
    with caplog.at_level(logging.WARNING, "hagd_jax"):
        model = load(folder, strict=strict)
    assert name in caplog.text
    assert model.config == config.replace(tied=False)
    out = forward(model, TOKENS, capture="normed_final")
    stream = np.asarray(out.trace["normed_final"], np.float64)
    assert np.abs(stream).std() > 0.1
    # float32 sums of 8 products of numbers near 1.
    np.testing.assert_allclose(out.logits, stream @ head.T, atol=1e-5)
    # What is saved says so, to others as well.
    again = save(model, tmp_path / "again")
    assert (
        json.loads((again / "config.json").read_text())["tied" if turned else "tie_word_embeddings"]
        is False
    )
    stored = load_file(again / "model.safetensors")[name]
    np.testing.assert_array_equal(stored.T if turned else stored, head)


@pytest.mark.parametrize("config", [LLAMA, GPT2, NEOX, CUSTOM], ids=lambda c: c.family)
def test_a_stored_copy_of_the_embedding_stays_tied(tmp_path, config, caplog):
    tied = config.replace(tied=True)
    name, turned = head_of(config.family)
    tensors = tensors_of(tied, jnp.bfloat16)
    embed = next(value for value in tensors.values() if value.shape == (tied.vocab_size, 8))
    copy = embed.astype(np.float32)  # the same numbers, in another dtype
    folder = write(tmp_path / "m", tied, tensors | {name: copy.T.copy() if turned else copy})
    assert load(folder).config.tied
    assert not caplog.records


def test_a_single_other_number_in_the_head_unties(tmp_path, monkeypatch):
    monkeypatch.setattr("hagd_jax.models.derived._STRIP", 24)  # three tokens at a time
    tied = LLAMA.replace(tied=True)
    tensors = tensors_of(tied)
    head = tensors["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    assert not load(write(tmp_path / "m", tied, tensors | {"lm_head.weight": head})).config.tied


def test_a_head_of_another_shape_is_refused(tmp_path):
    tied = LLAMA.replace(tied=True)
    folder = write(
        tmp_path / "m", tied, tensors_of(tied) | {"lm_head.weight": np.ones((3, 8), np.float32)}
    )
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: got shape \(3, 8\)"):
        load(folder)


def test_the_head_of_a_gguf_file_is_used(tmp_path):
    path, tensors = tmp_path / "m.gguf", gguf_tiny.tensors(tied=False)
    gguf_tiny.write(path, tensors, gguf_tiny.SETTINGS)
    out = forward(load(path), TOKENS, capture="normed_final")
    stream = np.asarray(out.trace["normed_final"], np.float64)
    np.testing.assert_allclose(out.logits, stream @ tensors["output.weight"].T, atol=1e-5)


STRETCHED = LLAMA.replace(rope_scaling=RopeScaling("linear", 4.0), d_head=8, rotary_dim=8)


@pytest.mark.parametrize("stored", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("stretched", [True, False])
def test_frequencies_of_the_configuration_are_accepted(tmp_path, stored, stretched):
    of = STRETCHED if stretched else STRETCHED.replace(rope_scaling=None)
    value = frequencies(of, 16).astype(stored)
    load(write(tmp_path / "m", STRETCHED, tensors_of(STRETCHED) | {FREQUENCIES: value}))


@pytest.mark.parametrize(
    ("config", "name", "value", "words"),
    [
        (STRETCHED, FREQUENCIES, 5e5 ** -(np.arange(4) / 4), "θ = 10000, d = 8"),
        (STRETCHED, FREQUENCIES, np.ones(2), "d = 8"),
        (GPT2, "transformer.h.1.attn.bias", np.ones((1, 1, 16, 16)), "a causal mask"),
        (GPT2, "transformer.h.1.attn.bias", np.ones((16, 16)), r"\(1, 1, T, T\) causal mask"),
        (
            NEOX, "gpt_neox.layers.0.attention.bias",
            (np.tri(16) * (1 - np.tri(16, k=-4)))[None, None], "a causal mask",
        ),
        (NEOX, "gpt_neox.layers.0.attention.masked_bias", np.zeros(()), "far below zero"),
    ],
    ids=["base", "size", "no mask", "shape", "window", "no bias"],
)  # fmt: skip
def test_buffers_that_say_something_else_are_refused(
    tmp_path, config, name, value, words, monkeypatch, caplog
):
    monkeypatch.setattr("hagd_jax.models.derived._STRIP", 48)  # three rows of a mask at a time
    tensors = tensors_of(config) | {name: value.astype(np.float32)}
    folder = write(tmp_path / "m", config, tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert name in str(caught.value)
    assert load(folder, strict=False).config == config
    assert name in caplog.text


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"])
def test_a_stored_bias_that_is_switched_off_is_never_left_out(tmp_path, part):
    name = f"model.layers.1.{part}.bias"
    folder = write(tmp_path / "m", LLAMA, tensors_of(LLAMA) | {name: np.ones(8, np.float32)})
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=name):
            load(folder, strict=strict)


def test_what_is_left_out_on_request_is_named_in_the_log(tmp_path, caplog):
    folder = write(tmp_path / "m", LLAMA, tensors_of(LLAMA) | {"extra": np.ones(1, np.float32)})
    load(folder, strict=False)
    assert "tensor extra: 1 left out" in caplog.text
