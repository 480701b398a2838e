"""Is attribution exact in every family of models?

    python -m experiments.parity.attribution_families

Takes about two minutes on two CPU cores. Expected: both columns of differences within the limits
below. Writes results/attribution_families.json.

Each family is a small model of noise with the options of a published model, with soft caps that
bend. Its graphs are over neurons, where targets are logits, and over a cross-layer transcoder of
noise, where they are logits and features: one that reads the MLP's input, one that reads the stream
before the norm, and in models with a norm after the MLP one that reconstructs what the MLP puts out
before it. Patterns, norm scales and MLP outputs are held:

- identity: a target's value in the model, against the sum of its row and the constant that is left
  of it when a pass runs without sources. The greatest difference over all targets of a kind, as a
  share of the largest value among them;
- differences: the change of every target when one source moves alone, against its edge. Neurons
  move where they are, before the norm after the MLP; logits with a soft cap are differentiated in
  float64. The greatest difference, as a share of the largest edge into targets of that kind.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, struct, transcoders
from hagd_jax.graphs import AttributionConfig, AttributionGraph, attribute
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT
from hagd_jax.interventions import chain, freeze
from hagd_jax.models import DecoderConfig, Intervention, LanguageModel, preset, scanned, shared
from hagd_jax.models.decoder import param_specs
from hagd_jax.transcoders import Transcoder, TranscoderConfig

LIMITS = {"identity": 1e-5, "differences": 1e-5}
HELD = (
    "attn_pattern", "norm1_scale", "norm2_scale", "normf_scale", "attn_out_scale", "mlp_out_scale",
)  # fmt: skip
STEP = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Places):
    """Config holds the settings for attribution in small models of every family.

    Attributes:
        families: Families to check, all of them by default; a record of others, measured with the
            same settings, is kept.
        layers: Layers of each model.
        sources: Sources that move by themselves, in each graph.
        seed: Seed of weights, prompts and the choice of sources.
    """

    families: tuple[str, ...] = ()
    layers: int = 3
    sources: int = 48
    seed: int = 0


def main(config: Config) -> None:
    """Check every family, record the differences, and exit with an error beyond the limits."""
    began = time.monotonic()
    every = families(config.layers)
    rows: list[dict[str, Any]] = [
        {"family": name, "nodes": nodes} | compare(model, transcoder, config)
        for name in config.families or every
        for model in [noise(every[name], config.seed)]
        for nodes, transcoder in dictionaries(model.config, config.seed + 1).items()
    ]
    file = config.results / "attribution_families.json"
    settings = {name: getattr(config, name) for name in ("layers", "sources")}
    if config.families and file.is_file():
        rows = _beside(json.loads(file.read_text()), rows, {"seed": config.seed, **settings}, every)
    seconds = time.monotonic() - began
    record(file, rows, seconds=seconds, seed=config.seed, limits=LIMITS, **settings)
    wrong = [r["family"] for r in rows if any(r[name] > limit for name, limit in LIMITS.items())]
    if wrong:
        sys.exit(f"beyond the limits: {sorted(set(wrong))}")


def _beside(
    earlier: dict[str, Any], rows: list[dict[str, Any]], settings: dict[str, int], order: Any
) -> list[dict[str, Any]]:
    """Rows with those of other families that were measured with the same settings."""
    if any(earlier.get(name) != value for name, value in settings.items()):
        return rows
    new = {row["family"] for row in rows}
    kept = [row for row in earlier["rows"] if row["family"] in order and row["family"] not in new]
    return sorted(kept + rows, key=lambda row: list(order).index(row["family"]))


def families(layers: int) -> dict[str, DecoderConfig]:
    """Return a small configuration of each family, with its options."""
    llama, gemma = preset("llama-2-7b"), preset("gemma-2-2b")
    first = gemma.replace(
        family="gemma", norm_placement="before", window=0, window_layers=(), attn_softcap=0.0,
        logit_softcap=0.0, query_scalar=0.0,
    )  # fmt: skip
    chosen = {
        "gpt2": preset("gpt2"),
        "gpt_neox": preset("pythia-160m"),
        "llama": llama,
        "qwen2": preset("qwen2.5-0.5b"),
        "qwen3": preset("qwen3-0.6b"),
        "gemma": first,
        "gemma2": gemma,
        "gemma3": preset("gemma-3-1b"),
        "mistral": preset("mistral-7b-v0.1"),
        "olmo2": llama.replace(family="olmo2", norm_placement="after", qk_norm="all"),
        "phi3": llama.replace(family="phi3"),
        "qwen3_moe": preset("qwen3-30b-a3b"),
        "mixtral": preset("mixtral-8x7b"),
    }
    return {name: small(config, layers) for name, config in chosen.items()}


def small(config: DecoderConfig, layers: int) -> DecoderConfig:
    """Shrink a model, keep its options, and let windows hide and soft caps bend."""
    rotary = config.positions == "rotary"
    if config.experts:
        # Six neurons an expert; of Qwen 3, the first layer is none, and fills half of a third.
        config = config.replace(experts=4, experts_per_token=2)
    if config.family == "qwen3_moe":
        config = config.replace(dense_layers=(0,), d_dense=15)
    return config.replace(
        n_layers=layers, d_model=32, n_heads=4, d_head=8, d_mlp=24, vocab_size=64,
        n_kv_heads=4 if config.n_kv_heads == config.n_heads else 2, max_positions=32,
        rotary_dim=(8 if config.rotary_dim == config.d_head else 4) if rotary else 0,
        window=min(config.window, 4), query_scalar=min(config.query_scalar, 6.0),
        window_layers=tuple(layer for layer in config.window_layers if layer < layers),
        attn_softcap=min(config.attn_softcap, 1.5), logit_softcap=min(config.logit_softcap, 2.0),
    )  # fmt: skip


def noise(config: DecoderConfig, seed: int) -> LanguageModel:
    """Return a model whose every parameter is noise; norms' weights lie around 1."""
    params = flax.traverse_util.unflatten_dict(_drawn(param_specs(config), seed), sep="/")
    return LanguageModel(params, config, name=config.family)


def dictionaries(config: DecoderConfig, seed: int) -> dict[str, Transcoder | None]:
    """Return transcoders of noise whose features write to their own layer and the next, and None.

    None stands for neurons. One transcoder reads the MLP's input, one the stream before the norm.
    Where a norm follows the MLP a third one writes before it.
    """
    own = TranscoderConfig(config.n_layers, config.d_model, 24, activation="relu", window=1)
    kinds = {
        "transcoder": own,
        "transcoder, reads resid_mid": dataclasses.replace(own, reads="resid_mid"),
    }
    if config.norm_placement != "before":
        kinds["transcoder, writes mlp_out_raw"] = dataclasses.replace(own, writes="mlp_out_raw")
    made = {name: Transcoder(_drawn(transcoders.param_specs(own), seed), own)
            for name, own in kinds.items()}  # fmt: skip
    return {"neurons": None, **made}


def _drawn(specs: Mapping[str, Any], seed: int) -> dict[str, jax.Array]:
    rng, found = np.random.default_rng(seed), {}
    for path, spec in specs.items():
        drawn = 0.3 * rng.normal(size=spec.shape) + path.endswith("scale")
        found[path] = jnp.asarray(drawn, jnp.float32)
    return found


def compare(model: LanguageModel, transcoder: Transcoder | None, config: Config) -> dict[str, Any]:
    """Attribute a prompt, and return how far rows and edges are from what passes show."""
    rng = np.random.default_rng(config.seed)
    prompt = rng.integers(0, model.config.vocab_size, 9)
    settings = AttributionConfig(max_feature_nodes=10**6, batch_size=64)
    graph = attribute(model, transcoder, prompt, settings)
    case = Case(model, transcoder, graph, prompt)
    kinds = (LOGIT,) if transcoder is None else (LOGIT, FEATURE)
    targets = [graph.of_kind(kind) for kind in kinds]
    rows = graph.to_dense().astype(np.float64)
    sums = rows.sum(1) + np.asarray(graph.nodes.remainder, np.float64)
    sources = np.flatnonzero(np.asarray(graph.nodes.kind) != LOGIT)
    moved = rng.choice(sources, min(config.sources, len(sources)), replace=False)
    own, left, changes = case.values([None]), case.values([sources]), case.slopes(moved)
    worst = {"identity": 0.0, "differences": 0.0, "largest": 0.0}
    for kind, nodes in zip(kinds, targets, strict=True):
        value = own[kind][0]
        miss = value - (sums[nodes] + left[kind][0])
        edges = rows[np.ix_(nodes, moved)].T
        found = {
            "identity": np.abs(miss).max() / np.abs(value).max(),
            "differences": np.abs(changes[kind] - edges).max() / np.abs(edges).max(),
            "largest": np.abs(edges).max(),
        }
        worst = {name: max(worst[name], float(f"{found[name]:.3g}")) for name in worst}
    count = sum(map(len, targets))
    return {"targets": count, "sources": len(moved)} | worst


@struct.dataclass
class Moved(Intervention):
    """Hold MLP outputs at recorded values, and add to what sources write.

    Attributes:
        word: (B, T, D) added to the embedding.
        neuron: (L, B, T, M) what neurons are in layers that run.
        out: (L, B, T, D) what MLPs put out in the others.
        runs: (L, B, 1, 1) whether a layer's neurons write, through the norm after the MLP.
    """

    word: Any = shared()
    neuron: Any = scanned()
    out: Any = scanned()
    runs: Any = scanned()

    def on_embed(self, value: Any, ctx: Any) -> tuple[Any, Moved]:
        """Add to the embedding."""
        return value + self.word, self

    def on_neuron(self, value: Any, ctx: Any) -> tuple[Any, Moved]:
        """Return the given neurons."""
        return self.neuron, self

    def on_mlp_out(self, value: Any, ctx: Any) -> tuple[Any, Moved]:
        """Return the given output, or what the given neurons write."""
        return jnp.where(self.runs, value, self.out), self


@struct.dataclass
class MovedRaw(Moved):
    """Hold what MLPs put out before the norm after them, and add to what sources write there."""

    def on_mlp_out(self, value: Any, ctx: Any) -> tuple[Any, Moved]:
        """Return what the norm makes of it."""
        return value, self

    def on_mlp_out_raw(self, value: Any, ctx: Any) -> tuple[Any, Moved]:
        """Return the given output."""
        return self.out, self


class Case:
    """A case is a graph with the held pass that its sources move in."""

    def __init__(
        self,
        model: LanguageModel,
        transcoder: Transcoder | None,
        graph: AttributionGraph,
        prompt: np.ndarray,
    ):
        self.model, self.transcoder, self.graph = model, transcoder, graph
        self.tokens = jnp.asarray(prompt[None])
        self.site = "mlp_out" if transcoder is None else transcoder.config.writes
        self.reads = "mlp_in" if transcoder is None else transcoder.config.reads
        capture = (*HELD, "neuron", self.reads, self.site, "normed_final")
        self.trace = models.forward(model, self.tokens, capture=capture).trace
        p, c = model.params, model.config
        table = p["embed"]["embedding"].T if c.tied else p["unembed"]["kernel"]
        self.unembed = np.asarray(table, np.float64)
        bias = np.zeros(c.vocab_size) if c.tied else p["unembed"].get("bias", 0.0)
        self.unembed_bias = np.asarray(bias, np.float64)
        words = np.asarray(p["embed"]["embedding"])[prompt]
        self.words = words * (c.d_model**0.5 if c.scale_embed else 1.0)
        if transcoder is not None:
            self.errors = np.asarray(transcoders.errors(transcoder, self.trace))[:, 0]
            self.params = {name: np.asarray(value) for name, value in transcoder.params.items()}

    def values(self, gone: list[Any]) -> dict[int, np.ndarray]:
        """Return targets' values by kind, (n, targets), each without some sources."""
        final, read = self.run([{} if nodes is None else dict.fromkeys(nodes, -1.0)
                                for nodes in gone])  # fmt: skip
        return {LOGIT: self.logits(self.scores(final), None)} | self.features(read)

    def slopes(self, moved: np.ndarray) -> dict[int, np.ndarray]:
        """Return the change of targets as each source moves by itself, to first order."""
        final, read = self.run([{}, *({node: 1.0} for node in moved)])
        scores, features = self.scores(final), self.features(read)
        here, change = scores[:1], scores[1:] - scores[:1]
        up, down = (self.logits(here + step * change, 0) for step in (STEP, -STEP))
        found = {LOGIT: (up - down) / (2 * STEP)}
        return found | {kind: value[1:] - value[:1] for kind, value in features.items()}

    def run(self, moves: list[dict[int, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Run passes in which sources write 1 + a times what they wrote."""
        count, trace = len(moves), self.trace
        spread = lambda x, axis: np.repeat(np.asarray(x), count, axis)  # noqa: E731
        word = np.zeros((count, *self.words.shape), np.float32)
        neuron, out = spread(trace["neuron"], 1), spread(trace[self.site], 1)
        runs = np.zeros((len(out), count, 1, 1), bool)
        for row, move in enumerate(moves):
            for node, by in move.items():
                self.move(int(node), by, (word[row], neuron[:, row], out[:, row], runs[:, row]))
        held = freeze({site: spread(trace[site], int(site != "normf_scale")) for site in HELD})
        kind = MovedRaw if self.site == "mlp_out_raw" else Moved
        acting = kind(*map(jnp.asarray, (word, neuron, out, runs)))
        ran = models.forward(self.model, jnp.repeat(self.tokens, count, 0), chain(held, acting),
                             capture=("normed_final", self.reads))  # fmt: skip
        return np.asarray(ran.trace["normed_final"])[:, -1], np.asarray(ran.trace[self.reads])

    def move(self, node: int, by: float, into: tuple[np.ndarray, ...]) -> None:
        """Add `by` times what a node writes to what one pass is given."""
        word, neuron, out, runs = into
        table = self.graph.nodes
        layer, position, index = (int(x[node]) for x in (table.layer, table.position, table.index))
        kind, amount = table.kind[node], by * float(table.activation[node])
        if kind == EMBEDDING:
            word[position] += by * self.words[position]
        elif kind == FEATURE and self.transcoder is not None:
            for receiver, edge in edges_of(self.transcoder.config, layer):
                out[receiver, position] += amount * self.params["W_dec"][edge, index]
        elif kind == FEATURE:
            neuron[layer, position, index] += amount
            runs[layer] = True
        elif kind == ERROR and self.transcoder is not None and position:  # the first has none
            out[layer, position] += by * self.errors[layer, position]

    def scores(self, final: np.ndarray) -> np.ndarray:
        """Return (n, V) logits before their soft cap, in float64."""
        return final.astype(np.float64) @ self.unembed + self.unembed_bias

    def logits(self, scores: np.ndarray, about: int | None) -> np.ndarray:
        """Return targets' logits less the mean: with their cap, or its tangent at this prompt."""
        cap = self.model.config.logit_softcap
        if cap and about is None:
            here = np.asarray(self.trace["normed_final"], np.float64)[0, -1] @ self.unembed
            here = here + self.unembed_bias
            flat = 1 / np.cosh(here / cap) ** 2
            scores = cap * np.tanh(here / cap) + flat * (scores - here)
        elif cap:
            scores = cap * np.tanh(scores / cap)
        chosen = self.graph.nodes.index[self.graph.of_kind(LOGIT)]
        return (scores - scores.mean(-1, keepdims=True))[:, chosen]

    def features(self, read: np.ndarray) -> dict[int, np.ndarray]:
        """Return (n, targets) inputs of the features that are nodes, without their biases."""
        if self.transcoder is None:
            return {}
        table, here = self.graph.nodes, self.graph.of_kind(FEATURE)
        layer, position, index = (x[here] for x in (table.layer, table.position, table.index))
        rows = self.params["W_enc"][layer, index].astype(np.float64)
        x = read[layer, :, position].astype(np.float64)
        return {FEATURE: np.einsum("nbd,nd->bn", x, rows)}


def edges_of(config: TranscoderConfig, layer: int) -> list[tuple[int, int]]:
    """Return the layers that features of a layer write to, with the number of each edge."""
    layers = range(config.n_layers)
    edges = [(a, b) for a in layers for b in layers if a <= b < a + config.width]
    return [(b, number) for number, (a, b) in enumerate(edges) if a == layer]


if __name__ == "__main__":
    run(main, Config, __doc__)
