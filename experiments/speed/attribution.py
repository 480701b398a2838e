r"""Attribution graphs of one prompt: this package and circuit-tracer, taking turns.

    python -m venv peer
    peer/bin/pip install circuit-tracer==0.5.0 torch==2.13.0 'transformer-lens>=2.16,<3' \
        transformers==4.57.3 nnsight==0.6.1 'huggingface_hub<1' 'numpy<2' 'pandas<3' \
        'pyarrow<22' 'datasets<4.6'
    python -m experiments.speed.attribution --peer-python peer/bin/python

Takes some minutes on two otherwise idle CPU cores. Expected: the same graph within 2e-5 (but for
features whose influence is equal up to rounding), ours at least 5 times as fast once compiled.
Writes results/attribution_speed.json.

Both attribute the same random Llama-like model (12 layers, d 256, 8 heads, MLP 1024, vocabulary
8192) with the same random transcoders of 4096 features a layer, about 32 of them active: TopK, one
a layer, and ReLU, cross-layer. The prompt has 32 tokens, and 2048 features become nodes, chosen by
their influence on the output, all in one go, as is circuit-tracer's default. Each runs in a process
of its own, on two threads, and they take turns; circuit-tracer has two processes, for two batch
sizes. The first call of each, which compiles and first touches memory, is told apart. Peak memory
is that of the whole process, libraries included, and beside it what it had before the first call.

The limit is what the arithmetic alone would take: products of gradients with the output and value
weights of every layer below a target at every position up to its own, mixing by attention, and
active decoders, at the speed of a large matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.random_models import (
    ACTIVE,
    KINDS,
    random_model,
    random_prompt,
    random_transcoder,
)
from experiments.common.record import record
from hagd_jax.graphs import AttributionConfig, AttributionGraph, attribute
from hagd_jax.graphs.graph import FEATURE

THREADS = 2


def main() -> None:
    args = _arguments()
    if args.contestant:
        return _contestant(args.contestant, args)
    began = time.monotonic()
    rows = [row for kind in args.kinds for row in compare(kind, args)]
    record(
        "attribution_speed", rows, seconds=time.monotonic() - began, seed=0, threads=THREADS,
        tokens=args.tokens, feature_nodes=args.features, rounds=args.rounds,
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has circuit-tracer")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--features", type=int, default=2048, help="that become nodes")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each, after the first")
    parser.add_argument("--batch", type=int, default=64, help="our targets in a call")
    parser.add_argument(
        "--peer-batches", type=int, nargs="+", default=[512, 128],
        help="theirs: its default, and what is faster here",
    )  # fmt: skip
    parser.add_argument("--contestant", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(kind: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Both contestants, on one kind of transcoder, in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        hand_over(kind, folder, args)
        settings = {
            "kind": kind, "layers": 12, "width": 256, "heads": 8, "mlp": 1024, "vocab": 8192,
            "positions": 4096, "eps": 1e-5, "theta": 10000.0, "k": ACTIVE, "threads": THREADS,
            "features": args.features,
        }  # fmt: skip
        script = Path(__file__).with_name("attribution_peer.py")
        more = ["--tokens", str(args.tokens), "--features", str(args.features)]
        more += ["--batch", str(args.batch), "--contestant", f"{kind}:{folder}"]
        ours = Process([sys.executable, "-m", "experiments.speed.attribution", *more])
        command = [str(args.peer_python), str(script), str(folder), json.dumps(settings)]
        # A process for each of its batch sizes: memory that one has had is its own.
        peers = {batch: Process(command) for batch in args.peer_batches}
        contestants = {"hagd_jax": (ours, 0)}
        contestants |= {f"circuit-tracer, {n} at once": (p, n) for n, p in peers.items()}
        runs: dict[str, list] = {name: [] for name in contestants}
        for word in ["go"] * args.rounds + ["deliver"]:
            for name, (contestant, batch) in contestants.items():
                runs[name].append(contestant.ask(f"{word} {batch}"))
        rows = [_row(kind, name, contestants[name][0], runs[name]) for name in contestants]
        mine = runs["hagd_jax"]
        for row, theirs in zip(rows[1:], list(runs.values())[1:], strict=True):
            ratios = [
                b["seconds"] / a["seconds"] for a, b in zip(mine[1:], theirs[1:], strict=True)
            ]
            row |= {
                "ours_faster": round(statistics.median(ratios), 2),
                "range": f"{min(ratios):.1f} to {max(ratios):.1f}",
                "first_faster": round(theirs[0]["seconds"] / mine[0]["seconds"], 2),
                "our_peak_share": round(mine[-1]["peak"] / theirs[-1]["peak"], 3),
            }
        flop, speed = arithmetic(folder, args), ours.about["flops"]
        rows[0] |= {
            "gflop": round(flop / 1e9, 1),
            "limit_seconds": round(flop / speed, 3),
            "peak_gflops": round(speed / 1e9),
        } | difference(folder)
    return rows


def _row(kind: str, name: str, contestant: Process, runs: list[dict]) -> dict[str, Any]:
    return {
        "transcoder": kind,
        "by": name,
        "first_call": round(runs[0]["seconds"], 2),
        "seconds": round(statistics.median(run["seconds"] for run in runs[1:]), 3),
        "peak_gb": round(runs[-1]["peak"] / 1e9, 2),
        "before_gb": round(contestant.about["before"] / 1e9, 2),
    }


class Process:
    """A contestant that runs once for every line it is given."""

    def __init__(self, command: list[str]):
        threads = {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | threads,
        )  # fmt: skip
        self.about = self._answer()

    def ask(self, word: str) -> dict[str, Any]:
        """Send a line, wait for the answer to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit("a contestant stopped; see above")


def hand_over(kind: str, folder: Path, args: argparse.Namespace) -> None:
    """The model and the transcoder under the peer's names."""
    model, made = random_model(), random_transcoder(kind)
    params = jax.tree.map(np.asarray, model.params)
    blocks, arrays = params["blocks"], {}
    arrays["embed.W_E"] = params["embed"]["embedding"]
    arrays["unembed.W_U"] = params["unembed"]["kernel"]
    arrays["ln_final.w"] = params["norm_f"]["scale"]
    for i in range(model.config.n_layers):
        for theirs, ours in (("ln1", "norm1"), ("ln2", "norm2")):
            arrays[f"blocks.{i}.{theirs}.w"] = blocks[ours]["scale"][i]
        for name in "qkv":
            kernel = blocks["attn"][name]["kernel"][i]
            arrays[f"blocks.{i}.attn.W_{name.upper()}"] = kernel.transpose(1, 0, 2)
        arrays[f"blocks.{i}.attn.W_O"] = blocks["attn"]["o"]["kernel"][i]
        for name in ("in", "gate", "out"):
            arrays[f"blocks.{i}.mlp.W_{name}"] = blocks["mlp"][name]["kernel"][i]
    arrays |= {f"tc/{name}": np.asarray(value) for name, value in made.params.items()}
    np.savez(folder / "arrays.npz", **{k: np.ascontiguousarray(v) for k, v in arrays.items()})
    np.save(folder / "prompt.npy", random_prompt(args.tokens))


def _contestant(what: str, args: argparse.Namespace) -> None:
    """Our side, in a process of its own."""
    kind, _, folder = what.partition(":")
    model, made = random_model(), random_transcoder(kind)
    prompt = random_prompt(args.tokens)
    config = AttributionConfig(
        max_feature_nodes=args.features, update_every=args.features, batch_size=args.batch
    )
    jax.block_until_ready((model.params, made.params))
    _say(before=_peak(), flops=matmul_speed())
    graph = None
    for line in sys.stdin:
        start = time.perf_counter()
        graph = attribute(model, made, prompt, config)
        seconds = time.perf_counter() - start
        if line.startswith("deliver"):
            save(graph, Path(folder))
        _say(seconds=seconds, peak=_peak())


def save(graph: AttributionGraph, folder: Path) -> None:
    """For comparison."""
    nodes, here = graph.nodes, graph.of_kind(FEATURE)
    features = np.stack([nodes.layer, nodes.position, nodes.index], 1)[here]
    np.savez(folder / "ours.npz", adjacency=graph.to_dense(), features=features)


def difference(folder: Path) -> dict[str, Any]:
    """How far the two graphs are apart, on the nodes that both have."""
    ours, theirs = np.load(folder / "ours.npz"), np.load(folder / "peer.npz")
    place = {tuple(f): i for i, f in enumerate(theirs["features"].tolist())}
    pairs = [(i, place[tuple(f)]) for i, f in enumerate(ours["features"].tolist())
             if tuple(f) in place]  # fmt: skip
    count = len(ours["features"])
    rest = np.arange(count, len(ours["adjacency"]))
    mine, other = (np.concatenate([np.array(side), rest]) for side in zip(*pairs, strict=True))
    a = ours["adjacency"][np.ix_(mine, mine)]
    b = theirs["adjacency"][np.ix_(other, other)]
    return {
        "nodes_in_common": f"{len(pairs)} of {count}",
        "largest_difference": float(f"{np.abs(a - b).max():.2g}"),
        "largest_weight": float(f"{np.abs(a).max():.3g}"),
    }


def arithmetic(folder: Path, args: argparse.Namespace) -> float:
    """FLOP that the rows of these targets need, nothing else."""
    layer, position, _ = np.load(folder / "ours.npz")["features"].T
    below, length = np.append(layer, [12] * 10), np.append(position + 1, [args.tokens] * 10)
    products = 2 * 2 * 256 * 256 * length  # output and value weights
    mixing = 2 * 256 * length * (length + 1) / 2
    decoders = 2 * ACTIVE * 256 * length
    return float(np.sum(below * (products + mixing + decoders)))


def matmul_speed(size: int = 2048) -> float:
    """FLOP a second of a large float32 matrix product here; the best of several."""
    x = jax.numpy.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(**answer: Any) -> None:
    print("ANSWER " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
