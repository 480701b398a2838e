"""Does a model from a GGUF file agree with `transformers` reading the same file?

    pip install -e . torch==2.13.0 'transformers>=5,<6'
    python -m experiments.parity.gguf --model qwen2.5-coder-0.5b.gguf

Takes three minutes a file on two CPU cores, and 5 GB of memory for half a billion parameters; no
file is part of the project. Expected: every logit of ten prompts within 5e-3 in float32, one of the
prompts longer than Gemma 3's window, and the same ids for 4,461 texts, 400 of them full of the
file's own added tokens. Where llama-cpp-python is installed, its ids are compared as well.

`differences` lists the texts for which a peer gives other ids. Two kinds are known. transformers
rebuilds Gemma's merges and leaves its user-defined runs of spaces out, so a run longer than the
longest of them is cut in another way than by SentencePiece, llama.cpp and us. And a byte that a
byte-level vocabulary lacks is dropped before or after merging (see `parity.tokenizer`). Adds the
file to results/gguf_parity.json, by its name.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from gguf.constants import TokenType

from experiments.common.digests import sha256
from experiments.common.record import conditions, write
from experiments.common.script import Places, need, run
from experiments.parity import tokenizer as texts
from hagd_jax import models
from hagd_jax.errors import CheckpointError
from hagd_jax.models.gguf.source import GgufFile, open_gguf

TOLERANCE = 5e-3
PACKAGES = ("torch", "transformers", "tokenizers", "gguf")
LONG = "The old clock in the hall struck again, and nobody in the house had moved. "
# fmt: off
PROMPTS = [
    "The capital of France is",
    "When Mary and John went to the store, John gave a drink to",
    "The keys to the cabinet on the wall",
    "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n    return",
    "1, 2, 4, 8, 16, 32,",
    "Q: What is 17 + 25?\nA:",
    "Der schnelle braune Fuchs springt über den faulen",
    "日本の首都は",
    "\t\t<div class=\"a\">\n\t\t\t<p>😀 naïve café</p>\n",
    LONG * 40 + "Then the clock",
]
# fmt: on
# Positions of the long prompt that are compared: with all of them the logits alone take a gigabyte.
LAST, SHORT = 8, 256


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for comparing a GGUF file's model with `transformers`.

    Attributes:
        model: The GGUF file.
        logits: Whether to compare logits.
        ids: Whether to compare token ids; what is left out stays in the record as it was.
    """

    model: Path
    logits: bool = True
    ids: bool = True


def main(config: Config) -> None:
    """Compare ids and logits, record the differences, and exit with an error beyond the limits."""
    need("torch", "transformers", install="pip install torch==2.13.0 'transformers>=5,<6'")
    quiet()
    began, file = time.monotonic(), open_gguf(config.model)
    ours = file.tokenizer()
    if ours is None:
        raise CheckpointError(str(config.model), got="no tokenizer we support", expected="one")
    result = {"sha256": sha256(config.model), **about(file)}
    if config.ids:
        peers = {"transformers": transformers_ids(config.model)}
        if importlib.util.find_spec("llama_cpp") is not None:
            peers["llama.cpp"] = texts.peer_of(config.model)
        result |= compare_ids(ours, peers, every_text(file))
    if config.logits:
        ids = [ours.encode(prompt) for prompt in PROMPTS]
        result["logits"] = compare_logits(transformers_logits(config.model, ids), config.model, ids)
    told = conditions(time.monotonic() - began, PACKAGES)
    place = config.results / "gguf_parity.json"
    files = json.loads(place.read_text())["files"] if place.exists() else {}
    files[config.model.name] = {**files.get(config.model.name, {}), **told, **result}
    write(place, {"tolerance": TOLERANCE, "files": files})
    shown = {key: value for key, value in result.items() if key != "differences"}
    print(json.dumps(shown, indent=1))
    worst = max((row["largest"] for row in result.get("logits", [])), default=0.0)
    if not worst < TOLERANCE:
        sys.exit(f"logits differ by {worst}, allowed {TOLERANCE}")


def quiet() -> None:
    """Switch off transformers' progress bars."""
    import transformers  # pyright: ignore[reportMissingImports]

    transformers.utils.logging.disable_progress_bar()


def about(file: GgufFile) -> dict[str, Any]:
    """Return what the file holds: architecture, parameters and types of tensors."""
    kinds: dict[str, int] = {}
    for info in file.header.tensors.values():
        kinds[info.kind.name] = kinds.get(info.kind.name, 0) + 1
    count = sum(int(np.prod(info.shape)) for info in file.header.tensors.values())
    architecture = file.header.metadata["general.architecture"]
    return {"architecture": architecture, "numbers": count, "tensors": kinds}


def every_text(file: GgufFile) -> dict[str, list[str]]:
    """Return the texts of `parity.tokenizer`, and some with the file's own added tokens."""
    kinds = file.header.metadata["tokenizer.ggml.token_type"]
    tokens = file.header.metadata["tokenizer.ggml.tokens"]
    added = [
        token
        for token, kind in zip(tokens, kinds.tolist(), strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED) and "unused" not in token
    ]
    rng = random.Random(1)
    parts = [lambda: rng.choice(added), lambda: rng.choice(texts.ENGLISH)]
    between = ["", "", " ", "\n", "  ", "\t"]
    found = [
        "".join(rng.choice(parts)() + rng.choice(between) for _ in range(rng.randint(2, 12)))
        for _ in range(texts.PER_KIND)
    ]
    return {**texts.texts(), "added": found}


def compare_ids(
    ours: models.Tokenizer,
    peers: dict[str, Callable[[str], list[int]]],
    found: dict[str, list[str]],
) -> dict[str, Any]:
    """Return how many texts have the ids of each peer, and the texts that differ from one."""
    equal = {peer: dict.fromkeys(found, 0) for peer in peers}
    differences = []
    for kind, items in found.items():
        for text in items:
            mine = ours.encode(text, begin=False, end=False)
            others = {peer: encode(text) for peer, encode in peers.items()}
            for peer, ids in others.items():
                equal[peer][kind] += ids == mine
            wrong = {peer: str(ids) for peer, ids in others.items() if ids != mine}
            if wrong:
                differences.append({"text": text, "ours": str(mine), **wrong})
    total = sum(map(len, found.values()))
    return {
        "texts": total,
        "equal": {peer: sum(kinds.values()) for peer, kinds in equal.items()},
        "kinds": {peer: dict(kinds) for peer, kinds in equal.items()},
        "differences": differences,
    }


def transformers_ids(path: Path) -> Callable[[str], list[int]]:
    """Return transformers' tokenizer of a GGUF file, as a function from text to ids."""
    import transformers  # pyright: ignore[reportMissingImports]

    peer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return lambda text: peer(text, add_special_tokens=False).input_ids


def transformers_logits(path: Path, prompts: list[list[int]]) -> list[np.ndarray]:
    """Return transformers' logits of each prompt, of its last positions if it is long."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    found = []
    with torch.inference_mode():
        for ids in prompts:
            tokens = torch.tensor([ids])
            kept = model(tokens, use_cache=False, logits_to_keep=len(positions(ids)))
            found.append(kept.logits[0].numpy().copy())
    del model
    gc.collect()
    return found


def positions(ids: list[int]) -> list[int]:
    """Return the positions of a prompt whose logits are compared."""
    return list(range(len(ids)))[-LAST if len(ids) > SHORT else 0 :]


def compare_logits(
    theirs: list[np.ndarray], path: Path, prompts: list[list[int]]
) -> list[dict[str, Any]]:
    """Return the largest difference of each prompt's logits, and how far these spread."""
    model, rows = models.load(path, dtype=jnp.float32), []
    # One compilation for all that are short: no position sees the padding after it.
    width = max(len(ids) for ids in prompts if len(ids) <= SHORT)
    for ids, want in zip(prompts, theirs, strict=True):
        padded = ids + [0] * max(width - len(ids), 0)
        read = positions(ids)
        read += [0] * (width - len(read)) if len(ids) <= SHORT else []
        found = np.asarray(models.forward(model, [padded], read=[read]).logits)[0, : len(want)]
        rows.append(
            {
                "tokens": len(ids),
                "compared": len(found),
                "largest": float(np.abs(found.astype(np.float64) - want).max()),
                "spread": round(float(want.std()), 3),
                "same_top": bool((found.argmax(-1) == want.argmax(-1)).all()),
            }
        )
    return rows


if __name__ == "__main__":
    run(main, Config, __doc__)
