r"""How fast are attribution graphs? This package and circuit-tracer, in turns on one prompt.

    python -m venv peer
    peer/bin/pip install circuit-tracer==0.5.0 torch==2.13.0 'transformer-lens>=2.16,<3' \
        transformers==4.57.3 nnsight==0.6.1 'huggingface_hub<1' 'numpy<2' 'pandas<3' \
        'pyarrow<22' 'datasets<4.6'
    python -m experiments.speed.attribution --peer-python peer/bin/python

Takes some minutes on two otherwise idle CPU cores. Expected: the same graph within 2e-5 (except for
features whose influence is equal up to rounding), ours at least 5 times as fast once compiled.
Writes results/attribution_speed.json.

Both attribute the same random Llama-like model (12 layers, d 256, 8 heads, MLP 1024, vocabulary
8192) with the same random transcoders of 4096 features per layer, about 32 of them active: TopK per
layer, and ReLU cross-layer. The prompt has 32 tokens, and 2048 features become nodes, chosen by
their influence on the output in a single round, which is circuit-tracer's default. Each contestant
runs in a separate process with two threads, and they take turns; circuit-tracer has two processes,
for two batch sizes. The first call of each, which compiles and first touches memory, is reported
separately. Peak memory is that of the whole process with its libraries; the memory before the first
call is given too.

The limit is the time of the arithmetic alone: products of gradients with the output and value
weights of every layer below a target at every position up to the target's, attention mixing, and
active decoders, at the speed of a large matrix product measured in the same run.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.processes import environment
from experiments.common.random_models import (
    ACTIVE,
    KINDS,
    Shape,
    random_model,
    random_prompt,
    random_transcoder,
)
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.errors import ConfigError, MissingDependencyError
from hagd_jax.graphs import AttributionConfig, AttributionGraph, attribute
from hagd_jax.graphs.graph import FEATURE


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for comparing our attribution graphs with circuit-tracer's.

    Attributes:
        peer_python: Python interpreter that has circuit-tracer, or a command with the protocol of
            `attribution_peer.py`.
        kinds: Kinds of transcoders.
        tokens: Length of the prompt, in tokens.
        features: Number of features that become nodes.
        rounds: Timed calls of each contestant after the first; more rounds give a steadier median.
        batch: Targets per batch of our gradients; larger values use more memory.
        peer_batches: Batch sizes of circuit-tracer: its default, and a faster one.
        threads: Threads of each contestant.
        shape: Sizes of the model and the transcoders.
        contestant: Run as our contestant, `KIND:FOLDER`; used internally.
    """

    peer_python: str = ""
    kinds: tuple[str, ...] = KINDS
    tokens: int = 32
    features: int = 2048
    rounds: int = 5
    batch: int = 64
    peer_batches: tuple[int, ...] = (512, 128)
    threads: int = 2
    shape: Shape = Shape()
    contestant: str = ""


def main(config: Config) -> None:
    """Compare both on each kind of transcoder, or run as our contestant."""
    if config.contestant:
        return be_contestant(config)
    if not config.peer_python:
        raise ConfigError(
            "peer_python", got="none", expected="a Python that has circuit-tracer",
            mend="Name it with --peer-python; the top of this script says how to make one.",
        )  # fmt: skip
    began = time.monotonic()
    rows = [row for kind in config.kinds for row in compare(kind, config)]
    record(
        config.results / "attribution_speed.json", rows, seconds=time.monotonic() - began, seed=0,
        threads=config.threads, tokens=config.tokens, feature_nodes=config.features,
        rounds=config.rounds,
    )  # fmt: skip


def compare(kind: str, config: Config) -> list[dict[str, Any]]:
    """Time the contestants in turns on one kind of transcoder; return their rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        hand_over(kind, folder, config)
        ours, peers = contestants(kind, folder, config)
        named = {"hagd_jax": (ours, 0)}
        named |= {f"circuit-tracer, {n} at once": (p, n) for n, p in peers.items()}
        runs: dict[str, list] = {name: [] for name in named}
        for word in ["go"] * config.rounds + ["deliver"]:
            for name, (process, batch) in named.items():
                runs[name].append(process.ask(f"{word} {batch}"))
        for process, _ in named.values():
            process.end()
        rows = [_row(kind, name, named[name][0], runs[name]) for name in named]
        mine, *others = runs.values()
        for row, theirs in zip(rows[1:], others, strict=True):
            row |= advantage(mine, theirs)
        flop, speed = arithmetic(folder, config), ours.about["flops"]
        rows[0] |= {
            "gflop": round(flop / 1e9, 1),
            "limit_seconds": round(flop / speed, 3),
            "peak_gflops": round(speed / 1e9),
        } | difference(folder)
    return rows


def contestants(kind: str, folder: Path, config: Config) -> tuple[Process, dict[int, Process]]:
    """Start our process, and one for each batch size of the peer, to measure memory apart."""
    shape = config.shape
    settings = {
        "kind": kind, "layers": shape.layers, "width": shape.width, "heads": shape.heads,
        "mlp": shape.mlp, "vocab": shape.vocabulary, "positions": shape.positions, "eps": 1e-5,
        "theta": 10000.0, "k": ACTIVE, "threads": config.threads, "features": config.features,
    }  # fmt: skip
    sizes = {"tokens": config.tokens, "features": config.features, "batch": config.batch}
    sizes |= {f"shape.{name}": value for name, value in dataclasses.asdict(shape).items()}
    more = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    more += ["--contestant", f"{kind}:{folder}"]
    command = [sys.executable, "-m", "experiments.speed.attribution", *more]
    script = Path(__file__).with_name("attribution_peer.py")
    peer = [*shlex.split(config.peer_python), str(script), str(folder), json.dumps(settings)]
    ours = Process(command, config.threads)
    return ours, {batch: Process(peer, config.threads) for batch in config.peer_batches}


def advantage(mine: list[dict], theirs: list[dict]) -> dict[str, Any]:
    """Return our speed-up, turn by turn, and our share of the peer's peak memory."""
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(mine[1:], theirs[1:], strict=True)]
    return {
        "ours_faster": round(statistics.median(ratios), 2),
        "range": f"{min(ratios):.1f} to {max(ratios):.1f}",
        "first_faster": round(theirs[0]["seconds"] / mine[0]["seconds"], 2),
        "our_peak_share": round(mine[-1]["peak"] / theirs[-1]["peak"], 3),
    }


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
    """Process runs a contestant in a child process, which attributes once for each line it gets."""

    def __init__(self, command: list[str], threads: int):
        more = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(more),
        )  # fmt: skip
        self.about = self._answer()

    def ask(self, word: str) -> dict[str, Any]:
        """Send a line, and return the answer to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Close the process's standard input, and wait until it ends."""
        with self.process:
            pass

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        self.end()
        raise MissingDependencyError(
            "a contestant", got="a process that ended", expected="answers",
            mend="It said why above; a peer's Python needs the packages of its script.",
        )  # fmt: skip


def hand_over(kind: str, folder: Path, config: Config) -> None:
    """Save the model, the transcoder and the prompt under the peer's names."""
    model, made = random_model(config.shape), random_transcoder(kind, config.shape)
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
    whole: Any = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    np.savez(folder / "arrays.npz", **whole)
    np.save(folder / "prompt.npy", random_prompt(config.tokens, config.shape))


def be_contestant(config: Config) -> None:
    """Run as our contestant: attribute once for each line on standard input."""
    kind, _, folder = config.contestant.partition(":")
    model, made = random_model(config.shape), random_transcoder(kind, config.shape)
    prompt = random_prompt(config.tokens, config.shape)
    settings = AttributionConfig(
        max_feature_nodes=config.features, update_every=config.features, batch_size=config.batch
    )
    jax.block_until_ready((model.params, made.params))
    _say(before=_peak(), flops=matmul_speed())
    for line in sys.stdin:
        start = time.perf_counter()
        graph = attribute(model, made, prompt, settings)
        seconds = time.perf_counter() - start
        if line.startswith("deliver"):
            save(graph, Path(folder))
        _say(seconds=seconds, peak=_peak())


def save(graph: AttributionGraph, folder: Path) -> None:
    """Save a graph's adjacency and features for the comparison."""
    nodes, here = graph.nodes, graph.of_kind(FEATURE)
    features = np.stack([nodes.layer, nodes.position, nodes.index], 1)[here]
    np.savez(folder / "ours.npz", adjacency=graph.to_dense(), features=features)


def difference(folder: Path) -> dict[str, Any]:
    """Compare the two graphs on the nodes that both have."""
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


def arithmetic(folder: Path, config: Config) -> float:
    """Return the FLOPs that the adjacency rows of these targets need at least."""
    layer, position, _ = np.load(folder / "ours.npz")["features"].T
    width, shape = config.shape.width, config.shape
    below = np.append(layer, [shape.layers] * 10)  # the graph has ten output nodes
    length = np.append(position + 1, [config.tokens] * 10)
    products = 2 * 2 * width * width * length  # output and value weights
    mixing = 2 * width * length * (length + 1) / 2
    decoders = 2 * ACTIVE * width * length
    return float(np.sum(below * (products + mixing + decoders)))


def matmul_speed(size: int = 2048) -> float:
    """Return the FLOP/s of a large float32 matrix product on this machine, the best of eight."""
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
    run(main, Config, __doc__)
