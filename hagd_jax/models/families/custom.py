"""Our own format, for transformers that no other family describes.

`config.json` holds the fields of `DecoderConfig`; each parameter is one tensor, named by its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.families.options import Options, option, require_known
from hagd_jax.models.families.table import Weight

MODEL_TYPE = "hagd_custom"
ARCHITECTURE = "HagdDecoder"

_FIELDS = {field.name: field for field in dataclasses.fields(DecoderConfig)}
_NOT_WRITTEN = frozenset({"family", "dtype"})
_BESIDE = frozenset({"architectures", "model_type", "dtype", "torch_dtype"})
_LETTERS = {
    "layers": "l", "embed": "e", "heads": "h", "kv_heads": "k", "head_dim": "d",
    "mlp": "m", "experts": "x", "vocab": "v", "positions": "p",
}  # fmt: skip
_LISTS = frozenset({"factors", "short_factors"})
_LAYERS = ("window_layers", "dense_layers")
_KINDS = {"int": int, "float": float, "bool": bool}


def from_hf(given: Options, strict: bool = True) -> DecoderConfig:
    """Read a `config.json`.

    Args:
        given: The parsed file.
        strict: Refuse fields that do not exist.

    Returns:
        The configuration, computing in float32.

    Raises:
        ConfigError: Naming the field that is missing, of the wrong type, or unknown.
    """
    names = _FIELDS.keys() - _NOT_WRITTEN
    if strict:
        require_known(given, names | _BESIDE)
    values: dict[str, Any] = {}
    for name in sorted(names & given.keys()):
        if name != "rope_scaling" and name not in _LAYERS:
            values[name] = option(given, name, _KINDS.get(str(_FIELDS[name].type), str))
    for name in sorted(names):
        required = _FIELDS[name].default is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"config.json: {name}", got="nothing", expected="an int")
    values["rope_scaling"] = _scaling(option(given, "rope_scaling", dict, None))
    values |= {name: _numbers(given, name, int) for name in _LAYERS}
    return DecoderConfig(**values, family="custom")


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` reads."""
    values = {n: v for n, v in dataclasses.asdict(config).items() if n not in _NOT_WRITTEN}
    values |= {name: list(getattr(config, name)) for name in _LAYERS}
    if config.rope_scaling is not None:
        for name in _LISTS:
            values["rope_scaling"][name] = list(getattr(config.rope_scaling, name))
    return values


def table(specs: Mapping[str, Any]) -> tuple[Weight, ...]:
    """Map each parameter to one tensor: `blocks/attn/q/kernel` to `blocks.attn.q.kernel`."""
    return tuple(
        Weight(leaf, leaf.replace("/", "."), " ".join(_LETTERS[axis] for axis in spec.axes))
        for leaf, spec in specs.items()
    )


def _scaling(given: dict[str, Any] | None) -> RopeScaling | None:
    if given is None:
        return None
    kinds = {field.name: str(field.type) for field in dataclasses.fields(RopeScaling)}
    require_known(given, kinds.keys(), "config.json: rope_scaling")
    values: dict[str, Any] = {
        name: option(given, name, _KINDS.get(kinds[name], str))
        for name in (given.keys() & kinds.keys() | {"kind"}) - _LISTS
    }
    values |= {name: _numbers(given, name, float) for name in _LISTS}
    return RopeScaling(**values)


def _numbers(given: Options, name: str, kind: type) -> tuple[Any, ...]:
    # Numbered, so that an error names the entry.
    found = {f"{name}[{i}]": x for i, x in enumerate(option(given, name, list, []))}
    return tuple(option(found, key, kind) for key in found)
