"""How close does the search come to the best circuit, if all circuits can be tried?

    python -m experiments.circuits.exhaustive  # about a quarter of an hour on two cores

The models are random transformers with 16 heads and neurons, tested on 32 random prompts. They are
not sparse: every node matters, and circuits differ by little. All 65,536 circuits are measured; the
search may use 1% as many evaluations, where a gradient counts as three. `ratio` is the search's
loss divided by the smallest loss of a circuit of the same size, for sizes 4 to 8. Expected: within
1% on 95% of 60 graphs. Writes results/exhaustive_check.json.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax import models
from hagd_jax.baselines import exhaustive
from hagd_jax.models import forward
from hagd_jax.scores import GradientConfig, eap_ig, mean_scores
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    measured_losses,
    repair,
    search_masks,
    top_nodes,
)
from hagd_jax.search.repair import GRADIENT
from hagd_jax.tasks import Prompts, make_prompts

BUDGET = 655  # evaluations that the search may use: 1% of all circuits


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for comparing the search with exhaustive search.

    Attributes:
        graphs: Number of random models.
        layers: Layers of each model; a layer has two heads and `neurons` neurons.
        neurons: Neurons per layer; each node doubles the number of circuits.
        prompts: Number of random prompts.
        length: Tokens per prompt.
        sizes: Circuit sizes in nodes; each model gets one of them, in turn.
        search: Training of the masks.
        repair: Swaps that are measured after the search.
    """

    graphs: int = 60
    layers: int = 2
    neurons: int = 6
    prompts: int = 32
    length: int = 6
    sizes: tuple[int, ...] = (4, 5, 6, 7, 8)
    search: MaskConfig = MaskConfig(steps=40, batch_size=32, learning_rate=0.2, check_every=40)
    repair: RepairConfig = RepairConfig(rounds=6, pairs=8, batch_size=32, least=0)

    @property
    def model(self) -> models.DecoderConfig:
        """Return the configuration of the random models."""
        return models.DecoderConfig(
            vocab_size=12, n_layers=self.layers, d_model=16, n_heads=2, d_mlp=self.neurons,
            max_positions=8,
        )  # fmt: skip


def random_prompts(
    model: models.LanguageModel, config: Config, rng: np.random.Generator
) -> Prompts:
    """Return random prompts whose answers and distractors are the model's own predictions.

    The answer is the prediction on the prompt, the distractor the one on its counterfactual.
    """
    vocabulary = model.config.vocab_size
    clean, other = rng.integers(0, vocabulary, (2, config.prompts, config.length))
    said, instead = (np.asarray(forward(model, x).logits[:, -1]).argmax(-1) for x in (clean, other))
    instead = np.where(instead == said, (said + 1) % vocabulary, instead)
    sides = (x.tolist() for x in (clean, other, said, instead))
    return make_prompts(*sides, vocab_size=vocabulary)


def measure(cell: Row, config: Config) -> list[Row]:
    """Compare the search with the best circuit of its size on one random model."""
    seed, size = cell["seed"], cell["size"]
    search, gradients = config.search, GradientConfig(batch_size=config.prompts)
    model = models.init(config.model, jax.random.key(seed))
    model = model.replace(params=jax.tree.map(lambda x: 2 * x, model.params))
    prompts = random_prompts(model, config, np.random.default_rng(seed))
    every = exhaustive(model, prompts, config.repair)
    best = every.losses[every.best(size)]
    scores = mean_scores(model, prompts, gradients)
    made = search_masks(model, prompts, scores, [size], search, seed=seed)
    found = repair(model, prompts, made.circuits[size], config.repair)
    spent = GRADIENT * (len(gradients.steps) + search.steps) + found.evaluations
    tops = [top_nodes(s, size) for s in (scores, eap_ig(model, prompts, gradients))]
    ig, eap = measured_losses(model, prompts, tops, config.repair)
    ranked = np.sort(every.losses[every.members.sum(1) == size])
    return [{
        "nodes": every.members.shape[1], "least": round(float(best), 5),
        "found": round(found.losses[-1], 5), "masks": round(found.losses[0], 5),
        "ig": round(float(ig), 5), "eap_ig": round(float(eap), 5),
        "ratio": round(found.losses[-1] / float(best), 5),
        "within": bool(found.losses[-1] <= 1.01 * best),
        "rank": int(np.searchsorted(ranked, found.losses[-1] * (1 - 1e-6))),
        "circuits_of_the_size": len(ranked), "evaluations": spent, "allowed": BUDGET,
    }]  # fmt: skip


def main(config: Config) -> None:
    """Measure all random models."""
    cells = [
        {"seed": seed, "size": config.sizes[seed % len(config.sizes)]}
        for seed in range(config.graphs)
    ]
    nodes = config.layers * (config.model.n_heads + config.neurons)
    measure_cells(
        "exhaustive_check", cells, lambda cell: measure(cell, config), config, varied=("graphs",),
        evaluations_of_all=2**nodes,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
