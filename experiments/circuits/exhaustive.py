"""How near to the best circuit does the search come, where all can be tried?

    python -m experiments.circuits.exhaustive  # about a quarter of an hour on two cores

Random transformers of 16 heads and neurons, random weights, 32 random prompts: nothing in them is
sparse, so that every node counts and circuits differ by little. All 65,536 circuits are measured;
the search may measure 1% of as many, a gradient counted as three. Its loss over the least loss of
the same size, sizes 4 to 8. Expected: within 1% on 95% of 60 graphs. Writes
results/exhaustive_check.json.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

from experiments.common.cells import Row, measure_cells
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
from hagd_jax.tasks.prompts import make_prompts

CONFIG = models.DecoderConfig(
    vocab_size=12, n_layers=2, d_model=16, n_heads=2, d_mlp=6, max_positions=8
)
PROMPTS, LENGTH, BUDGET = 32, 6, 655
SEARCH = MaskConfig(steps=40, batch_size=PROMPTS, learning_rate=0.2, check_every=40)
REPAIR = RepairConfig(rounds=6, pairs=8, batch_size=PROMPTS, least=0)
GRADIENTS = GradientConfig(batch_size=PROMPTS)


def measure(cell: Row) -> list[Row]:
    seed, size = cell["seed"], cell["size"]
    model = models.init(CONFIG, jax.random.key(seed))
    model = model.replace(params=jax.tree.map(lambda x: 2 * x, model.params))
    rng = np.random.default_rng(seed)
    clean, other = rng.integers(0, CONFIG.vocab_size, (2, PROMPTS, LENGTH))
    said, instead = (np.asarray(forward(model, x).logits[:, -1]).argmax(-1) for x in (clean, other))
    instead = np.where(instead == said, (said + 1) % CONFIG.vocab_size, instead)
    prompts = make_prompts(
        clean.tolist(), other.tolist(), said.tolist(), instead.tolist(), vocab_size=12
    )
    every = exhaustive(model, prompts, REPAIR)
    best = every.losses[every.best(size)]
    scores = mean_scores(model, prompts, GRADIENTS)
    circuits, _ = search_masks(model, prompts, scores, [size], SEARCH, seed=seed)
    found = repair(model, prompts, circuits[size], REPAIR)
    spent = GRADIENT * (len(GRADIENTS.steps) + SEARCH.steps) + found.evaluations
    tops = [top_nodes(s, size) for s in (scores, eap_ig(model, prompts, GRADIENTS))]
    ig, eap = measured_losses(model, prompts, tops, REPAIR)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=60)
    graphs = range(parser.parse_args().graphs)
    cells = [{"seed": seed, "size": 4 + seed % 5} for seed in graphs]
    measure_cells("exhaustive_check", cells, measure, evaluations_of_all=2**16)


if __name__ == "__main__":
    main()
