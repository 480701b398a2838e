"""What does `hagd` do on a real model, from a file to a validated circuit?

    python -m experiments.circuits.real_models --model gemma-3-270m.gguf --text 'books/*.txt'
    python -m experiments.circuits.real_models --model gemma-3-270m.gguf --parts tasks graph
    python -m experiments.circuits.real_models --model g.gguf --parts circuit "--more=--units 20"

Every cell is one command on the model's file, in a process of its own, with the settings that a
user gets, but for what is asked for here, and that nodes of graphs keep their strongest edges only;
a stopped run goes on in the folders that it left.

    tasks       accuracy on the test split of every language task, or why it has no such prompts;
    graph       `hagd attribute` on a prompt of IOI, of capitals and of agreement;
    transcoder  `hagd train-transcoder` on `--tokens` tokens of the text, and its curve;
    circuit     `hagd extract` on IOI and agreement, and its verdict;
    validation  `hagd validate` on the circuits that those left, by the claims that decide.

For half a billion parameters, two CPU cores take minutes for tasks and graphs, half an hour for the
transcoder, and up to an hour for each circuit and each validation. Writes results/real_models.json,
where a model is known by its file's name and sha256.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from experiments.circuits.task_accuracy import FIT, LANGUAGE, score
from experiments.common.cells import Row, measure_cells
from experiments.common.digests import sha256
from experiments.common.processes import compiled_once, environment
from experiments.common.script import Places, run
from hagd_jax import graphs, models, tasks
from hagd_jax.errors import ConfigError, InputError

Part = Literal["tasks", "graph", "transcoder", "circuit", "validation"]
PROMPTS = {
    "ioi": "When Mary and John went to the store, John gave a drink to",
    "capitals": "The capital of France is",
    "agreement": "The keys to the cabinet on the wall",
}
CIRCUITS = ("ioi", "agreement")
# Edges that a node of a graph keeps: with all of them a model of half a billion needs 30 GB.
EDGES = 1024
# Points of a transcoder's curve.
POINTS = 12


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for running the commands on a real model.

    Attributes:
        model: The model's file or folder.
        text: Text files that the transcoder is trained on.
        parts: Which commands are run.
        tasks: Language tasks whose accuracy is measured.
        circuits: Tasks whose circuits are looked for.
        tokens: Number of tokens that the transcoder is trained on.
        features: Its features a layer.
        length: Tokens of a sequence of the text.
        test: Number of test prompts of a language task, and of a circuit's.
        more: Further words of `hagd extract`, such as "--units 24"; they are recorded.
    """

    model: Path
    text: str = ""
    parts: tuple[Part, ...] = get_args(Part)
    tasks: tuple[str, ...] = LANGUAGE
    circuits: tuple[str, ...] = CIRCUITS
    tokens: int = 200_000
    features: int = 4096
    length: int = 128
    test: int = 64
    more: str = ""


def main(config: Config) -> None:
    """Run the commands on the model."""
    if "transcoder" in config.parts and not config.text:
        raise ConfigError("--text", got="no file", expected="text that a transcoder is trained on")
    try:
        shlex.split(config.more)
    except ValueError as error:
        raise ConfigError("--more", got=repr(config.more), expected=f"words: {error}") from None
    kinds = {"tasks": config.tasks, "graph": tuple(PROMPTS), "transcoder": ("text",),
             "circuit": config.circuits, "validation": config.circuits}  # fmt: skip
    file = {"model": config.model.name, "sha256": sha256(config.model)}
    cells = [file | {"part": part, "of": kind} for part in config.parts for kind in kinds[part]]

    def measure(cell: Row) -> list[Row]:
        return [MEASURES[cell["part"]](cell["of"], config)]

    varied = ("model", "text", "parts", "tasks", "circuits", "test", "more")
    measure_cells("real_models", cells, measure, config, varied=varied)


def hagd(config: Config, *words: object) -> tuple[int, float]:
    """Run a command in a process of its own; return its status, and its seconds.

    Raises:
        InputError: If it ends with another status than 0, or 1, which says that no circuit was
            found.
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "hagd_jax.cli", *map(str, words)], check=False,
        env=environment(compiled_once(config.runs / "real_models" / "compiled")),
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise InputError(
            f"hagd {words[0]}", got=f"status {done.returncode}", expected="a run that ends well"
        )
    return done.returncode, round(time.monotonic() - began, 1)


def folder(config: Config, name: str) -> Path:
    """Return the folder of one command's results."""
    return config.runs / "real_models" / config.model.stem / name


@cache
def loaded(path: Path) -> models.LanguageModel:
    """Load the model once for all tasks."""
    return models.load(path)


def task_done(name: str, config: Config) -> Row:
    """Measure the accuracy on the test split of one task."""
    model = loaded(config.model)
    try:
        task = tasks.task(name, model, sizes=tasks.Sizes(test=config.test))
    except InputError as error:
        return {"refused": str(error)}
    row, _, _ = score(model, task, "test")
    kept = {key: row[key] for key in ("prompts", "accuracy", "mean_logit_difference")}
    return kept | {"fit": row["accuracy"] >= FIT}


def graph_made(name: str, config: Config) -> Row:
    """Attribute the next token of one prompt to the model's neurons."""
    out = folder(config, f"graph-{name}")
    _, seconds = hagd(config, "attribute", "--model", config.model, "--prompt", PROMPTS[name],
                      "--edges-per-node", EDGES, "--out", out)  # fmt: skip
    graph = graphs.load_graph(out / "graph.safetensors")
    found, targets = graphs.graph_scores(graph), graph.info.targets
    return {
        "prompt": PROMPTS[name],
        "targets": [target.label for target in targets[:3]],
        "nodes": len(graph.nodes.kind),
        "of_active": graph.info.active,
        "replacement": found.replacement,
        "completeness": found.completeness,
        "command_seconds": seconds,
    }


def transcoder_trained(name: str, config: Config) -> Row:
    """Train a transcoder on text, and read its curve."""
    out = folder(config, f"transcoder-{name}")
    _, seconds = hagd(
        config, "train-transcoder", "--model", config.model, "--corpus", config.text,
        "--tokens", config.tokens, "--features", config.features, "--text.length", config.length,
        "--contexts", 0, "--out", out,
    )  # fmt: skip
    told = json.loads((out / "evaluation.json").read_text())
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    steps = [row for row in lines if row.get("stage") == "transcoder"]
    places = np.unique(np.linspace(0, len(steps) - 1, POINTS).astype(int))
    curve = [{"tokens": steps[i]["tokens"], "fvu": round(steps[i]["fvu"], 4)} for i in places]
    return {
        "trained_tokens": steps[-1]["tokens"],
        "mean_fvu": told["mean_fvu"],
        "mean_l0": float(np.mean(told["l0"])),
        "dead": float(np.mean(told["dead"])),
        "loss": told["loss"],
        "loss_replaced": told["loss_replaced"],
        "loss_zero": told["loss_ablated"],
        "loss_recovered": told["loss_recovered"],
        "tokens_per_second": float(np.median([row["tokens_per_second"] for row in steps])),
        "curve": curve,
        "command_seconds": seconds,
    }


def circuit_found(name: str, config: Config) -> Row:
    """Find a circuit, and return its verdict."""
    out, more = folder(config, f"circuit-{name}"), shlex.split(config.more)
    status, _ = hagd(config, "extract", "--task", name, "--model", config.model,
                     "--sizes.test", config.test, "--out", out, *more)  # fmt: skip
    own = {"words": more, "extract_seconds": spanned(out / "metrics.jsonl")}
    if status:
        return {"verdict": "no circuit found"} | own
    return summary(json.loads((out / "validation.json").read_text())) | own


def spanned(metrics: Path) -> float:
    """Return the seconds from the first line of a run's metrics to the last, pauses included."""
    times = [json.loads(line)["time"] for line in metrics.read_text().splitlines()]
    return round(times[-1] - times[0], 1)


def circuit_validated(name: str, config: Config) -> Row:
    """Judge a circuit again, from the file that its run left."""
    circuit = folder(config, f"circuit-{name}") / "circuit.json"
    if not circuit.parent.is_dir():
        raise InputError("circuit", got=f"no folder {circuit.parent}",
                         expected="what `--parts circuit` left there")  # fmt: skip
    if not circuit.is_file():
        return {"verdict": "no circuit found"}
    again = folder(config, f"validation-{name}.json")
    _, seconds = hagd(config, "validate", "--circuit", circuit, "--model", config.model,
                      "--claims", "core", "--sizes.test", config.test, "--out", again)  # fmt: skip
    return summary(json.loads(again.read_text())) | {"validate_seconds": seconds}


def summary(told: dict[str, Any]) -> Row:
    """Return what a validation says of a circuit: the verdict, and each claim's."""
    return {
        "verdict": told["verdict"],
        "headline": told["headline"],
        "members": told["members"],
        "leaves": told["leaves"],
        "units": told["units"],
        "prompts": told["prompts"],
        "claims": [
            {
                "name": claim["name"],
                "ablation": claim["ablation"],
                "verdict": claim["verdict"],
                "value": claim["effect"]["value"] if claim["effect"] else None,
                "decides": claim["decides"],
                "says": claim["says"],
            }
            for claim in told["claims"]
        ],
    }


MEASURES = {
    "tasks": task_done, "graph": graph_made, "transcoder": transcoder_trained,
    "circuit": circuit_found, "validation": circuit_validated,
}  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
