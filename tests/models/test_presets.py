"""Presets have the sizes that their makers state."""

from __future__ import annotations

import math

import pytest

from hagd_jax.errors import ConfigError
from hagd_jax.models import families, load
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.presets import PRESETS, preset, presets

# Parameters, from the models' cards and papers; tied embeddings count once.
TOTALS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "pythia-14m": 14_067_712,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    # Published with a vision tower of 416,866,032 and a projection of 1152 · (d_model + 1) more.
    "gemma-3-4b": 4_300_079_472 - 416_866_032 - 1152 * 2561,
    "gemma-3-12b": 12_187_325_040 - 416_866_032 - 1152 * 3841,
    "gemma-3-27b": 27_432_406_640 - 416_866_032 - 1152 * 5377,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}


def test_every_preset_has_the_published_number_of_parameters():
    totals = {
        name: sum(math.prod(spec.shape) for spec in param_specs(preset(name)).values())
        for name in presets()
    }
    assert totals == TOTALS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_written_as_a_hugging_face_configuration(name):
    config = preset(name)
    assert families.from_hf(families.to_hf(config)) == config


def test_largest_gemmas_divide_scores_by_the_share_of_the_stream():
    """query_pre_attn_scalar is 144 and 168 there, and the width of a head in the others."""
    gemmas = {name: preset(name) for name in presets() if name.startswith("gemma")}
    scalars = {name: c.query_scalar for name, c in gemmas.items() if c.query_scalar}
    assert scalars == {"gemma-2-27b": 144.0, "gemma-3-27b": 168.0}
    globals_ = [i for i, window in enumerate(gemmas["gemma-3-1b"].windows) if not window]
    assert globals_ == [5, 11, 17, 23]
    assert gemmas["gemma-2-2b"].windows[:3] == (4096, 0, 4096)


def test_presets_are_known_by_the_names_of_the_paper():
    assert {"gpt2-large", "pythia-6.9b", "llama-7b", "llama-13b", "llama-70b"} <= set(presets())
    assert preset("llama-70b") == preset("llama-2-70b")


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(ConfigError, match=r"'gpt2-larg'; .*Did you mean gpt2-large ") as error:
        preset("gpt2-larg")
    assert "gpt2" in str(error.value)
    with pytest.raises(ConfigError, match=r"Did you mean pythia-1\.4b"):
        preset("Pythia-1.4B ")


# Keys and values as the makers published them, less ids of tokens and the like.
COMMON = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
          "torch_dtype": "bfloat16", "transformers_version": "4.43.1"}  # fmt: skip
PUBLISHED = {
    "qwen2.5-7b": {
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": False, "use_mrope": False, "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "qwen3-8b": {
        "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960,
        "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "gemma-2-2b": {
        "model_type": "gemma2", "attention_bias": False, "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192,
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
        "sliding_window": 4096, "vocab_size": 256000,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "attention_bias": False, "attn_logit_softcapping": None,
        "cache_implementation": "hybrid", "final_logit_softcapping": None, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
        "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4,
        "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "mistral-7b-v0.1": {
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "output_router_logits": False, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": None, "tie_word_embeddings": False, "use_sliding_window": False,
        "vocab_size": 151936,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_the_preset(name):
    assert families.from_hf(COMMON | PUBLISHED[name]) == preset(name)


def test_the_name_of_a_trained_model_leads_to_its_folder():
    with pytest.raises(ConfigError, match=r"^model: got 'modular-23'; .*a folder.*RUN/model"):
        load("modular-23")
