"""Do transcoders keep the middle feature of chains A → B → C, and which training does it take?

    python -m experiments.transcoders.two_hop --out runs/two_hop

Trains transcoders of 20 hand-built Boolean models whose chains A → B → C are known
(`hagd_jax/testbeds/two_hop.py`): per layer (window 0), windowed (1) and full cross-layer (all),
each with and without the paper's prediction head and the Jacobian loss, under four sparsity
penalties; then with other weights of the Jacobian loss, and with the default of one token in eight
(`every`). Each row is printed and saved when it is measured; if the script is killed, the same
command continues after the last saved row. Takes three quarters of an hour on two CPU cores;
`seconds` counts CPU time. Writes results/two_hop.json.

All numbers are means over models, on inputs left out of training:

- fvu: FVU over all layers; l0: number of active features in all layers together;
- jacobian_random, jacobian_active: E‖(J_tc − J_mlp) v‖² / E‖J_mlp v‖², mean over layers; 0 means
  equal Jacobians, 1 is as bad as a zero Jacobian;
- skip_share: share of A → C's attribution that bypasses B (`hagd_jax/testbeds/skipping.py`);
  across: the part of it that goes over cross-layer edges; adjacent and apart: skip share of chains
  whose two MLPs are neighbours, or further apart;
- response: share of the model's change of C that the transcoder shows if B is flipped between the
  layers.

Expected: without the Jacobian loss all transcoders skip, cross-layer ones most, and sparser ones
more. The prediction head alone helps little, and harms cross-layer transcoders. With the loss,
per-layer transcoders mostly keep B at no cost in FVU; at one token in eight they keep it a little
less and at some cost. Cross-layer transcoders still skip across, and sparser ones more.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich
from rich.progress import track

from experiments.common.processes import few_programs
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.files import write_atomic
from hagd_jax.models import LanguageModel, forward
from hagd_jax.pipeline import open_run
from hagd_jax.testbeds.skipping import skip_share
from hagd_jax.testbeds.two_hop import TwoHop, TwoHopConfig, two_hop
from hagd_jax.transcoders import Transcoder, decode, encode, init
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.measures.faithfulness import jacobian_match
from hagd_jax.transcoders.training import TrainConfig, TrainState, finish, init_state, moments, step
from hagd_jax.transcoders.training.losses import LossConfig

SIZES = (
    TwoHopConfig(chains=4, n_layers=3, d_model=24),
    TwoHopConfig(chains=6, n_layers=4, d_model=32),
)
BATCH, LENGTH = 16, 8
# At most two chains are present, so two active features per layer suffice, and one does not.
PRESSURES: dict[str, dict[str, Any]] = {
    "k=2": {"activation": "topk", "k": 2},
    "k=1": {"activation": "topk", "k": 1},
    "l1=.1": {"activation": "relu", "sparsity": 0.1},
    "l1=.3": {"activation": "relu", "sparsity": 0.3},
}
WINDOWS = {"0": 0, "1": 1, "all": -1}
HEAD, JACOBIAN = 0.3, 0.3
CELLS = [
    (pressure, window, head, jacobian, 1)
    for pressure in PRESSURES
    for window in WINDOWS
    for head in (0.0, HEAD)
    for jacobian in (0.0, JACOBIAN)
    if not (head and jacobian) or pressure in ("k=2", "l1=.1")
] + [
    (pressure, window, 0.0, jacobian, 1)
    for pressure, window in (("k=2", "0"), ("l1=.1", "0"), ("l1=.1", "all"))
    for jacobian in (0.03, 0.1, 1.0)
]
# The Jacobian loss at one token in eight, which is the default.
CELLS += [(*cell, 0.0, JACOBIAN, 8) for cell in (("k=2", "0"), ("l1=.1", "0"), ("l1=.1", "all"))]


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for training transcoders of two-hop models.

    Attributes:
        models: Number of models of each size.
        out: Folder of unfinished work; by default `two_hop` in the folder of runs.
        steps: Training steps of a transcoder.
        rows: Largest number of training variants; 0 for all.
        sizes: Sizes of the models.
    """

    models: int = 10
    out: Path | None = None
    steps: int = 2000
    rows: int = 0
    sizes: tuple[TwoHopConfig, ...] = SIZES


def train_config(
    steps: int, pressure: str, window: str, head: float, jacobian: float, every: int
) -> TrainConfig:
    """Return the training configuration of one row."""
    look = dict(PRESSURES[pressure])
    sparsity = look.pop("sparsity", 0.0)
    return TrainConfig(
        features="2x",
        window=WINDOWS[window],
        tokens=steps * BATCH * LENGTH,
        batch_size=BATCH,
        learning_rate=0.01,
        loss=LossConfig(
            sparsity=sparsity,
            predict=head,
            jacobian=jacobian,
            jacobian_every=every,
            dead_after=5_000,
        ),
        **look,
    )


def fit(chains: TwoHop, seen: jax.Array, seed: int, train: TrainConfig) -> Transcoder:
    """Train a transcoder of one model on the training inputs `seen`."""
    config = train.transcoder(chains.model.config)
    for_params, key = jax.random.split(jax.random.key(seed))
    params = init(config, for_params).params
    made = _train(chains.model, params, seen, key, config, train)
    # The prediction head is only used in training.
    params = {name: value for name, value in made.params.items() if not name.endswith("_pred")}
    return made.replace(params=params, config=made.config.replace(predict=False)).bare()


@functools.partial(jax.jit, static_argnames=("config", "train"))
def _train(
    model: LanguageModel,
    params: dict[str, jax.Array],
    seen: jax.Array,
    key: jax.Array,
    config: TranscoderConfig,
    train: TrainConfig,
) -> Transcoder:
    """Run all training steps in one program, which models of one size share."""
    stats = moments(model, seen[:, None], jnp.ones((len(seen), 1)), config=config).normalisation()
    for_steps, for_data = jax.random.split(key)
    steps = train.steps(LENGTH)
    state = init_state(config, train, stats)
    # The key is an argument: a seed in the static `train` would compile another program.
    state = state.replace(params=params, key=for_steps)

    def update(state: TrainState, key: jax.Array) -> tuple[TrainState, None]:
        tokens = jax.random.choice(key, seen, (BATCH, LENGTH))
        weight = jnp.ones((BATCH, LENGTH))
        return step(state, model, tokens, weight, config=config, train=train, steps=steps)[0], None

    state, _ = jax.lax.scan(update, state, jax.random.split(for_data, steps))
    return finish(state, config)


@jax.jit
def measure(transcoder: Transcoder, chains: TwoHop, unseen: jax.Array) -> dict[str, jax.Array]:
    """Measure a transcoder of one model on held-out inputs."""
    reads = transcoder.config.reads
    trace = forward(chains.model, unseen[:, None], capture=(reads, "mlp_out")).trace
    x, y = (trace[site][:, :, 0] for site in (reads, "mlp_out"))
    active = encode(transcoder, x)
    error = y - decode(transcoder, active, x)
    match = jacobian_match(transcoder, chains.model, x, jax.random.key(0))
    skip = skip_share(transcoder, chains, unseen)
    far = chains.later - chains.earlier > 1
    return {
        "fvu": jnp.sum(error**2) / jnp.sum((y - y.mean(1, keepdims=True)) ** 2),
        "l0": jnp.sum(active > 0) / len(unseen),
        "jacobian_random": match.random.mean(),
        "jacobian_active": match.active.mean(),
        "skip_share": jnp.nanmean(skip.share),
        "across": jnp.nanmean(skip.across),
        "adjacent": jnp.nanmean(jnp.where(far, jnp.nan, skip.share)),
        "apart": jnp.nanmean(jnp.where(far, skip.share, jnp.nan)),
        "response": skip.response.mean(),
    }


def fit_and_measure(train: TrainConfig, case: tuple) -> dict[str, jax.Array]:
    """Train the transcoder of one model, and measure it."""
    chains, seen, unseen, seed = case
    return jax.block_until_ready(measure(fit(chains, seen, seed, train), chains, unseen))


def neuron_basis(model: LanguageModel) -> Transcoder:
    """Return the transcoder whose features are the neurons, so that it equals the MLPs."""
    c, mlp = model.config, model.params["blocks"]["mlp"]
    config = TranscoderConfig(
        n_layers=c.n_layers, d_model=c.d_model, n_features=c.d_mlp, activation="relu"
    )
    params = {"W_enc": mlp["in"]["kernel"].swapaxes(1, 2), "b_enc": mlp["in"]["bias"]}
    params |= {"W_dec": mlp["out"]["kernel"], "b_dec": mlp["out"]["bias"]}
    return Transcoder(params, config).bare()


def summarise(found: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Return means over models, and standard errors of FVU, skip share and response."""
    row = {}
    for name in found[0]:
        values = np.array([float(f[name]) for f in found])
        row[name] = round(float(np.nanmean(values)), 4)
        if name in ("fvu", "skip_share", "response"):
            row[f"{name}_se"] = round(float(np.nanstd(values, ddof=1) / len(values) ** 0.5), 4)
    return row


def two_hop_models(count: int, sizes: Sequence[TwoHopConfig]) -> list[tuple]:
    """Return models of all sizes, each with training inputs, held-out inputs and its seed."""
    made = []
    for seed in range(count):
        for size in sizes:
            chains = two_hop(seed, size)
            order = np.random.default_rng(seed).permutation(size.vocab_size)
            kept = size.vocab_size * 4 // 5
            plain = chains.replace(model=chains.model.bare())
            made.append((plain, jnp.asarray(order[:kept]), jnp.asarray(order[kept:]), seed))
    return made


def main(config: Config) -> None:
    """Measure each training variant over all models."""
    models = two_hop_models(config.models, config.sizes)
    found = [measure(neuron_basis(c.model), c, unseen) for c, _, unseen, _ in models]
    own = open_run(
        config.out or config.runs / "two_hop", {"models": config.models, "steps": config.steps}
    )
    rows: list[dict[str, Any]] = [{"pressure": "neurons"} | summarise(found)]
    seconds = 0.0
    for number, cell in enumerate(track(CELLS[: config.rows or None])):
        file = own.path / f"row-{number}.json"
        if not file.exists():
            write_atomic(file, json.dumps(measure_cell(models, cell, config.steps)))
            rich.print(json.loads(file.read_text()))
        row = json.loads(file.read_text())
        seconds += row.pop("seconds")
        rows.append(row)
    record(
        config.results / "two_hop.json", rows, seconds=seconds, seed=0, models=len(models),
        steps=config.steps,
    )  # fmt: skip


def measure_cell(models: list[tuple], cell: tuple, steps: int) -> dict[str, Any]:
    """Train and measure transcoders of all models in one way; return a row."""
    began = time.process_time()
    train = train_config(steps, *cell)
    # Models of the two sizes take turns, so two threads compile two programs.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(functools.partial(fit_and_measure, train), models))
    few_programs()
    row = dict(zip(("pressure", "window", "head", "jacobian", "every"), cell, strict=True))
    return row | summarise(found) | {"seconds": round(time.process_time() - began, 1)}


if __name__ == "__main__":
    run(main, Config, __doc__)
