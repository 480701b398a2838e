"""What the package leaves on a disk, each as work that goes on from wherever it was.

Small enough that a piece of work takes a second or two once its programs are compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common.digests import digest, without
from hagd_jax import causal, graphs, meta, models, pipeline, transcoders
from hagd_jax.causal.edge_circuit import Shape
from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.errors import DamagedError, Interrupted
from hagd_jax.files import LOCK, read_npz
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.pipeline import ExtractConfig
from hagd_jax.pipeline.extract import prepare
from hagd_jax.pipeline.extract import run as run_stages
from hagd_jax.search import MaskConfig, RepairConfig
from hagd_jax.tasks import Seen, modular
from hagd_jax.testbeds import hand_built, small_model
from hagd_jax.testbeds.case import as_task
from hagd_jax.testbeds.small_training import SmallTrainConfig
from hagd_jax.transcoders import TrainConfig
from hagd_jax.units import Space

Progress = Callable[[str, int, int], None]
SMALL = models.DecoderConfig(
    vocab_size=32, n_layers=2, d_model=16, n_heads=2, d_mlp=16, max_positions=8
)
# Of a run, what is no result: it may differ between runs that end the same.
_PASSING = (
    *("checkpoints", "masks", "steps", "positions", "config.json", "metrics.jsonl"),
    *("report.html", LOCK),
)
_FIELDS = ("command", "time", "seconds", "out", "created", "blake2b")


class Work(NamedTuple):
    """Work is a function that works in a folder, and how it is repeated.

    Attributes:
        go: (folder, variant, progress) → digest of what it has found. Variants, 0 and 1, find
            something else in files of the same names and sizes. It goes on from what it finds in
            the folder; `progress(stage, done, total)` may raise `Interrupted`.
        stops: (stage, steps done) at which it can be stopped in the midst of unfinished work.
        bound: Whether what lies there belongs to the work; otherwise another one in its place is
            another input, as good as the first.
    """

    go: Callable[[Path, int, Progress], str]
    stops: tuple[tuple[str, int], ...] = ()
    bound: bool = True


def silent(stage: str, done: int, total: int) -> None:
    """Do nothing."""


def stopping(at: tuple[str, int]) -> Progress:
    """Stop after a number of steps of a stage."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == at[0] and done >= at[1]:
            raise Interrupted

    return progress


def extraction(folder: Path, variant: int, progress: Progress, **changed: Any) -> str:
    """Run an extraction in a hand-built model to its end."""
    case = hand_built()[0]
    model = case.model
    if variant:
        model = model.replace(params=jax.tree.map(lambda x: 0.9 * x, model.params))
    learned = TrainConfig(features="2x", k=4, tokens=512, batch_size=8, estimate=1)
    config = ExtractConfig(
        nodes="4", seed=variant, search="masks", masks=MaskConfig(steps=20, batch_size=16),
        train=learned, repair=RepairConfig(rounds=1),
        hierarchy=HierarchyConfig(least=2, ratio=0.5), **changed,
    )  # fmt: skip
    text = corpus_of_tokens("rows", np.tile(np.asarray(case.prompts.clean), (4, 1)), model)
    context, _ = prepare(
        model, as_task(case, test=27), config, out=folder,
        corpus=text if "features" in changed else None,
    )  # fmt: skip
    every = 1e9 if progress is silent else 0.0
    run_stages(dataclasses.replace(context, progress=progress, save_every=every))
    return ending(folder)


def training(folder: Path, variant: int, progress: Progress) -> str:
    """Train a transcoder, measure it and collect contexts."""
    model = models.init(SMALL, jax.random.key(variant), name="small")
    rows = np.random.default_rng(0).integers(1, 32, (100, 8))
    corpus = corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.2))
    config = TrainConfig(features="2x", k=4, window=1, tokens=1280, batch_size=16, estimate=1)
    run = pipeline.open_run(folder, {"variant": variant})
    every = 1e9 if progress is silent else 0.0
    found = pipeline.trained(model, corpus, config, run, progress=progress, save_every=every)
    pipeline.measured(model, found, corpus, run, 8)
    batches = corpus.held_out_batches(8)
    top = transcoders.top_contexts(found, model, batches, per_feature=2, effects=2)
    transcoders.save_contexts(top, folder / "contexts")
    return ending(folder)


def cached(folder: Path, variant: int, progress: Progress) -> str:
    """Train a small model into the cache."""
    config = SmallTrainConfig(
        d_model=16, n_heads=2, d_mlp=16, steps=20, check_every=5, batch_size=8, target=2.0
    )
    model = small_model(
        modular.algorithm(7), config=config, folder=folder, seed=variant,
        on_step=lambda step, total, _: progress("train", step, total),
    )  # fmt: skip
    return digest([model.params, model.config, model.name])


def kept(
    save: Callable[[Path, int], object], load: Callable[[Path], Any], name: str
) -> Callable[[Path, int, Progress], str]:
    """Make work that writes a file or folder unless it exists, and reads it."""

    def go(folder: Path, variant: int, progress: Progress) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            save(folder / name, variant)
        return digest(load(folder / name))

    return go


def saved_graph(path: Path, variant: int) -> None:
    """Save an attribution graph."""
    model = models.init(SMALL, jax.random.key(variant), name="small")
    graphs.save_graph(graphs.attribute(model, None, [1, 2, 3, 4], targets=5), path)


def saved_circuit(path: Path, variant: int) -> None:
    """Save a circuit of nodes."""
    nodes = causal.Node("head", 0, 1), causal.Node("neuron", 1, 4 + variant)
    causal.Circuit(
        nodes, (0.5, -1.25), Space(2, 2, 12), "small", "ioi", seen=Seen.nothing()
    ).save(path)  # fmt: skip


def saved_edges(path: Path, variant: int) -> None:
    """Save a circuit of edges."""
    edges = causal.Edge("embed", f"head 0.{variant}", "q"), causal.Edge("mlp 0", "logits", "logits")
    causal.EdgeCircuit(
        edges, (0.5, -1.25), Shape(2, 2, 2, False), model="small", task="ioi", seen=Seen.nothing()
    ).save(path)  # fmt: skip


def saved_transcoder(path: Path, variant: int) -> None:
    """Save an untrained transcoder."""
    config = transcoders.TranscoderConfig(n_layers=2, d_model=16, n_features=8, k=2)
    transcoders.save(transcoders.init(config, jax.random.key(variant)), path)


def saved_contexts(path: Path, variant: int) -> None:
    """Save contexts of untrained features."""
    model = models.init(SMALL, jax.random.key(0), name="small")
    config = transcoders.TranscoderConfig(n_layers=2, d_model=16, n_features=8, k=2)
    found = transcoders.init(config, jax.random.key(variant))
    rows = np.random.default_rng(0).integers(1, 32, (20, 8))
    text = corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.5))
    batches = text.held_out_batches(8)
    top = transcoders.top_contexts(found, model, batches, per_feature=2, effects=2)
    transcoders.save_contexts(top, path)


def saved_learner(path: Path, variant: int) -> None:
    """Save a meta-learner."""
    found = meta.load()
    params = jax.tree.map(lambda x: (1 + variant) * np.asarray(x), found.params)
    meta.save(dataclasses.replace(found, params=params), path)


def loaded_contexts(path: Path) -> Any:
    """Load contexts and all of their layers."""
    found = transcoders.load_contexts(path)
    layers = {i: vars(found.layers[i]) for i in found.layers}
    return vars(found) | {"layers": layers}


WORKS = {
    "extract": Work(extraction, (("score", 1), ("masks", 1))),
    "extract, fused": Work(
        functools.partial(extraction, executor="fused"), (("score", 2), ("masks", 5))
    ),
    "extract, features": Work(
        functools.partial(extraction, features="transcoder"), (("transcoder", 100),)
    ),
    "extract, features, fused": Work(
        functools.partial(extraction, features="transcoder", executor="fused"),
        (("transcoder", 100),),
    ),
    "transcoder": Work(training, (("transcoder", 300),)),
    "small model": Work(cached, (("train", 10),)),
    "graph": Work(
        kept(saved_graph, lambda path: vars(graphs.load_graph(path)), "graph.safetensors"),
        bound=False,
    ),
    "circuit": Work(
        kept(saved_circuit, lambda path: causal.load_circuit(path).to_json(), "c"), bound=False
    ),
    "edges": Work(
        kept(saved_edges, lambda path: causal.load_circuit(path).to_json(), "c"), bound=False
    ),
    "contexts": Work(kept(saved_contexts, loaded_contexts, "contexts"), bound=False),
    "learner": Work(
        kept(saved_learner, lambda path: vars(meta.load(path)), "learner"), bound=False
    ),
}


def ending(folder: Path) -> str:
    """Return the digest of the results in a folder, without the command and times."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or set(name.parts) & set(_PASSING):
            continue
        total.update(f"{name}: {_content(path)}\n".encode())
    return total.hexdigest()


def _content(path: Path) -> str:
    if path.suffix == ".npz":
        return digest(sorted(read_npz(path, error=DamagedError).items()))
    if path.suffix == ".json":
        return json.dumps(without(json.loads(path.read_text()), _FIELDS), sort_keys=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()
