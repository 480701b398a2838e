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

from hagd_jax.brief import one_line, quoted
from hagd_jax.errors import ConfigError
from hagd_jax.files import Tensor, checked, read_yaml, whole_tensor
from hagd_jax.transcoders.config import Activation, TranscoderConfig, Writes
from hagd_jax.transcoders.formats import hooks
from hagd_jax.transcoders.formats.finding import gather, open_files
from hagd_jax.transcoders.formats.options import ANY, Allowed, Size, Text, require_known
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
    "repo_id": ANY, "revision": ANY, "subfolder": ANY, "scan_name": ANY,
    "feature_output_hook": ANY, "activation": ANY, "k": ANY, "predict": (None, False, True),
}  # fmt: skip
_FIELDS_OF: dict[str, Allowed] = {
    PER_LAYER: _FIELDS | {"transcoders": ANY, "window": (None, 0)},
    # A list of files are those of Gemma Scope 2.
    CROSS_LAYER: _FIELDS | {"transcoders": ANY, "window": ANY},
    CROSS_LAYER_SKIP: _FIELDS | {"transcoders": (None,), "window": ANY},
}
_HOOKS = {"mlp_in": "mlp.hook_in", "resid_mid": "hook_resid_mid"}


@dataclasses.dataclass(frozen=True)
class Written:
    """Types and ranges of the fields of `config.yaml`, see `_FIELDS`."""

    model_kind: Text
    feature_input_hook: Text
    feature_output_hook: Text
    model_name: Text | list[Text] | None = None
    scan: Text | list[Text] | None = None
    scan_name: Text | list[Text] | None = None
    repo_id: Text | None = None
    revision: Text | None = None
    subfolder: Text | None = None
    activation: Text | None = None
    k: Size | None = None
    window: Size | None = None
    predict: bool | None = None
    transcoders: list[Text] | None = None


@dataclasses.dataclass(frozen=True)
class Given:
    """A `config.yaml` gives these values.

    Attributes:
        folder: Where it lies.
        kind: Its `model_kind`.
        values: All of it.
        reading: What features read.
        writes: What is reconstructed.
    """

    folder: Path
    kind: str
    values: dict[str, Any]
    reading: hooks.Reading
    writes: Writes

    __repr__ = one_line

    @property
    def model_name(self) -> str:
        """Return the model that the folder says it is for; empty if it says none, or several."""
        name = self.values.get("model_name")
        return name if isinstance(name, str) else ""

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
                got=quoted(name),
                expected=f"one of {', '.join(_ACTIVATIONS)}",
            )
        return {
            "activation": activation,
            "k": 0 if self.values.get("k") is None else self.values["k"],
            "reads": self.reading.site,
            "writes": self.writes,
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
            f"{path}: model_kind", got=quoted(kind), expected=" or ".join(map(repr, _FIELDS_OF))
        )
    require_known(values, _FIELDS_OF[kind], str(path))
    checked(Written, values, str(path), error=ConfigError)
    writes = hooks.writing(values.get("feature_output_hook"), f"{path}: feature_output_hook")
    read = hooks.reading(values.get("feature_input_hook"), f"{path}: feature_input_hook")
    return Given(folder, kind, values, read, writes)


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
    values: dict[str, Any] = {
        "model_kind": kind,
        "model_name": model_name,
        "scan": name,
        "feature_input_hook": _HOOKS[config.reads],
        "feature_output_hook": hooks.OUT[config.writes],
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
