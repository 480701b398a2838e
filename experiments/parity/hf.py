"""Does this package agree with Hugging Face `transformers`, in both directions?

    pip install -e . torch==2.13.0 transformers==4.57.3
    python -m experiments.parity.hf [FOLDER_OF_CASES ...]

Takes two minutes on two CPU cores. Expected: every difference below 1e-4 in float32, of logits
with a spread of about 1. Writes results/hf_parity.json, one entry for each release of transformers
it ran with.

A case is a model folder with `expected.npz` (tokens, logits, hidden_states). The cases of
`parity/hf_goldens.py` under tests/ are always checked; further folders of cases can be named.
Each case has three differences, the largest over all entries:

- logits: our logits from the folder, against the expected ones;
- hidden: embedding, output of every block, and the last output after the final norm;
- saved: logits of transformers from the folder that `models.save` writes, against the same.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional

from experiments.common.record import conditions, write
from experiments.common.script import ROOT, Places, need, run
from experiments.parity import hf_cases
from hagd_jax import models
from hagd_jax.errors import InputError

TOLERANCE = 1e-4
INSTALL = "pip install torch==2.13.0 transformers==4.57.3"


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for comparing logits and hidden states with `transformers`.

    Attributes:
        folders: Further folders of cases.
        goldens: Folder of the cases that are always checked.
        read_back: Also compare the logits of transformers on folders that `models.save` writes.
    """

    folders: Positional[tuple[Path, ...]] = ()
    goldens: Path = ROOT / "tests" / "models" / "goldens" / "hf"
    read_back: bool = True


def main(config: Config) -> None:
    """Compare all cases, record the differences, and exit with an error beyond the tolerance."""
    if config.read_back:
        need("torch", "transformers", install=INSTALL)
    began, cases = time.monotonic(), {}
    groups = {"goldens": config.goldens} | {folder.name: folder for folder in config.folders}
    for group, folder in groups.items():
        for path in sorted(path.parent for path in folder.glob("*/expected.npz")):
            name = f"{group}/{path.name}"
            cases[name] = found = differences(path, config)
            print(f"{name:<34}" + "".join(f"{k} {v:>8.1e}  " for k, v in found.items()))
    worst = max(max(found.values()) for found in cases.values())
    print(f"{len(cases)} cases, largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    keep(config, cases, worst, time.monotonic() - began)
    if not worst < TOLERANCE:
        sys.exit("beyond the tolerance")


def differences(folder: Path, config: Config) -> dict[str, float]:
    """Return the two or three differences of one case."""
    model = models.load(folder, dtype=jnp.float32)
    with np.load(folder / "expected.npz") as file:
        tokens, logits, hidden = file["tokens"], file["logits"], file["hidden_states"]
    out = models.forward(model, tokens, capture=("embed", "resid_post", "normed_final"))
    blocks = np.asarray(out.trace["resid_post"])[:-1]
    ours = np.stack([out.trace["embed"], *blocks, out.trace["normed_final"]])
    found = {"logits": _largest(out.logits, logits), "hidden": _largest(ours, hidden)}
    if config.read_back:
        with tempfile.TemporaryDirectory() as scratch:
            saved = models.save(models.load(folder), Path(scratch) / "model")
            found["saved"] = _largest(read_back(saved, tokens), logits)
    return found


def read_back(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Return logits by transformers, computed in its plainest way."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    plain = hf_cases.eager(transformers.__version__)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **plain
    )
    wrong = {kind: names for kind, names in report.items() if names}
    if wrong:
        raise InputError(
            str(folder), got=wrong, expected="a folder that transformers reads cleanly"
        )
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(tokens).long(), use_cache=False).logits.numpy()


def _largest(ours: Any, theirs: np.ndarray) -> float:
    """Return the largest absolute difference; NaN stays NaN, and constant references raise."""
    if theirs.std() < 0.1:
        raise InputError("expected values", got="values that are all alike", expected="a spread")
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max())


def keep(config: Config, cases: dict[str, dict[str, float]], worst: float, seconds: float) -> None:
    """Add this run to the record, beside runs with other releases of transformers."""
    file, packages = config.results / "hf_parity.json", ("torch", "transformers")
    told = conditions(seconds, packages if config.read_back else ())
    runs = json.loads(file.read_text())["runs"] if file.exists() else {}
    release = told["versions"].get("transformers", "as recorded in the cases")
    runs[f"transformers {release}"] = {**told, "largest": worst, "cases": cases}
    write(file, {"tolerance": TOLERANCE, "runs": runs})


if __name__ == "__main__":
    run(main, Config, __doc__)
