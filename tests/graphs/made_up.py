"""Attribution graphs drawn at random, without a model."""

import numpy as np

from hagd_jax.graphs.graph import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    GraphInfo,
    LogitTarget,
    NodeTable,
    make_graph,
)


def made_up(
    seed=0, layers=3, length=4, features=12, logits=3, density=0.4, words=None, folded=False
):
    """A graph whose edges go from lower layers to higher ones, and to later positions."""
    rng = np.random.default_rng(seed)
    places = rng.choice(layers * length * 7, features, replace=False)
    layer, rest = np.divmod(np.sort(places), length * 7)
    position, index = np.divmod(rest, 7)
    errors = np.divmod(np.arange(layers * length), length)
    kind = np.repeat(
        [FEATURE, ERROR, EMBEDDING, LOGIT], [features, layers * length, length, logits]
    )
    total = len(kind)
    tokens = rng.integers(0, 50, length)
    chances = np.sort(rng.dirichlet(np.ones(logits + 1)))[::-1][:logits]
    weight = np.zeros(total)
    weight[total - logits :] = chances
    layer = np.concatenate([layer, errors[0], np.full(length, -1), np.full(logits, layers)])
    position = np.concatenate([position, errors[1], np.arange(length), np.full(logits, length - 1)])
    other = np.concatenate([np.full(layers * length, -1), tokens, rng.permutation(50)[:logits]])
    activation = np.where(kind == FEATURE, rng.exponential(1, total), 0)
    upward = (layer[:, None] > layer[None]) & (position[:, None] >= position[None])
    targets = (kind == FEATURE) | (kind == LOGIT)
    exists = upward & targets[:, None] & (rng.random((total, total)) < density)
    receivers, senders = np.nonzero(exists)
    table = NodeTable(
        kind=kind.astype(np.int8),
        layer=layer.astype(np.int32),
        position=position.astype(np.int32),
        index=np.concatenate([index, other]).astype(np.int32),
        activation=activation.astype(np.float32),
        weight=weight.astype(np.float32),
        folded=(rng.random((total, 2)) * folded * targets[:, None]).astype(np.float32),
        remainder=np.zeros(total, np.float32),
    )
    info = GraphInfo(
        model="made up",
        dictionary="random",
        tokens=tuple(map(int, tokens)),
        words=tuple(words or [f" w{token}" for token in tokens]),
        targets=tuple(LogitTarget(f"t{i}", (int(other[-logits + i]),)) for i in range(logits)),
        layers=layers,
        features=7,
        active=features,
        settings={"skip_positions": [0]},
    )
    return make_graph(table, senders, receivers, rng.normal(size=len(senders)), info)
