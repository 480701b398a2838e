"""Do transcoders keep the middle feature of A → B → C, and what makes them keep it?

    python experiments/two_hop.py

Trains transcoders of 24 hand-built Boolean models whose chains A → B → C are known
(`hagd_jax/tasks/two_hop.py`): per layer (window 0), windowed (1) and full cross-layer (all), each
with and without the paper's prediction head and the Jacobian loss, at several sparsities. The
models of one size train side by side as one program. Writes results/two_hop.json; takes about
half an hour on two cores.

Measured on inputs left out of training: FVU over all layers; L0, summed over layers; Jacobian
match over random and active directions (0 is equal, 1 no better than nothing), mean over layers;
skip share (`transcoders/skipping.py`), the part of it across layers, and the response to flipping
B, mean over chains. `adjacent` and `apart` are skip shares of chains whose MLPs lie one and
several layers apart. Numbers are means over models; `..._se` their standard errors.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from typing import Any

# Rows of active features gain nothing at this size, and one program trains many models at once.
os.environ["HAGD_NATIVE"] = "0"

import jax
import jax.numpy as jnp
import numpy as np
from record import record

from hagd_jax.models import forward
from hagd_jax.tasks.two_hop import TwoHop, TwoHopConfig, two_hop
from hagd_jax.transcoders import features as feat
from hagd_jax.transcoders import init
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.faithfulness import jacobian_match
from hagd_jax.transcoders.losses import LossConfig
from hagd_jax.transcoders.skipping import skip_share
from hagd_jax.transcoders.training import TrainConfig, finish, init_state, moments, step

SIZES = (
    TwoHopConfig(chains=4, n_layers=3, d_model=24),
    TwoHopConfig(chains=6, n_layers=4, d_model=32),
    TwoHopConfig(chains=8, n_layers=5, d_model=48),
)
MODELS = 8  # of each size
STEPS, BATCH, LENGTH = 1500, 16, 8
# At most two chains are present, so two features a layer say everything; one is too few.
SPARSITY = {
    "k=2": {"activation": "topk", "k": 2},
    "k=1": {"activation": "topk", "k": 1},
    "l1=.02": {"activation": "relu", "sparsity": 0.02},
    "l1=.1": {"activation": "relu", "sparsity": 0.1},
}
PARTS = {"none": {}, "predict": {"predict": 0.3}, "jacobian": {"jacobian": 0.3}}
PARTS |= {"both": PARTS["predict"] | PARTS["jacobian"]}


def train_config(sparsity: str, window: int, **loss: float) -> TrainConfig:
    """One cell of the table."""
    look = dict(SPARSITY[sparsity])
    loss |= {"sparsity": look.pop("sparsity")} if "sparsity" in look else {}
    return TrainConfig(
        features="2x",
        window=window,
        tokens=STEPS * BATCH * LENGTH,
        batch_size=BATCH,
        learning_rate=3e-3,
        loss=LossConfig(dead_after=5_000, **loss),
        **look,
    )


@functools.partial(jax.jit, static_argnames=("config", "train"))
def fit(
    chains: TwoHop, seen: jax.Array, key: jax.Array, config: TranscoderConfig, train: TrainConfig
) -> Any:
    """A transcoder of one model, trained on the inputs that are seen."""
    model, weight = chains.model.bare(), jnp.ones((BATCH, LENGTH))
    stats = moments(model, seen[:, None], jnp.ones((len(seen), 1)), config=config).normalisation()
    for_params, for_steps, for_data = jax.random.split(key, 3)
    state = init_state(config, train, stats, steps=STEPS)
    state = state.replace(params=init(config, for_params).params, key=for_steps)

    def update(state: Any, key: jax.Array) -> tuple[Any, None]:
        tokens = jax.random.choice(key, seen, (BATCH, LENGTH))
        return step(state, model, tokens, weight, config=config, train=train, steps=STEPS)[0], None

    state, _ = jax.lax.scan(update, state, jax.random.split(for_data, STEPS))
    return finish(state, config)


@jax.jit
def measure(transcoder: Any, chains: TwoHop, unseen: jax.Array, key: jax.Array) -> dict[str, Any]:
    """What the table shows, of one model."""
    config = transcoder.config
    trace = forward(chains.model.bare(), unseen[:, None], capture=(config.reads, "mlp_out")).trace
    x, y = (trace[site][:, :, 0] for site in (config.reads, "mlp_out"))
    active = feat.encode(transcoder.params, x, config)
    error = y - feat.decode(transcoder.params, active, x, config)
    match = jacobian_match(transcoder, chains.model, x, key)
    skip = skip_share(transcoder, chains, unseen)
    far = chains.later - chains.earlier > 1
    return {
        "fvu": jnp.sum(error**2) / jnp.sum((y - y.mean(1, keepdims=True)) ** 2),
        "l0": jnp.sum(active > 0) / len(unseen),
        "jacobian_random": match.random.mean(),
        "jacobian_active": match.active.mean(),
        "skip_share": jnp.nanmean(skip.share),
        "across": jnp.nanmean(skip.across),
        "response": skip.response.mean(),
        "adjacent": jnp.nanmean(jnp.where(far, jnp.nan, skip.share)),
        "apart": jnp.nanmean(jnp.where(far, skip.share, jnp.nan)),
    }


def data(size: TwoHopConfig, models: int) -> tuple[TwoHop, np.ndarray, np.ndarray]:
    """Stacked models, and the inputs to train and to measure on."""
    chains = [two_hop(seed, size) for seed in range(models)]
    order = np.random.default_rng(0).permutation(size.vocab_size)
    kept = size.vocab_size * 4 // 5
    return jax.tree.map(lambda *x: jnp.stack(x), *chains), order[:kept], order[kept:]


def cell(train: TrainConfig, sets: list) -> dict[str, np.ndarray]:
    """Each quantity of all models."""
    found = []
    for chains, seen, unseen in sets:
        config = train.transcoder(chains.model.config)
        keys = jax.random.split(jax.random.key(0), len(chains.earlier))
        made = jax.vmap(lambda c, k: fit(c, seen, k, config, train))(chains, keys)  # noqa: B023
        found.append(jax.vmap(lambda t, c, k: measure(t, c, unseen, k))(made, chains, keys))  # noqa: B023
    return {name: np.concatenate([np.asarray(f[name]) for f in found]) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=MODELS, help="models of each size")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many sizes")
    arguments = parser.parse_args()
    began = time.monotonic()
    sets = [data(size, arguments.models) for size in SIZES[: arguments.sizes]]
    rows = []
    for sparsity in SPARSITY:
        for window in (0, 1, -1):
            for part, loss in PARTS.items():
                found = cell(train_config(sparsity, window, **loss), sets)
                row = {"sparsity": sparsity, "window": "all" if window < 0 else window}
                row |= {"with": part}
                for name, values in found.items():
                    error = np.nanstd(values, ddof=1) / np.sqrt(len(values))
                    row |= {name: round(float(np.nanmean(values)), 4)}
                    row |= {f"{name}_se": round(float(error), 4)}
                rows.append(row)
                shown = {k: v for k, v in row.items() if not k.endswith("_se")}
                print(round(time.monotonic() - began), shown, flush=True)
    record("two_hop", rows, seconds=time.monotonic() - began, seed=0)


if __name__ == "__main__":
    main()
