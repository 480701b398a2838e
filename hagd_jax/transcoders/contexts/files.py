"""The folder that top activating contexts are kept in.

- `contexts.json`: which model, transcoder and layers; written last, so what has it is whole;
- `text.safetensors`: the held-out text, and of every feature how often and how strongly it fires;
- `layer_{i}.safetensors`: where in the text the features of layer i fire most.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import (
    as_path,
    read_arrays,
    replacing,
    save_arrays,
    with_digest,
    without_digest,
    write_file,
)
from hagd_jax.parallel import is_main
from hagd_jax.transcoders.contexts.context import Contexts, LayerContexts
from hagd_jax.transcoders.measures.effects import LogitEffects

FORMAT = 1
_BROKEN = (OSError, ValueError, KeyError, TypeError, RecursionError)
_NAMES = ("model", "transcoder", "digest")
_OURS = ("contexts.json", "text.safetensors", "layer_*.safetensors")
_TEXT = ("tokens", "weight", "fired", "largest")


def save_contexts(contexts: Contexts, folder: str | Path) -> None:
    """Write contexts to a folder of JSON and safetensors.

    Args:
        contexts: What to write.
        folder: Made if absent; contexts saved there before are replaced, once the new are whole.

    Raises:
        CheckpointError: If it cannot be written, or holds something else.
    """
    if not is_main():
        return
    require_is("contexts", contexts, Contexts)
    # A link is followed, rather than replaced.
    folder = as_path(folder, "folder").resolve()
    _require_replaceable(folder)
    record = {name: getattr(contexts, name) for name in (*_NAMES, "window")}
    record = {"format": FORMAT, **record, "layers": sorted(contexts.layers)}
    with replacing(folder) as draft:
        save_arrays(draft / "text.safetensors", {name: getattr(contexts, name) for name in _TEXT})
        for layer, found in contexts.layers.items():
            save_arrays(draft / f"layer_{layer}.safetensors", _tensors(found))
        write_file(draft / "contexts.json", json.dumps(with_digest(record), indent=1) + "\n")


def _require_replaceable(folder: Path) -> None:
    """Only an empty place may be written to, or one that holds contexts alone."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(str(folder), got="a file", expected="a folder or nothing")
    for path in sorted(folder.iterdir()):
        if path.is_dir() or not any(path.match(pattern) for pattern in _OURS):
            raise CheckpointError(
                str(folder),
                got=f"{path.name} in it, which is no part of contexts",
                expected="an empty folder, none, or contexts to replace",
                mend="It would be removed: move it away, or choose another folder.",
            )


def load_contexts(folder: str | Path) -> Contexts:
    """Read contexts that `save_contexts` wrote; layers are read on demand.

    Args:
        folder: The folder.

    Returns:
        The contexts.

    Raises:
        CheckpointError: If something is absent, broken, or of another format; for a layer's file,
            when that layer is asked for.
    """
    folder = as_path(folder, "folder")
    try:
        file = folder / "contexts.json"
        record = without_digest(file, json.loads(file.read_text(encoding="utf-8")))
        if record["format"] != FORMAT:
            raise ValueError("another format version")
        before, after = map(operator.index, record["window"])
        text, _ = read_arrays(folder / "text.safetensors")
        found = Contexts(
            model=str(record["model"]),
            transcoder=str(record["transcoder"]),
            digest=str(record["digest"]),
            window=(before, after),
            **{name: text[name] for name in _TEXT},
            layers=_Stored(folder, record["layers"], text, before + after + 1),
        )
        _check_text(found)
    except _BROKEN as error:
        raise _broken(folder, error) from error
    return found


class _Stored(Mapping[int, LayerContexts]):
    """Layers in their files; the last one read is kept."""

    def __init__(self, folder: Path, layers: list[int], text: dict[str, np.ndarray], width: int):
        self._folder = folder
        self._layers = tuple(map(operator.index, layers))
        self._text, self._width = text, width
        self._last: tuple[int, LayerContexts] | None = None

    def __getitem__(self, layer: int) -> LayerContexts:
        if layer not in self._layers:
            raise KeyError(layer)
        if self._last is None or self._last[0] != layer:
            file = self._folder / f"layer_{layer}.safetensors"
            try:
                found = _layer(read_arrays(file)[0])
                _check_layer(found, self._text, self._width)
            except _BROKEN as error:
                raise _broken(file, error) from error
            self._last = layer, found
        return self._last[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def _tensors(found: LayerContexts) -> dict[str, np.ndarray]:
    names = ("features", "value", "row", "position", "nearby")
    tensors = {name: getattr(found, name) for name in names}
    if found.effects is not None:
        tensors |= {f"effects.{name}": x for name, x in found.effects._asdict().items()}
    return tensors


def _layer(tensors: dict[str, np.ndarray]) -> LayerContexts:
    effects = [tensors.pop(f"effects.{name}", None) for name in LogitEffects._fields]
    return LayerContexts(
        **tensors,
        effects=None if effects[0] is None else LogitEffects(*effects),  # type: ignore[arg-type]
    )


def _check_text(found: Contexts) -> None:
    """Shapes that fit each other, so that nothing fails later."""
    text = found.tokens.ndim, found.tokens.shape
    features = found.fired.ndim, found.fired.shape
    if text != (2, found.weight.shape) or features != (2, found.largest.shape):
        raise ValueError("text.safetensors holds arrays of other shapes")


def _check_layer(found: LayerContexts, text: dict[str, np.ndarray], width: int) -> None:
    (count, kept), (rows, length) = found.value.shape, text["tokens"].shape
    shapes = [found.features.shape, found.row.shape, found.position.shape, found.nearby.shape]
    if shapes != [(count,), (count, kept), (count, kept), (count, kept, width)]:
        raise ValueError(f"arrays of other shapes: {shapes}")
    limits = (found.features, text["fired"].shape[1]), (found.row, rows), (found.position, length)
    for values, limit in limits:
        if values.size and not -1 <= values.min() <= values.max() < limit:
            raise ValueError(f"an index outside its {limit} entries")
    for effect in found.effects or ():
        if effect.ndim != 2 or effect.shape != (count, found.effects.tokens.shape[1]):  # type: ignore[union-attr]
            raise ValueError("logit effects of other shapes")


def _broken(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        str(path),
        got=f"{type(error).__name__}: {error}",
        expected=f"contexts written by this package, format {FORMAT}",
        mend="Find the contexts again.",
    )
