"""Reading Hugging Face configuration files: typed, and never past an option that matters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType
from typing import Any

from hagd_jax.brief import quoted, spelled
from hagd_jax.errors import ConfigError
from hagd_jax.models.config import Activation

Options = Mapping[str, Any]

REQUIRED = object()

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu", "swish": "silu",
    "linear": "linear",
}  # fmt: skip

# How each of ours is written back.
ACTIVATION_NAMES: dict[str, str] = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
ACTIVATION_NAMES["gelu_tanh"] = "gelu_new"


def words(text: str) -> frozenset[str]:
    """Split a list written with spaces between its names."""
    return frozenset(text.split())


# Options of every family that leave the function alone: training, generation, bookkeeping.
HARMLESS = words(
    """
    architectures attention_dropout attn_implementation attn_pdrop bad_words_ids
    begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
    classifier_dropout
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping embd_pdrop encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing hidden_dropout id2label initializer_range is_decoder is_llama_config
    keys_to_ignore_at_inference label2id length_penalty max_length min_length model_type n_ctx
    name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_router_logits output_scores
    pad_token_id
    predict_special_tokens prefix pretraining_tp problem_type remove_invalid_values
    reorder_and_upcast_attn repetition_penalty resid_pdrop return_dict return_dict_in_generate
    router_aux_loss_coef router_jitter_noise
    sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_last_hidden_states tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version
    use_bfloat16 use_cache
    """
)

# Options that do change it and have no counterpart here, with the values that switch them off.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (None, False),
    "attn_logit_softcapping": (None,),
    "auto_map": (None,),
    "compression_config": (None,),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (None, False),
    "layer_types": (None,),
    "num_experts": (None, 0, 1),
    "num_local_experts": (None, 0, 1),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "rope_interleaved": (None, False),
    "sliding_window": (None, False),
    "tie_encoder_decoder": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_mrope": (None, False),
    "use_sliding_window": (None, False),
}


def check(
    given: Options,
    understood: Iterable[str],
    strict: bool = True,
    switched_off: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
) -> None:
    """Refuse options that change the mathematics in a way the decoder does not have.

    Args:
        given: The parsed `config.json`.
        understood: Options the family reads.
        strict: Also refuse options nobody here has heard of.
        switched_off: Options of this family without a counterpart, as in `SWITCHED_OFF`.

    Raises:
        ConfigError: Naming the option.
    """
    understood = set(understood)
    absent = {n: off for n, off in {**SWITCHED_OFF, **switched_off}.items() if n not in understood}
    for name, off in absent.items():
        if name in given and given[name] not in off:
            raise ConfigError(
                f"config.json: {name}",
                got=quoted(given[name]),
                expected=" or ".join(map(repr, off)),
                mend="It changes the mathematics, and the decoder here does not have it.",
            )
    if strict:
        require_known(given, HARMLESS | absent.keys() | understood)


def require_known(given: Options, known: Set[str], where: str = "config.json") -> None:
    """Refuse options outside `known` that are set to something.

    Raises:
        ConfigError: Naming the option.
    """
    for name, value in given.items():
        if name not in known and not name.startswith("_") and value is not None:
            raise ConfigError(
                f"{where}: {spelled(name)}",
                got=quoted(value),
                expected="only options that are understood",
                mend="If it does not change the mathematics, load with strict=False.",
            )


def option(given: Options, name: str, kind: type, default: Any = REQUIRED) -> Any:
    """Read one option of the right type.

    Args:
        given: The parsed `config.json`, or a part of it.
        name: The option.
        kind: `int`, `float` (whole numbers will do), `bool`, `str`, `list` or `dict`.
        default: Used when it is absent or null; without one the option is required.

    Returns:
        Its value.

    Raises:
        ConfigError: If it is absent without a default, or of another type.
    """
    value = given.get(name)
    if value is None:
        if default is REQUIRED:
            raise ConfigError(f"config.json: {name}", got="nothing", expected=f"{kind.__name__}")
        return default
    if kind is float:
        value = _number(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"config.json: {name}", got=quoted(value), expected=f"{kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config.json: {name}", got=value, expected="a finite number")
    return value


def activation(given: Options, name: str, default: str) -> Activation:
    """Translate the MLP's activation function from Hugging Face's name."""
    value = option(given, name, str, default)
    if value not in ACTIVATIONS:
        raise ConfigError(
            f"config.json: {name}", got=quoted(value), expected=f"one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def same(given: Options, *names: str) -> Any:
    """Return the value of an option that has several spellings, or None.

    Raises:
        ConfigError: If two spellings disagree.
    """
    found = {name: given[name] for name in names if given.get(name) is not None}
    values = [_number(value) for value in found.values()]
    if any(value != values[0] for value in values):
        raise ConfigError(f"config.json: {' and '.join(found)}", got=quoted(list(found.values())),
                          expected="one value, they are synonyms")  # fmt: skip
    return next(iter(found.values()), None)


def _number(value: Any) -> Any:
    """Whole numbers as floats, unless they are too large to be one; all else as it is."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and abs(value) < 2**1000 else value
