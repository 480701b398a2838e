"""Presets have the sizes that their makers state."""

from __future__ import annotations

import math

import pytest

from hagd_jax.errors import ConfigError
from hagd_jax.models import families
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
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
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


def test_presets_are_known_by_the_names_of_the_paper():
    assert {"gpt2-large", "pythia-6.9b", "llama-7b", "llama-13b", "llama-70b"} <= set(presets())
    assert preset("llama-70b") == preset("llama-2-70b")


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(ConfigError, match=r"'gpt2-larg'; expected one of gpt2-large") as error:
        preset("gpt2-larg")
    assert "gpt2" in str(error.value)
    with pytest.raises(ConfigError, match=r"pythia-1\.4b"):
        preset("Pythia-1.4B ")
