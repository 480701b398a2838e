"""Transcoders to disk: a folder that circuit-tracer reads, and `load` as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import (
    SEAL,
    as_path,
    read_yaml,
    replacing,
    seal,
    write_file,
    write_safetensors,
)
from hagd_jax.models.safetensors_source import DTYPES
from hagd_jax.transcoders.formats import circuit_tracer, cross_layer, per_layer
from hagd_jax.transcoders.params import param_specs
from hagd_jax.transcoders.transcoder import Transcoder


def save(transcoder: Transcoder, folder: str | Path, *, model_name: str = "", of: str = "") -> Path:
    """Write a transcoder as circuit-tracer does; the host holds one block of a tensor at a time.

    What circuit-tracer has no place for is kept as well: see `formats.circuit_tracer`. A new folder
    appears at once and whole, and a failure leaves what was there before.

    Args:
        transcoder: Any.
        folder: Where to. Its parent is created; a transcoder that is there already is replaced.
        model_name: Of the model it is for, as the hub knows it.
        of: What decided it, for a run that keeps it; see `files.require_sealed`.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder holds something else, the disk is full, or some weights are
            missing, of another shape or dtype, or on another machine.

    Example:
        >>> import tempfile, jax
        >>> from hagd_jax import transcoders
        >>> config = transcoders.TranscoderConfig(n_layers=2, d_model=4, n_features=8, k=3)
        >>> made = transcoders.init(config, jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     transcoders.load(transcoders.save(made, scratch + "/tc")).config.k
        3
    """
    # A link is followed, rather than replaced; and the folder has a name, even if given as ".".
    require_is("transcoder", transcoder, Transcoder)
    require_is("model_name", model_name, str)
    folder = as_path(folder, "folder").resolve()
    config = transcoder.config
    params = {leaf: transcoder.params.get(leaf) for leaf in param_specs(config)}
    for leaf, spec in param_specs(config).items():
        _check(params[leaf], leaf, spec.shape)
    _require_replaceable(folder)
    kind = cross_layer if config.window else per_layer
    with replacing(folder) as draft:
        for name, tensors in kind.files(params, config):
            write_safetensors(draft / name, tensors)
        if head := circuit_tracer.prediction_tensors(params):
            write_safetensors(draft / circuit_tracer.PREDICTION, head)
        text = circuit_tracer.config_text(config, transcoder.name, model_name)
        write_file(draft / circuit_tracer.CONFIG, text)
        seal(draft, of)
    return folder


def _check(leaf: Any, name: str, want: tuple[int, ...]) -> None:
    """A parameter must be there, in the right shape, of a dtype that can be written, and here."""
    what = f"parameter {name}"
    if leaf is None or leaf.shape != want:
        got = "nothing" if leaf is None else f"shape {leaf.shape}"
        raise CheckpointError(what, got=got, expected=f"shape {want} by the transcoder's config")
    if np.dtype(leaf.dtype) not in DTYPES.values():
        raise CheckpointError(what, got=leaf.dtype, expected=f"one of {', '.join(DTYPES)}")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise CheckpointError(
            what,
            got="parts on other machines",
            expected="an array that this process can read",
            mend="Keep it with parallel.save, restore it in a single process, and save there.",
        )


def _require_replaceable(folder: Path) -> None:
    """Only an empty place may be written to, or one that holds a transcoder alone."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(str(folder), got="a file", expected="a folder or nothing")
    held = sorted(folder.iterdir())
    if held and not _is_ours(folder):
        raise CheckpointError(
            str(folder),
            got=f"{held[0].name} in it, and no config.yaml of a transcoder",
            expected="an empty folder, none, or a transcoder to replace",
            mend="Choose another folder.",
        )
    for path in held:
        if path.is_dir() or not (
            path.suffix == ".safetensors" or path.name in (circuit_tracer.CONFIG, SEAL)
        ):
            raise CheckpointError(
                str(folder),
                got=f"{path.name} in it, which is no part of a transcoder",
                expected="a transcoder to replace",
                mend="It would be removed: move it away, or choose another folder.",
            )


def _is_ours(folder: Path) -> bool:
    try:
        return "model_kind" in read_yaml(folder / circuit_tracer.CONFIG)
    except CheckpointError:
        return False
