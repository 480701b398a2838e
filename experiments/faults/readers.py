"""Good files of every kind that the package reads, each with what reads it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import yaml

from experiments.faults import gguf_readers, row_readers
from hagd_jax import causal, graphs, meta, models, pipeline, transcoders, units
from hagd_jax.causal.edge_circuit import Shape
from hagd_jax.errors import CheckpointError
from hagd_jax.files import SEAL, read_npz
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.pipeline import levels
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.tasks import Seen
from hagd_jax.transcoders.contexts.context import Contexts, LayerContexts
from hagd_jax.units import Nodes, Scores, Space
from hagd_jax.units.tree import tree_of

CONFIG = models.DecoderConfig(
    family="llama", vocab_size=12, n_layers=2, d_model=8, n_heads=2, d_mlp=12, max_positions=16,
    norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
    attn_out_bias=False, mlp_bias=False,
)  # fmt: skip


class Reader(NamedTuple):
    """Reader is a kind of file: how a good one is made, and what reads it.

    Attributes:
        make: Makes a good one in a folder, and gives the files that are mutated in turn.
        read: Reads what the folder holds, and gives what decides anything.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


SPACE = Space(2, 2, 12)
CLUSTERED = pipeline.ExtractConfig(
    nodes="4", search="masks", hierarchy=HierarchyConfig(least=2, ratio=0.5)
)
WORDS = models.Tokenizer.words([f"w{i}" for i in range(12)])


@functools.cache
def model() -> models.LanguageModel:
    """Make a small Llama with a tokenizer."""
    return models.init(CONFIG, jax.random.key(0), tokenizer=WORDS, name="small")


def made_model(folder: Path) -> list[Path]:
    """Write a folder of a model."""
    models.save(model(), folder / "model")
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return [path for name in names if (path := folder / "model" / name).exists()]


def made_transcoder(folder: Path) -> list[Path]:
    """Write a folder of a transcoder in circuit-tracer's format."""
    config = transcoders.TranscoderConfig(n_layers=2, d_model=8, n_features=6, k=2, window=0)
    transcoders.save(transcoders.init(config, jax.random.key(1)), folder / "transcoder")
    (folder / "transcoder" / SEAL).unlink(missing_ok=True)
    files = sorted(path for path in (folder / "transcoder").iterdir() if path.is_file())
    return [path for path in files if path.suffix in (".yaml", ".safetensors")][:3]


def made_circuit(folder: Path) -> list[Path]:
    """Write a circuit of nodes, with a record of what it has seen."""
    nodes = causal.Node("head", 0, 1), causal.Node("neuron", 1, 4)
    circuit = causal.Circuit(
        nodes, (0.5, -1.25), SPACE, "small", "ioi", seen=Seen.nothing(),
        config={"steps": [1, 2.5]},
    )  # fmt: skip
    circuit.save(folder / "circuit.json")
    return [folder / "circuit.json"]


TREE = tree_of(SPACE, "neurons", [np.arange(SPACE.nodes) // 3], 1, Seen.nothing())


def made_units(folder: Path) -> list[Path]:
    """Write a circuit of a whole MLP, a cluster and a head."""
    circuit = causal.Circuit.of_units(
        TREE, ["mlp 0", "cluster 1.2", "head 0.1"], (1.0, 0.5, -1.25), model="small", task="ioi",
        seen=Seen.nothing(),
    )  # fmt: skip
    circuit.save(folder / "circuit.json")
    return [folder / "circuit.json"]


def made_tree(folder: Path) -> list[Path]:
    """Write a tree of units with clusters."""
    units.save_tree(TREE, folder / "tree.safetensors")
    return [folder / "tree.safetensors"]


def loaded_tree(folder: Path) -> Any:
    """Load a tree, and give its digest and what it has seen."""
    found = units.load_tree(folder / "tree.safetensors")
    return found.digest, found.seen, [unit.name for unit in found.rest([])]


def made_edges(folder: Path) -> list[Path]:
    """Write a circuit of edges."""
    edges = causal.Edge("embed", "head 0.1", "q"), causal.Edge("mlp 0", "logits", "logits")
    circuit = causal.EdgeCircuit(
        edges, (0.5, -1.25), Shape(2, 2, 2, False), model="small", task="ioi", seen=Seen.nothing()
    )
    circuit.save(folder / "circuit.json")
    return [folder / "circuit.json"]


def made_graph(folder: Path) -> list[Path]:
    """Write an attribution graph."""
    graphs.save_graph(graphs.attribute(model(), None, [1, 2, 3, 4], targets=5), folder / "g")
    return [folder / "g"]


def made_arrays(folder: Path) -> list[Path]:
    """Write arrays as a stage of a run does."""
    np.savez_compressed(
        folder / "a.npz", scores=np.arange(12.0), level=np.arange(4, dtype=np.int32)
    )
    return [folder / "a.npz"]


def loaded(name: str) -> Callable[[Path], Any]:
    """Make what loads a model, and gives its weights, sizes and vocabulary."""

    def read(folder: Path) -> Any:
        found = models.load(str(folder / name))
        words = found.tokenizer and [found.tokenizer.decode([i]) for i in range(12)]
        return jax.tree.map(np.asarray, found.params), found.config, words

    return read


def loaded_transcoder(folder: Path) -> Any:
    """Load a transcoder of the small model, and give its weights and sizes."""
    found = transcoders.load(str(folder), model=model())
    return jax.tree.map(np.asarray, found.params), found.config


def loaded_circuit(folder: Path) -> str:
    """Load a circuit of nodes or of edges."""
    return causal.load_circuit(folder / "circuit.json").to_json()


def loaded_learner(folder: Path) -> Any:
    """Load a meta-learner, and give its weights and sizes."""
    found = meta.load(folder / "learner")
    return jax.tree.map(np.asarray, found.params), found.config


def made_tokenizer(folder: Path) -> list[Path]:
    """Write a tokenizer.json alone."""
    (folder / "tokenizer.json").write_text(WORDS.to_json())
    return [folder / "tokenizer.json"]


def loaded_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, and return what it makes of all of its words."""
    found = models.Tokenizer.from_file(folder / "tokenizer.json")
    ids = range(found.vocab_size)
    return found.encode("w1 w11 w2"), [found.decode([i]) for i in ids], found.begin, found.end


def made_hierarchy(folder: Path) -> list[Path]:
    """Write the clusters of a run's nodes, without the digest."""
    size = levels.graph_size(CLUSTERED, SPACE)
    found: dict[str, Any] = {
        f"level{i}": np.arange(SPACE.nodes, dtype=np.int32) * count // SPACE.nodes
        for i, count in enumerate(size.counts)
    }
    np.savez_compressed(folder / "h.npz", prior=np.arange(SPACE.nodes, dtype=np.float32), **found)
    return [folder / "h.npz"]


def loaded_hierarchy(folder: Path) -> Any:
    """Give the arrays the digest that a run's files have, and read them as its stage does."""
    arrays = read_npz(folder / "h.npz")
    run = RunFolder(folder)
    run.keep(levels.FILE, **arrays)
    context = Context(model(), cast(Any, None), CLUSTERED, run=run)
    left = Left({"score": Scores(Nodes.full(SPACE, 1.0), Seen.nothing())})
    found = levels.kept(context, left)
    if found is None:  # the stage makes it again
        raise CheckpointError(levels.FILE, got="damage", expected="what the stage has left")
    return found.tree.clusters, found.tree.counts, found.prior.flat()


def made_contexts(folder: Path) -> list[Path]:
    """Write the top contexts of a transcoder's features."""
    rng = np.random.default_rng(0)
    layer = LayerContexts(
        np.arange(2, dtype=np.int32), -np.sort(-rng.random((2, 3)).astype(np.float32)),
        rng.integers(0, 3, (2, 3)).astype(np.int32), rng.integers(0, 3, (2, 3)).astype(np.int32),
        rng.random((2, 3, 4)).astype(np.float16),
    )  # fmt: skip
    text = rng.integers(0, 3, (4, 5)).astype(np.int32), rng.random((4, 5)).astype(np.float32)
    counts = (rng.random((2, 6)).astype(np.float32) for _ in range(2))
    found = Contexts("m", "t", "abc", (2, 1), *text, *counts, layers={0: layer})
    transcoders.save_contexts(found, folder / "contexts")
    return [folder / "contexts" / name
            for name in ("contexts.json", "text.safetensors", "layer_0.safetensors")]  # fmt: skip


def loaded_contexts(folder: Path) -> Any:
    """Load contexts with all of their layers."""
    found = transcoders.load_contexts(folder / "contexts")
    own = [getattr(found, field.name) for field in dataclasses.fields(found)[:-1]]
    return own, [dataclasses.astuple(found.layers[layer]) for layer in found.layers]


def made_learner(folder: Path) -> list[Path]:
    """Write the weights of a small meta-learner."""
    config = meta.LearnerConfig(width=4, heads=2, rounds=1)
    meta.save(meta.init(config, jax.random.key(2)), folder / "learner")
    return [folder / "learner"]


def made_scope(folder: Path) -> list[Path]:
    """Write a folder of Gemma Scope's transcoders."""
    rng, files = np.random.default_rng(0), []
    for layer in range(2):
        files.append(folder / f"transcoders/layer_{layer}/width_16k/average_l0_7/params.npz")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        shapes = {"W_enc": (8, 6), "W_dec": (6, 8), "b_enc": (6,), "b_dec": (8,), "threshold": (6,)}
        np.savez(files[-1], **{n: rng.random(s).astype(np.float32) for n, s in shapes.items()})
    return files


def made_list(folder: Path) -> list[Path]:
    """Write a configuration of circuit-tracer that lists the files of Gemma Scope."""
    listed = [str(path.relative_to(folder)) for path in made_scope(folder)]
    values = {
        "model_kind": "transcoder_set", "model_name": "m", "scan": "s",
        "feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out",
        "transcoders": listed,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return [folder / "config.yaml"]


READERS = {
    "model": Reader(made_model, loaded("model")),
    "gguf": Reader(gguf_readers.made_llama, loaded("model.gguf")),
    "gguf_mixture": Reader(gguf_readers.made_mixture, loaded("model.gguf")),
    "gguf_unigram": Reader(gguf_readers.made_unigram, loaded("model.gguf")),
    "tokenizer": Reader(made_tokenizer, loaded_tokenizer),
    "transcoder": Reader(made_transcoder, lambda folder: loaded_transcoder(folder / "transcoder")),
    "gemma_scope": Reader(made_scope, lambda folder: loaded_transcoder(folder / "transcoders")),
    "list": Reader(made_list, loaded_transcoder),
    "contexts": Reader(made_contexts, loaded_contexts),
    "circuit": Reader(made_circuit, loaded_circuit),
    "units": Reader(made_units, loaded_circuit),
    "tree": Reader(made_tree, loaded_tree),
    "edges": Reader(made_edges, loaded_circuit),
    "graph": Reader(
        made_graph, lambda folder: jax.tree.leaves(graphs.load_graph(folder / "g").graph)
    ),
    "arrays": Reader(made_arrays, lambda folder: sorted(read_npz(folder / "a.npz").items())),
    "hierarchy": Reader(made_hierarchy, loaded_hierarchy),
    "learner": Reader(made_learner, loaded_learner),
    **{name: Reader(*both) for name, both in row_readers.MAKERS.items()},
}
