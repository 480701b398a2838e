"""The folder that top activating contexts are kept in.

- `contexts.json`: which model, transcoder and layers; written last, so what has it is whole;
- `text.safetensors`: the held-out text, and of every feature how often and how strongly it fires;
- `layer_{i}.safetensors`: where in the text the features of layer i fire most.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from hagd_jax.errors import CheckpointError, DamagedError, require_is
from hagd_jax.files import (
    arrays_digest,
    as_path,
    checked,
    read_arrays,
    read_json_object,
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
_BROKEN = (ValueError, KeyError, TypeError)
Name = Annotated[str, Meta(max_length=1000)]
Window = Annotated[int, Meta(ge=0, le=2**16)]
_NAMES = ("model", "transcoder", "digest")
_OURS = ("contexts.json", "text.safetensors", "layer_*.safetensors")
_TEXT = ("tokens", "weight", "fired", "largest")


@dataclasses.dataclass(frozen=True)
class Written:
    """What `contexts.json` says, see `Contexts`."""

    format: Literal[1]
    model: Name
    transcoder: Name
    digest: Name
    window: tuple[Window, Window]
    layers: tuple[Annotated[int, Meta(ge=0, le=2**14)], ...]


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
        text = {name: np.asarray(getattr(contexts, name)) for name in _TEXT}
        parts = {"text": text} | {
            f"layer_{layer}": _tensors(found) for layer, found in contexts.layers.items()
        }
        of = _of(record, text)
        for part, arrays in parts.items():
            save_arrays(draft / f"{part}.safetensors", arrays, {"of": f"{part} {of}"})
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
    file = folder / "contexts.json"
    try:
        about = checked(Written, without_digest(file, read_json_object(file)), str(file))
    except DamagedError:
        raise
    except CheckpointError as error:
        raise CheckpointError(str(error), mend="Find the contexts again.") from error
    if len(set(about.layers)) < len(about.layers):
        raise CheckpointError(f"{folder}: layers", got="a layer twice", expected="each once")
    text, told = read_arrays(folder / "text.safetensors")
    of = _of(dataclasses.asdict(about), text)
    try:
        _check_text(text)
    except _BROKEN as error:
        raise _broken(folder / "text.safetensors", error) from error
    _require_part(folder / "text.safetensors", told, of)
    return Contexts(
        model=about.model,
        transcoder=about.transcoder,
        digest=about.digest,
        window=about.window,
        **{name: text[name] for name in _TEXT},
        layers=_Stored(folder, about.layers, text, sum(about.window) + 1, of),
    )


class _Stored(Mapping[int, LayerContexts]):
    """Layers in their files; the last one read is kept."""

    def __init__(
        self,
        folder: Path,
        layers: tuple[int, ...],
        text: dict[str, np.ndarray],
        width: int,
        of: str,
    ):
        self._folder, self._of = folder, of
        self._layers = layers
        self._text, self._width = text, width
        self._last: tuple[int, LayerContexts] | None = None

    def __getitem__(self, layer: int) -> LayerContexts:
        if layer not in self._layers:
            raise KeyError(layer)
        if self._last is None or self._last[0] != layer:
            file = self._folder / f"layer_{layer}.safetensors"
            arrays, told = read_arrays(file)
            _require_part(file, told, self._of)
            try:
                found = _layer(arrays)
                _check_layer(found, self._text, self._width)
            except _BROKEN as error:
                raise _broken(file, error) from error
            self._last = layer, found
        return self._last[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def _of(record: Mapping[str, Any], text: Mapping[str, np.ndarray]) -> str:
    """Digest of what all files of a folder belong to; each says which part of that it is."""
    return arrays_digest(text, {"record": json.dumps(record, sort_keys=True)})


def _require_part(file: Path, told: Mapping[str, str], of: str) -> None:
    """Refuse a file that belongs to other contexts, or is another part of these."""
    if told.get("of", f"{file.stem} {of}") != f"{file.stem} {of}":
        raise DamagedError(
            str(file), got="a part of other contexts", expected="one that belongs there",
            mend="Find the contexts again.",
        )  # fmt: skip


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


def _check_text(text: dict[str, np.ndarray]) -> None:
    """Shapes that fit each other and numbers that can be, so that nothing fails later."""
    tokens, weight, fired, largest = (text[name] for name in _TEXT)
    if not tokens.ndim == fired.ndim == 2 or (tokens.shape, fired.shape) != (
        weight.shape,
        largest.shape,
    ):
        raise ValueError("arrays of other shapes")
    if tokens.dtype.kind not in "iu" or (tokens.size and tokens.min() < 0):
        raise ValueError("tokens that are no ids")
    _require_finite(weight, fired, largest)


def _require_finite(*arrays: np.ndarray) -> None:
    for array in arrays:
        if not np.isfinite(array.astype(np.float64)).all():
            raise ValueError("numbers that are not finite")


def _check_layer(found: LayerContexts, text: dict[str, np.ndarray], width: int) -> None:
    (count, kept), (rows, length) = found.value.shape, text["tokens"].shape
    shapes = [found.features.shape, found.row.shape, found.position.shape, found.nearby.shape]
    if shapes != [(count,), (count, kept), (count, kept), (count, kept, width)]:
        raise ValueError(f"arrays of other shapes: {shapes}")
    limits = (found.features, text["fired"].shape[1]), (found.row, rows), (found.position, length)
    _require_finite(found.value, found.nearby)
    for values, limit in limits:
        if values.dtype.kind not in "iu":
            raise ValueError("indices that are no integers")
        if values.size and not -1 <= values.min() <= values.max() < limit:
            raise ValueError(f"an index outside its {limit} entries")
    for effect in found.effects or ():
        if effect.ndim != 2 or effect.shape != (count, found.effects.tokens.shape[1]):  # type: ignore[union-attr]
            raise ValueError("logit effects of other shapes")
        _require_finite(effect)


def _broken(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        str(path),
        got=f"{type(error).__name__}: {error}",
        expected=f"contexts written by this package, format {FORMAT}",
        mend="Find the contexts again.",
    )
