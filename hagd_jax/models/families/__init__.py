"""Families of models: their configuration files and their weight tables, in both directions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hagd_jax.brief import one_line, quoted
from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families import (
    custom,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
)
from hagd_jax.models.families.table import Weight, select

Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family defines how its models are configured and stored.

    Attributes:
        model_type: What `config.json` calls it.
        architecture: The class of Hugging Face that reads it.
        from_hf: `config.json`, strict → configuration.
        to_hf: Configuration → what is special to the family in `config.json`.
        table: Configuration, names in the checkpoint (none when one is written) → a `Weight` for
            each parameter, or several where it lies in several tensors of a layer.
        prefix: Start of most tensor names that some checkpoints leave out.
        unembed: Name of the unembedding; ignored when it equals the embedding it is tied to.
        buffers: Pattern of the names of stored tensors that are no parameters; they are held
            against the configuration.
    """

    model_type: str
    architecture: str
    from_hf: Callable[[Options, bool], DecoderConfig]
    to_hf: Callable[[DecoderConfig], dict[str, Any]]
    table: Callable[..., tuple[Weight, ...]]
    prefix: str = ""
    unembed: str = ""
    buffers: str = ""

    __repr__ = one_line

    def ignores(self, name: str, config: DecoderConfig) -> bool:
        """Tell whether a stored tensor may be left unread."""
        return re.fullmatch(self.buffers, name) is not None or (
            config.tied and name == self.unembed
        )


def _selected(table: Sequence[Weight], config: DecoderConfig) -> tuple[Weight, ...]:
    return select(table, param_specs(config))


def _hugging_face(module: Any) -> Family:
    return Family(
        module.MODEL_TYPE,
        module.ARCHITECTURE,
        module.from_hf,
        module.to_hf,
        getattr(module, "table", lambda config, names=(): _selected(module.TABLE, config)),
        module.PREFIX,
        module.UNEMBED,
        module.BUFFERS,
    )


_MODULES = (
    *(gpt2, gpt_neox, llama, mistral),
    *(qwen2, qwen3, gemma, gemma2, gemma3, olmo2, phi3),
    *(qwen3_moe, mixtral),
)

FAMILIES: dict[str, Family] = {
    **{module.__name__.rpartition(".")[2]: _hugging_face(module) for module in _MODULES},
    "custom": Family(
        custom.MODEL_TYPE,
        custom.ARCHITECTURE,
        custom.from_hf,
        custom.to_hf,
        lambda config, names=(): custom.table(param_specs(config)),
        unembed="unembed.kernel",
    ),
}


def family_of(config: DecoderConfig) -> Family:
    """Find the family that translates a configuration.

    Raises:
        ConfigError: If `config.family` is none of `FAMILIES`.
    """
    if config.family not in FAMILIES:
        raise ConfigError(
            "family", got=quoted(config.family), expected=f"one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.family]


def from_hf(given: Options, strict: bool = True) -> DecoderConfig:
    """Translate a `config.json`, as Hugging Face or `to_hf` wrote it.

    Args:
        given: The parsed file.
        strict: Refuse options nobody here has heard of; options known to change the mathematics
            in a way the decoder does not have are always refused.

    Returns:
        The configuration, computing in float32.

    Raises:
        ConfigError: Naming the option that is missing, of the wrong type, or unsupported.

    Example:
        >>> from_hf({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1,
        ...          "vocab_size": 10}).d_mlp
        32
    """
    kind = given.get("model_type")
    for family in FAMILIES.values():
        if family.model_type == kind:
            return family.from_hf(given, strict)
    raise ConfigError(
        "config.json: model_type",
        got=quoted(kind),
        expected="one of " + ", ".join(family.model_type for family in FAMILIES.values()),
        mend="Other classes compute something else, even where their options look alike.",
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` reads back as the same configuration.

    Args:
        config: Of any family; `dtype` is not written, it belongs to the weights.

    Returns:
        JSON-able options; Hugging Face reads those of every family but `custom`.

    Raises:
        ConfigError: If the family cannot express the configuration.
    """
    family = family_of(config)
    given = {"architectures": [family.architecture], "model_type": family.model_type}
    given |= family.to_hf(config)
    back = dataclasses.asdict(family.from_hf(given, True))
    for name, value in dataclasses.asdict(config).items():
        if name != "dtype" and back[name] != value:
            raise ConfigError(
                f"{name} of a {config.family} model",
                got=repr(value),
                expected=repr(back[name]),
                mend='Use family="custom", which can express every configuration.',
            )
    return given
