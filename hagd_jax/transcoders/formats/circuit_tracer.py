"""What circuit-tracer's two kinds of folders share: `config.yaml`, and our additions to them.

circuit-tracer reads `model_kind`, `model_name`, `scan` and the two hooks, and takes ReLU or
JumpReLU by whether there are thresholds. We also write, and read, `activation` with `k`, `window`
and `predict`; it passes over those, so that it runs TopK as ReLU. A skip connection across layers,
which it would leave out without a word, is written under a `model_kind` that it refuses. The
prediction head has a file of its own, which it does not look at.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import Tensor, whole_tensor
from hagd_jax.transcoders.config import Activation, TranscoderConfig
from hagd_jax.transcoders.formats import hooks
from hagd_jax.transcoders.formats.finding import gather, open_files
from hagd_jax.transcoders.formats.options import ANY, Allowed, clipped, require_known
from hagd_jax.transcoders.formats.stored import View

CONFIG = "config.yaml"
PER_LAYER = "transcoder_set"
CROSS_LAYER = "cross_layer_transcoder"
# Its cross-layer loader would leave the skip connection out.
CROSS_LAYER_SKIP = "cross_layer_skip_transcoder"
PREDICTION = "prediction.safetensors"

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu", "jump_relu": "jump_relu", "jumprelu": "jump_relu", "topk": "topk",
    "batch_topk": "batch_topk", "batchtopk": "batch_topk",
}  # fmt: skip
# `config.yaml` may hold these fields, by its `model_kind`; circuit-tracer itself adds the second
# line of them to what it has read.
_FIELDS: Allowed = {
    "model_kind": ANY, "model_name": ANY, "scan": ANY, "feature_input_hook": ANY,
    "repo_id": ANY, "revision": ANY, "subfolder": ANY,
    "feature_output_hook": ANY, "activation": ANY, "k": ANY, "predict": (None, False, True),
}  # fmt: skip
_FIELDS_OF: dict[str, Allowed] = {
    PER_LAYER: _FIELDS | {"transcoders": ANY, "window": (None, 0)},
    # A list of files would be those of another layout, which is not read.
    CROSS_LAYER: _FIELDS | {"transcoders": (None,), "window": ANY},
    CROSS_LAYER_SKIP: _FIELDS | {"transcoders": (None,), "window": ANY},
}
# A mapping of scalars and lists of strings.
_DEEPEST = 3
_HOOKS = {
    "mlp_in": ("mlp.hook_in", "mlp.hook_out"),
    "resid_mid": ("hook_resid_mid", "hook_mlp_out"),
}


@dataclasses.dataclass(frozen=True)
class Given:
    """A `config.yaml` gives these values.

    Attributes:
        folder: Where it lies.
        kind: Its `model_kind`.
        values: All of it.
        reading: What features read.
    """

    folder: Path
    kind: str
    values: dict[str, Any]
    reading: hooks.Reading

    __repr__ = one_line

    def fields(self, thresholds: bool) -> dict[str, Any]:
        """Return the fields of `TranscoderConfig` that do not follow from the tensors' shapes.

        Args:
            thresholds: Whether the folder has thresholds.

        Raises:
            ConfigError: If the activation function is unknown.
        """
        name = self.values.get("activation")
        if name is None:
            name = "jump_relu" if thresholds else "relu"
        activation = _ACTIVATIONS.get(str(name).lower())
        if activation is None:
            raise ConfigError(
                f"{self.folder / CONFIG}: activation",
                got=clipped(name),
                expected=f"one of {', '.join(_ACTIVATIONS)}",
            )
        return {
            "activation": activation,
            "k": 0 if self.values.get("k") is None else self.values["k"],
            "reads": self.reading.site,
            "predict": bool(self.values.get("predict")),
        }


def read_config(folder: Path) -> Given:
    """Read `config.yaml`.

    Args:
        folder: That holds it.

    Returns:
        What it says.

    Raises:
        CheckpointError: If it cannot be read.
        ConfigError: If the kind, a hook or a field is not supported.
    """
    path = folder / CONFIG
    values = read_yaml(path)
    kind = values.get("model_kind")
    if not isinstance(kind, str) or kind not in _FIELDS_OF:
        raise ConfigError(
            f"{path}: model_kind", got=clipped(kind), expected=" or ".join(map(repr, _FIELDS_OF))
        )
    require_known(values, _FIELDS_OF[kind], str(path))
    written = values.get("feature_output_hook")
    hooks.require_output(written, values.get("model_name"), f"{path}: feature_output_hook")
    read = hooks.reading(values.get("feature_input_hook"), f"{path}: feature_input_hook")
    return Given(folder, kind, values, read)


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read a small YAML file that holds a mapping.

    Anchors are refused, and so is deep nesting: a few hundred bytes of either can take all of the
    memory, or of the stack.

    Args:
        path: The file.

    Returns:
        The mapping.

    Raises:
        CheckpointError: If it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                raise ValueError("an anchor that is referred to, or deep nesting")
        values = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(str(path), got=reason, expected="a YAML file") from error
    if not isinstance(values, dict):
        raise CheckpointError(str(path), got=type(values).__name__, expected="a YAML mapping")
    return values


def config_text(config: TranscoderConfig, name: str, model_name: str) -> str:
    """Write the content of `config.yaml`.

    There is no list of files: circuit-tracer looks up the names in one, unless they are addresses
    on a hub, from the folder it was started in.

    Args:
        config: The transcoder.
        name: Of the transcoder.
        model_name: Of the model it is for.

    Returns:
        YAML.
    """
    kind = PER_LAYER if not config.window else CROSS_LAYER_SKIP if config.skip else CROSS_LAYER
    read, written = _HOOKS[config.reads]
    values: dict[str, Any] = {
        "model_kind": kind,
        "model_name": model_name,
        "scan": name,
        "feature_input_hook": read,
        "feature_output_hook": written,
        "activation": config.activation,
    }
    if config.k:
        values["k"] = config.k
    if config.window:
        values["window"] = config.window
    if config.predict:
        values["predict"] = True
    return yaml.safe_dump(values, sort_keys=False)


def prediction_views(folder: Path, layers: int) -> dict[str, View]:
    """Locate the tensors of the prediction head.

    Args:
        folder: Of the transcoder.
        layers: Of the transcoder.

    Returns:
        Name → view, of `W_pred` and `b_pred`.

    Raises:
        CheckpointError: If a tensor is missing.
    """
    (source,) = open_files([folder / PREDICTION])
    names = {leaf: f"{leaf}_{{layer}}" for leaf in ("W_pred", "b_pred")}
    return gather([source] * (layers - 1), names)


def layer_tensor(name: str, leaf: Any, layer: int) -> Tensor:
    """Return one layer of a stacked parameter, as a tensor written in a single block.

    Args:
        name: In the file.
        leaf: (L, ...) the parameter.
        layer: Which one.

    Returns:
        The tensor.
    """
    return whole_tensor(name, leaf.shape[1:], leaf.dtype, lambda: np.asarray(leaf[layer]))


def prediction_tensors(params: dict[str, Any]) -> list[Tensor]:
    """Return the tensors of the prediction head's file; none if there is no head."""
    if "W_pred" not in params:
        return []
    return [
        layer_tensor(f"{leaf}_{layer}", params[leaf], layer)
        for layer in range(params["W_pred"].shape[0])
        for leaf in ("W_pred", "b_pred")
    ]
