"""Train transcoders with EleutherAI's `sparsify`, in blocks of steps that start on request.

`speed/transcoder.py` starts this script with a Python that has torch, transformers and
eai-sparsify; it is not meant to be run by hand. The trainer and its loop, `Trainer.fit`, are as
released. The loop asks its data set for every batch; before each block, the data set waits for a
word on standard input, and answers with a line of JSON on standard output, among sparsify's output:

- `go`: run the next block of steps; the answer has the `seconds` of each step;
- `deliver`: write the trained weights to peer.safetensors; the answer has their `fvu`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Answer = dict[str, Any]


def main(argv: Sequence[str]) -> None:
    """Train, and pause between blocks of steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with model/, train.npy and held_out.npy")
    parser.add_argument("settings", type=json.loads, help="JSON: see `Settings`")
    args = parser.parse_args(argv)
    needs("torch", "transformers", "sparsify")
    run(args.folder, Settings(**args.settings))


def needs(*packages: str) -> None:
    """Raise an error if a package is not installed.

    The Python that runs this script need not have any other file of this repository.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        from hagd_jax.errors import MissingDependencyError

        raise MissingDependencyError(
            "sparsify's side", got=f"no {', '.join(missing)}",
            expected=f"a Python that has {', '.join(packages)}",
            mend="The top of speed/transcoder.py says how to make one.",
        )  # fmt: skip


class Settings(NamedTuple):
    """Settings holds the settings of a training with sparsify.

    Attributes:
        batch: Sequences per step.
        block: Steps between two pauses.
        features: Features per layer.
        k: Active features per token.
        optimizer: Name of the optimizer in sparsify.
        rate: Learning rate; Adam warms up over a twentieth of the steps. None leaves both at their
            defaults; Adam's default warm-up is 1000 steps.
        parts: Number of parts into which the activations of a step are cut (`micro_acc_steps`).
        narrow: Whether transcoders run under autocast to bfloat16, as they do on GPUs.
        exclude: Token ids that are excluded from the loss.
        threads: Number of torch threads.
    """

    batch: int
    block: int
    features: int
    k: int
    optimizer: str
    rate: float | None
    parts: int
    narrow: bool
    exclude: list[int]
    threads: int


def run(folder: Path, settings: Settings) -> None:
    """Train on all of `folder`/train.npy."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # Triton is for GPUs
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    from sparsify import (  # pyright: ignore[reportMissingImports]
        SparseCoder,
        TrainConfig,
        TranscoderConfig,
    )

    torch.set_num_threads(settings.threads)
    if settings.narrow:
        SparseCoder.forward = torch.autocast("cpu", dtype=torch.bfloat16)(SparseCoder.forward)
    # As the command `sparsify` loads it: this loss needs no logits, so there is no head.
    model = transformers.AutoModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
    train, held_out = (torch.from_numpy(np.load(folder / f)).long() for f in FILES)
    batches = Batches(train, settings.batch, settings.block)
    steps = len(train) // settings.batch
    config = TrainConfig(
        TranscoderConfig(num_latents=settings.features, k=settings.k),
        batch_size=settings.batch,
        micro_acc_steps=settings.parts,
        optimizer=settings.optimizer,
        lr=settings.rate,
        **({} if settings.rate is None else {"lr_warmup_steps": steps // 20}),
        hookpoints=["layers.*.mlp"],
        exclude_tokens=settings.exclude,
        log_to_wandb=False,
    )
    trainer = paused()(config, batches, model)
    batches.deliver = lambda: deliver(
        trainer, held_out.split(settings.batch), folder / "peer.safetensors"
    )
    answer({"layers": len(trainer.saes), "versions": {p: version(p) for p in PACKAGES}})
    trainer.fit()


FILES = ("train.npy", "held_out.npy")
PACKAGES = ("eai-sparsify", "torch", "transformers", "schedulefree")


class Batches:
    """Batches is a data set of token rows that pauses the trainer between blocks of steps."""

    def __init__(self, tokens: Any, batch: int, block: int):
        self.tokens, self.batch, self.block = tokens, batch, block
        self.deliver: Callable[[], Answer] = dict  # set once the trainer exists
        self.clock: list[float] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        self.clock.append(time.perf_counter())
        if rows[0] // self.batch % self.block == 0:
            self.pause()
        return [{"input_ids": self.tokens[row]} for row in rows]

    def pause(self) -> None:
        """Report the seconds of the steps since the last pause, and wait for the next request."""
        steps = np.diff(self.clock).tolist()
        if steps:
            answer({"seconds": steps})
        for word in sys.stdin:
            if word.strip() == "go":
                break
            answer(self.deliver())
        self.clock = [time.perf_counter()]


def paused() -> Any:
    """Return a trainer class that pauses at the end instead of saving, which would be timed too."""
    from sparsify import Trainer  # pyright: ignore[reportMissingImports]

    class Paused(Trainer):
        def save(self) -> None:
            """Record the end of the last step instead of saving."""
            self.dataset.clock.append(time.perf_counter())
            self.dataset.pause()

    return Paused


def answer(message: Answer) -> None:
    """Print a line of JSON on standard output."""
    print(json.dumps(message), flush=True)


def deliver(trainer: Any, batches: tuple[Any, ...], path: Path) -> Answer:
    """Write the stacked weights of all layers, and return their FVU on held-out tokens."""
    import torch  # pyright: ignore[reportMissingImports]
    from safetensors.torch import save_file

    with torch.no_grad(), averaged(trainer):
        coders = list(trainer.saes.values())
        weights = {
            "W_enc": torch.stack([c.encoder.weight for c in coders]),
            "b_enc": torch.stack([c.encoder.bias for c in coders]),
            "W_dec": torch.stack([c.W_dec for c in coders]),
            "b_dec": torch.stack([c.b_dec for c in coders]),
        }
        save_file(weights, path)
        return {"fvu": fvu(trainer, batches)}


@contextlib.contextmanager
def averaged(trainer: Any) -> Iterator[None]:
    """Switch schedule-free optimizers to their averaged weights within the block."""
    schedule_free = [o for o in trainer.optimizers if hasattr(o, "eval")]
    for optimizer in schedule_free:
        optimizer.eval()
    yield
    for optimizer in schedule_free:
        optimizer.train()


def fvu(trainer: Any, batches: tuple[Any, ...]) -> list[float]:
    """Return Σ‖y − ŷ‖² / Σ‖y − ȳ‖² of each layer in float64; ȳ is the mean over these tokens."""
    import torch  # pyright: ignore[reportMissingImports]

    sums = {name: [0.0, 0.0, torch.zeros(c.d_in).double(), 0] for name, c in trainer.saes.items()}
    kept = torch.empty(0)

    def hook(name: str) -> Callable[..., None]:
        def see(_: Any, inputs: tuple, output: Any) -> None:
            x, y = inputs[0][kept], output[kept]
            coder = trainer.saes[name]
            values, indices, _ = coder.encode(x)
            missed = y - coder.decode(values, indices)
            new = _square(missed), _square(y), y.double().sum(0), len(y)
            sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)]

        return see

    modules = {name: trainer.model.base_model.get_submodule(name) for name in sums}
    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    for rows in batches:
        kept = torch.isin(rows, trainer.exclude_tokens, invert=True)
        trainer.model(rows)
    for handle in handles:
        handle.remove()
    return [
        missed / (square - _square(total) / count) for missed, square, total, count in sums.values()
    ]


def _square(x: Any) -> float:
    return x.double().pow(2).sum().item()


if __name__ == "__main__":
    main(sys.argv[1:])
