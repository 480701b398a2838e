"""Do public transcoder folders give the same features and errors as in circuit-tracer?

    python -m experiments.parity.transcoder FOLDER
    pip install -e . torch==2.13.0 circuit-tracer==0.5.0     # for the second half

Takes about a minute on two CPU cores. Expected: every difference below 1e-5, of features and errors
as large as 4. Writes results/transcoder_parity.json.

FOLDER holds `<case>.npz` with circuit-tracer's results, and `files/<case>/` with the model and the
transcoder in their public formats. Differences are the largest over all entries:

- features: from `activation_values` for features that circuit-tracer found active, from zero for
  all others. In circuit-tracer, position 0, the beginning of the text, has no features.
- errors: MLP output minus reconstruction. In circuit-tracer, position 0 has no errors either.

If circuit-tracer is installed, its own loaders also read what `transcoders.save` writes, and its
outputs are compared with ours; TopK is left out, since circuit-tracer runs ReLU instead.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, transcoders
from hagd_jax.errors import InputError
from hagd_jax.transcoders import Transcoder, TranscoderConfig

TOLERANCE = 1e-5
SHAPE: dict[str, Any] = {"n_layers": 5, "d_model": 16, "n_features": 48}
# Transcoders that circuit-tracer reads: name → changes to the default configuration.
WRITTEN: dict[str, dict[str, Any]] = {
    "per-layer ReLU": {"activation": "relu"},
    "per-layer JumpReLU, skip": {"activation": "jump_relu", "skip": True},
    "cross-layer JumpReLU": {"activation": "jump_relu", "window": 4, "reads": "resid_mid"},
    "windowed ReLU": {"activation": "relu", "window": 2, "reads": "resid_mid"},
    "windowed, prediction head": {"activation": "relu", "window": 1, "predict": True},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Places):
    """Config holds the settings for comparing features and errors with circuit-tracer's.

    Attributes:
        folder: Folder of reference cases.
    """

    folder: Positional[Path]


def main(config: Config) -> None:
    """Compare all cases, and our own folders if circuit-tracer is installed to read them."""
    began, folder = time.monotonic(), config.folder
    rows = [compare(folder, path.stem) for path in sorted(folder.glob("*.npz"))]
    if not rows:
        raise InputError(str(folder), got="no case", expected="files CASE.npz")
    more: dict[str, Any] = {}
    packages: tuple[str, ...] = ()
    if importlib.util.find_spec("circuit_tracer"):
        more["read_by_circuit_tracer"] = [read_back(name, **o) for name, o in WRITTEN.items()]
        packages = ("torch", "circuit-tracer")
        print(json.dumps(more, indent=1))
    found = [row[key] for row in rows for key in ("features", "errors")]
    found += [row["difference"] for row in more.get("read_by_circuit_tracer", ())]
    record(
        config.results / "transcoder_parity.json", rows, seconds=time.monotonic() - began,
        packages=packages, tolerance=TOLERANCE, largest=max(found), **more,
    )  # fmt: skip
    if not max(found) < TOLERANCE:
        sys.exit("beyond the tolerance")


def compare(folder: Path, case: str) -> dict[str, Any]:
    """Return the differences of one reference case."""
    files = folder / "files" / case
    with np.load(folder / f"{case}.npz") as file:
        tokens, active, values = (
            file[name] for name in ("prompt_tokens", "active_features", "activation_values")
        )
        errors = file["error_vectors"]
    model = models.load(files / "hf_model", dtype=jnp.float32)
    transcoder = transcoders.load(files / "transcoder", model=model)
    site = transcoder.config.reads
    trace = models.forward(model, tokens[None], capture=(site, "mlp_out")).trace
    x, written = trace[site][:, 0], trace["mlp_out"][:, 0]
    found = transcoders.encode(transcoder, x).at[:, 0].set(0)
    expected = np.zeros(found.shape, np.float32)
    expected[tuple(active.T)] = values
    missed = written - transcoders.decode(transcoder, found, x)
    return {
        "case": case,
        "active": len(active),
        "largest_feature": float(values.max()),
        "features": _largest(found, expected),
        "errors": _largest(missed[:, 1:], errors[:, 1:]),
    }


def read_back(name: str, **options: Any) -> dict[str, Any]:
    """Save a random transcoder, and compare circuit-tracer's outputs from it with ours."""
    import torch  # pyright: ignore[reportMissingImports]

    config = TranscoderConfig(**SHAPE | options)
    transcoder = randomised(config)
    x = np.asarray(jax.random.normal(jax.random.key(1), (5, 32, 16)))
    ours = transcoders.encode(transcoder, jnp.asarray(x))
    outputs = transcoders.decode(transcoder, ours, jnp.asarray(x))
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        theirs = load_there(transcoders.save(transcoder, Path(scratch) / "written"))
        inputs = torch.tensor(x)
        features = theirs.encode(inputs)
        there = theirs.decode(features, inputs)
        difference = max(_largest(ours, features.numpy()), _largest(outputs, there.numpy()))
    return {"case": name, "difference": difference}


def load_there(folder: Path) -> Any:
    """Load a folder with circuit-tracer, as if it were in its cache."""
    import torch  # pyright: ignore[reportMissingImports]
    from circuit_tracer.utils.caching import (  # pyright: ignore[reportMissingImports]
        load_transcoders_from_cache,
    )

    options = {"lazy_encoder": False, "lazy_decoder": False, "dtype": torch.float32}
    where = {"cache_dir": str(folder.parent), "device": torch.device("cpu")}
    return load_transcoders_from_cache(folder.name, **where, **options)[0]


def randomised(config: TranscoderConfig) -> Transcoder:
    """Return a transcoder whose parameters are all random."""
    params = {
        name: 0.3 * jax.random.normal(jax.random.fold_in(jax.random.key(0), i), spec.shape)
        for i, (name, spec) in enumerate(transcoders.param_specs(config).items())
    }
    return Transcoder(params, config)


def _largest(ours: Any, theirs: np.ndarray) -> float:
    """Return the largest absolute difference; NaN stays NaN, and constant references raise."""
    if theirs.std() < 1e-2:
        raise InputError("expected values", got="values that are all alike", expected="a spread")
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max())


if __name__ == "__main__":
    run(main, Config, __doc__)
