"""What do the checks of what comes from outside cost?

    python -m experiments.faults.rows                                # some 15 minutes, 3 GB of disk
    python -m experiments.faults.rows --parts help page --rounds 3

    rows     a million rows of each row format are read, checked and, as far as a task needs them,
             made into prompts: expected at most 60 s and 1 GB each;
    help     `hagd --help` in a fresh process: a median of at most 2 s;
    page     the page of an attribution graph of 10,000 nodes: seconds and MB;
    loading  SmolLM2-135M, and a model of about 1 GB that is generated: as `hagd` loads them, and
             without checks, by turns. Without checks is the same loader, which places the same
             arrays on the device, but that looks for no number that is not finite, takes headers
             and tokenizer.json as they are, and opens files without asking what they are. Expected:
             the best time with checks is at most 1.1 times the best without.

Every part has a process of its own, whose peak of memory counts. Writes results/rows.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import jax
import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from experiments.common.cells import Row, measure_cells
from experiments.common.processes import environment, own_process
from experiments.common.script import Places, run
from hagd_jax import models
from hagd_jax.graphs.graph import GraphInfo, LogitTarget, NodeTable, make_graph
from hagd_jax.models import safetensors_source, tokenizer_files
from hagd_jax.tasks import Sizes, benchmarks

Part = Literal["rows", "help", "page", "loading"]
KINDS = {
    "rows": ("winogrande", "hellaswag", "log"), "help": ("hagd",), "page": ("graph",),
    "loading": ("smollm2-135m", "generated"),
}  # fmt: skip
# At most: seconds, GB, and the ratio of times.
SECONDS, GIGABYTES, HELP, RATIO = 60.0, 1.0, 2.0, 1.1


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring what the checks of files cost.

    Attributes:
        parts: Names of the measurements.
        kinds: Formats or models to measure in each part; all of them if empty.
        rows: Number of rows of each file.
        nodes: Number of nodes of the graph whose page is built.
        layers: Blocks of the generated model, each of 88 MB.
        rounds: Times that each is loaded, and that help is asked for.
        work: Measure this one part in this process, and print it; the script starts itself with it.
    """

    parts: tuple[Part, ...] = get_args(Part)
    kinds: tuple[str, ...] = ()
    rows: int = 1_000_000
    nodes: int = 10_000
    layers: int = 10
    rounds: int = 5
    work: bool = False


def main(config: Config) -> None:
    """Measure each part in a separate process."""
    cells = [
        {"part": part, "kind": kind}
        for part in config.parts for kind in KINDS[part] if kind in (config.kinds or (kind,))
    ]  # fmt: skip
    if config.work:
        (cell,) = cells
        print(json.dumps(MEASURES[cell["part"]](cell["kind"], config)))
        return

    def measure(cell: Row) -> list[Row]:
        sizes = [("rows", config.rows), ("nodes", config.nodes), ("layers", config.layers)]
        given = [each for name, value in sizes for each in (f"--{name}", value)]
        said = own_process(
            "experiments.faults.rows", "--work", "--parts", cell["part"], "--kinds", cell["kind"],
            "--rounds", config.rounds, "--runs", config.runs, *given,
        )  # fmt: skip
        return [json.loads(said.splitlines()[-1])]

    found = measure_cells("rows", cells, measure, config, varied=("parts", "kinds", "work"))
    if bad := [row for row in found if not row["well"]]:
        sys.exit(f"NOT as expected: {bad}")


def row_of(kind: str, number: int) -> dict[str, Any]:
    """Make a row of a format, as long as published ones are."""
    if kind == "winogrande":
        words = f"The lamp {number} did not fit into the box {number * 7 % 1000} as the _ was big."
        return {"sentence": words, "option1": "lamp", "option2": "box", "answer": "1",
                "qID": f"id{number}-1"}  # fmt: skip
    if kind == "hellaswag":
        ends = [f"goes on to step {number * k % 1000} and then it rests." for k in (3, 5, 7, 11)]
        return {"ind": number, "activity_label": "Walking", "ctx_a": f"A man walks {number} miles.",
                "ctx_b": "he", "ctx": f"A man walks {number} miles. he", "endings": ends,
                "label": str(number % 4), "source_id": f"activitynet~v_{number}"}  # fmt: skip
    return {"time": 1e9 + number, "stage": "transcoder", "step": number, "tokens": number * 512,
            "fvu": 0.5, "loss": 0.25, "fvu_by_layer": [0.5] * 8}  # fmt: skip


def rows_checked(kind: str, config: Config) -> Row:
    """Read a file of many rows."""
    from hagd_jax.report.transcoder_page import points_of_log

    path = config.runs / f"{kind}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(json.dumps(row_of(kind, i)) + "\n" for i in range(config.rows))
    tokenizer = letters()
    began, before = time.monotonic(), peak()
    if kind == "log":
        count = len(points_of_log(path))
    else:
        task = benchmarks.task(kind, tokenizer, path, sizes=Sizes(20, 10, 10))
        count = len(task.texts["test"])
    seconds, size = time.monotonic() - began, path.stat().st_size / 1e6
    path.unlink()
    return {"seconds": seconds, "peak_gb": peak(), "before_gb": before, "file_mb": size,
            "found": count, "well": seconds <= SECONDS and peak() <= GIGABYTES}  # fmt: skip


def letters() -> models.Tokenizer:
    """Make a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    native = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = tokenizers.decoders.ByteLevel()
    return models.Tokenizer.from_native(native)


def help_asked(kind: str, config: Config) -> Row:
    """Ask for help in fresh processes."""
    taken = []
    for _ in range(config.rounds):
        began = time.monotonic()
        line = [sys.executable, "-m", "hagd_jax.cli", "--help"]
        subprocess.run(line, check=True, env=environment({}), stdout=subprocess.DEVNULL)
        taken.append(time.monotonic() - began)
    seconds = float(np.median(taken))
    return {"seconds": seconds, "best": min(taken), "well": seconds <= HELP}


def page_made(kind: str, config: Config) -> Row:
    """Build the page of a large graph."""
    from hagd_jax.report.graph_page import graph_page

    graph = graph_of(config.nodes)
    began = time.monotonic()
    text = graph_page(graph, most_nodes=config.nodes)
    seconds, size = time.monotonic() - began, len(text.encode()) / 1e6
    return {"seconds": seconds, "mb": size, "peak_gb": peak(), "well": seconds <= SECONDS}


def graph_of(nodes: int) -> Any:
    """Make a random graph of features, each with edges from ten earlier ones."""
    rng, count, one = np.random.default_rng(0), nodes, np.ones(nodes, np.float32)
    kind = np.ones(count, np.int8)
    kind[-1] = 3
    layer = np.sort(rng.integers(0, 24, count)).astype(np.int32)
    table = NodeTable(
        kind=kind, layer=layer, position=rng.integers(0, 16, count, np.int32),
        index=np.arange(count, dtype=np.int32), activation=one, weight=one,
        folded=np.ones((count, 2), np.float32), remainder=one,
    )  # fmt: skip
    ends = np.repeat(np.arange(1, count), 10)
    starts = (rng.random(len(ends)) * ends).astype(int)
    about: dict[str, Any] = {
        "model": "m", "prompt": "p", "tokens": tuple(range(16)), "words": tuple("abcdefghijklmnop"),
        "targets": (LogitTarget("t", (1,), (1.0,)),), "active": count, "dictionary": "neurons",
        "layers": 24, "features": count,
    }  # fmt: skip
    names = {field.name for field in dataclasses.fields(GraphInfo)}
    info = GraphInfo(**{name: value for name, value in about.items() if name in names})
    return make_graph(table, starts, ends, rng.normal(size=len(ends)).astype(np.float32), info)


def loaded(kind: str, config: Config) -> Row:
    """Load a model in turns with and without checks."""
    source = kind if kind != "generated" else generated(config)
    ways: dict[str, Callable[[], Any]] = {
        "checked": lambda: models.load(source),
        "unchecked": lambda: models.load(source, check_finite=False),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(config.rounds + 1):
        for way, load in ways.items():
            with unchecked() if way == "unchecked" else contextlib.nullcontext():
                began = time.monotonic()
                jax.block_until_ready(load().params)
                seconds = time.monotonic() - began
            if number:  # the first round compiles, and brings the files into memory
                taken[way].append(seconds)
    best = {way: min(each) for way, each in taken.items()}
    ratio = best["checked"] / best["unchecked"]
    return best | {"ratio": ratio, "peak_gb": peak(), "well": ratio <= RATIO}


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Take headers and tokenizers as they are while the block runs."""
    with (
        mock.patch.object(tokenizer_files, "require_tokenizer", return_value={}),
        mock.patch.object(safetensors_source, "safetensors_header", plain_header),
    ):
        yield


def plain_header(path: Path, *_: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors header without checking it."""
    with open(path, "rb") as file:
        told = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    about = told.pop("__metadata__", {})
    shapes = {name: each | {"shape": tuple(each["shape"])} for name, each in told.items()}
    return {name: Plain(**each) for name, each in shapes.items()}, about


@dataclasses.dataclass(frozen=True)
class Plain:
    """Plain holds where a tensor lies, as its header says."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def generated(config: Config) -> str:
    """Make a folder of a model of random weights, once."""
    folder = config.runs / f"generated{config.layers}"
    if not folder.exists():
        decoder = models.DecoderConfig(
            family="llama", vocab_size=32000, n_layers=config.layers, d_model=1024, n_heads=16,
            d_mlp=5632, max_positions=128, norm="rms", positions="rotary", activation="silu",
            gated_mlp=True, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
        )  # fmt: skip
        models.save(models.init(decoder, jax.random.key(0)), folder)
    return str(folder)


def peak() -> float:
    """Return the peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


MEASURES = {"rows": rows_checked, "help": help_asked, "page": page_made, "loading": loaded}


if __name__ == "__main__":
    run(main, Config, __doc__)
