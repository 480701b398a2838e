"""Does this package compute what Hugging Face `transformers` computes, and read what it writes?

    pip install -e . torch==2.13.0 transformers==4.57.3
    python -m experiments.parity.hf [FOLDER_OF_CASES ...]

Takes about a minute on two CPU cores. Expected: every difference below 1e-4 in float32, of logits
with a spread of about 1. Writes results/hf_parity.json, one entry for each release of transformers
it ran with.

A case is a model folder with `expected.npz` (tokens, logits, hidden_states). The ones of
`parity/hf_goldens.py` under tests/ are always checked; further folders of cases may be named.
Three differences each, the largest over all entries:

- logits: ours from the folder, against the expected ones;
- hidden: embedding, output of every block, and the last one after the final norm;
- saved: what transformers computes from the folder that `models.save` writes, against the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from experiments.common.record import RESULTS, conditions, write
from hagd_jax import models

GOLDENS = Path(__file__).parents[2] / "tests" / "models" / "goldens" / "hf"
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="more folders of cases")
    began = time.monotonic()
    groups = {"goldens": GOLDENS} | {folder.name: folder for folder in parser.parse_args().folders}
    print(f"{'case':<34}{'logits':>11}{'hidden':>11}{'saved':>11}")
    cases = {}
    for group, folder in groups.items():
        for path in sorted(path.parent for path in folder.glob("*/expected.npz")):
            name = f"{group}/{path.name}"
            cases[name] = found = differences(path)
            print(f"{name:<34}" + "".join(f"{value:>11.1e}" for value in found.values()))
    worst = max(max(found.values()) for found in cases.values())
    print(f"{len(cases)} cases, largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    keep(cases, worst, time.monotonic() - began)
    if not worst < TOLERANCE:
        raise SystemExit("beyond the tolerance")


def differences(folder: Path) -> dict[str, float]:
    """The three differences of one case."""
    model = models.load(folder, dtype=jnp.float32)
    with np.load(folder / "expected.npz") as file:
        tokens, logits, hidden = file["tokens"], file["logits"], file["hidden_states"]
    out = models.forward(model, tokens, capture=("embed", "resid_post", "normed_final"))
    blocks = np.asarray(out.trace["resid_post"])[:-1]
    ours = np.stack([out.trace["embed"], *blocks, out.trace["normed_final"]])
    with tempfile.TemporaryDirectory() as scratch:
        saved = models.save(models.load(folder), Path(scratch) / "model")
        theirs = read_back(saved, tokens)
    return {
        "logits": _largest(out.logits, logits),
        "hidden": _largest(ours, hidden),
        "saved": _largest(theirs, logits),
    }


def read_back(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits by transformers; eager attention, for the fused one leaves out two GPT-2 options."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: names for kind, names in report.items() if names}
    if wrong:
        raise SystemExit(f"transformers did not read the folder cleanly: {wrong}")
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(tokens).long(), use_cache=False).logits.numpy()


def _largest(ours: object, theirs: np.ndarray) -> float:
    """Largest absolute difference; NaN stays NaN, and a constant reference is no reference."""
    if theirs.std() < 0.1:
        raise SystemExit("the expected values are all alike")
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max())


def keep(cases: dict[str, dict[str, float]], worst: float, seconds: float) -> None:
    """Write this run beside those with other releases of transformers."""
    file = RESULTS / "hf_parity.json"
    runs = json.loads(file.read_text())["runs"] if file.exists() else {}
    runs[f"transformers {transformers.__version__}"] = {
        **conditions(seconds, ("torch", "transformers")),
        "largest": worst,
        "cases": cases,
    }
    write("hf_parity", {"tolerance": TOLERANCE, "runs": runs})


if __name__ == "__main__":
    main()
