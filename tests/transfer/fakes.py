"""Portraits without a model."""

import numpy as np

from hagd_jax.roles import NAMES
from hagd_jax.transfer import Portrait
from hagd_jax.units import Unit

LAYERS = 12


def portrait(count, seed, *, shares=True, task="t", values=None):
    """Heads with random signatures, each of which reads up to three others below it."""
    rng = np.random.default_rng(seed)
    layers = [i * LAYERS // count for i in range(count)]
    units = tuple(
        Unit("head", (layer, layer), i, "attention", ((i, i + 1),))
        for i, layer in enumerate(layers)
    )
    drawn = np.clip(rng.normal(size=(count, len(NAMES))), -3, 3)
    table = np.zeros((count + 2, count + 2))
    for reader in range(1, count + 2):
        sources = rng.choice(reader, min(reader, 3), replace=False)
        table[sources, reader] = rng.dirichlet(np.ones(len(sources)))
    return Portrait(
        units,
        tuple(unit.name for unit in units),
        drawn if values is None else values,
        np.ones((count, len(NAMES)), bool),
        table if shares else None,
        (np.array(layers) + 0.5) / LAYERS,
        f"model {seed}",
        task,
    )


def reordered(own, order):
    """The same units in another order."""
    whole = [0, *(1 + np.asarray(order)), len(own) + 1]
    shares = own.shares if own.shares is None else own.shares[np.ix_(whole, whole)]
    return Portrait(
        tuple(own.units[i] for i in order),
        tuple(own.names[i] for i in order),
        own.values[order],
        own.known[order],
        shares,
        own.depth[order],
        own.model,
        own.task,
    )
