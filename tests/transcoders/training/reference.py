"""The terms of a transcoder's loss in float64 NumPy, written from their formulas."""

import numpy as np

from hagd_jax.transcoders.graph import layer_graph, own_edges


def activations(pre, p, config):
    """(L, N, F) features; `pre` likewise."""
    positive = np.maximum(pre, 0)
    if config.activation == "relu":
        return positive
    if config.activation == "jump_relu":
        return np.where(pre > p["threshold"][:, None], pre, 0)
    if config.activation == "topk":
        return strongest(positive, config.k)
    least = np.sort(positive.reshape(len(pre), -1), -1)[:, -config.k * pre.shape[1]]
    return np.where((positive >= least[:, None, None]) & (positive > 0), positive, 0)


def strongest(positive, k):
    """The k largest of each token; random numbers have no ties."""
    return np.where(positive >= np.sort(positive, -1)[..., -k, None], positive, 0)


def written(features, p, config):
    """(L, N, D) what features write along their edges."""
    graph = layer_graph(config)
    out = np.zeros((*features.shape[:2], config.d_model))
    for edge, (sender, receiver) in enumerate(zip(graph.senders, graph.receivers, strict=True)):
        out[receiver] += features[sender] @ p["W_dec"][edge]
    return out


def skip(x, p):
    return np.einsum("lnd,led->lne", x, p["W_skip"]) if "W_skip" in p else 0


def terms(params, x, y, weight, dead, directions, config, loss):
    """The parts of the loss, before their weights.

    Args:
        params: The transcoder's.
        x, y: (L, N, D) normalised.
        weight: (B, T), N = B · T.
        dead: (L, F) bool.
        directions: (v, J v), each (L, n, D) at every so many tokens of a sequence; or None.
        config, loss: As `losses.terms` has them.

    Returns:
        Name → number.
    """
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    length = weight.shape[1]
    w = np.asarray(weight, np.float64).ravel()
    mean = lambda per_token: (per_token @ w) / w.sum()  # noqa: E731
    share = 1 / np.maximum((y**2).mean(-1) / loss.most, 1)
    pre = np.einsum("lnd,lfd->lnf", x, p["W_enc"]) + p["b_enc"][:, None]
    f = activations(pre, p, config)
    error = y - written(f, p, config) - p["b_dec"][:, None] - skip(x, p)
    parts = {"reconstruction": mean(share * (error**2).mean(-1)).mean()}
    others = np.where(dead[:, None], np.maximum(pre, 0), 0)
    others = strongest(others, config.k) if config.k else others
    left = ((error - written(others, p, config)) ** 2).mean(-1)
    parts["dead"] = (mean(share * left) * dead.any(-1)).mean()
    if loss.sparsity:
        senders = layer_graph(config).senders
        norm = np.sqrt([(p["W_dec"][senders == i] ** 2).sum((0, 2)) for i in range(len(f))])
        parts["sparsity"] = mean(np.einsum("lnf,lf->ln", f, norm) / np.sqrt(x.shape[-1])).mean()
    if config.predict:
        ahead = np.maximum(np.einsum("lnf,lfg->lng", f[:-1], p["W_pred"]) + p["b_pred"][:, None], 0)
        parts["predict"] = mean(((f[1:] - ahead) ** 2).sum(-1)).mean() / x.shape[-1]
    if directions is not None:
        v, truth = directions
        every = min(loss.jacobian_every, length)
        here = lambda a: a.reshape(len(a), -1, length, *a.shape[2:])[:, :, every - 1 :: every]  # noqa: E731
        active, counts = here(f) > 0, here(share * w)
        active, counts = (a.reshape(len(f), -1, *a.shape[3:]) for a in (active, counts))
        moved = np.einsum("lnd,lfd->lnf", v, p["W_enc"]) * active
        moved = np.einsum("lnf,lfd->lnd", moved, p["W_dec"][own_edges(config)]) + skip(v, p)
        missed, size = ((counts * (d**2).sum(-1)).sum(-1) for d in (moved - truth, truth))
        parts["jacobian"] = (missed / size).mean()
    return parts
