"""A decoder whose heads share keys, edge by edge, in float64 NumPy."""

import jax
import numpy as np

from hagd_jax.models import DecoderConfig
from hagd_jax.tasks import make_prompts
from tests.models.noise import noisy

GROUPED = DecoderConfig(
    vocab_size=13, n_layers=2, d_model=8, n_heads=4, n_kv_heads=2, d_mlp=6, max_positions=8,
    activation="relu",
)  # fmt: skip


def some(config=GROUPED, count=5, seed=0):
    """A model and prompts of it."""
    rng = np.random.default_rng(seed)
    clean, other = rng.integers(config.vocab_size, size=(2, count, 5))
    answers = np.array([rng.permutation(config.vocab_size)[:2] for _ in range(count)])
    prompts = make_prompts(clean.tolist(), other.tolist(), answers[:, 0], answers[:, 1],
                           vocab_size=config.vocab_size)  # fmt: skip
    return noisy(config, seed), prompts


class Plain:
    """The model on its prompts, each alone."""

    def __init__(self, model, prompts):
        self.c = model.config
        self.p = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)
        self.clean, self.corrupted = np.asarray(prompts.clean), np.asarray(prompts.corrupted)
        self.answers = np.asarray(prompts.answer), np.asarray(prompts.distractor)
        self.other = [self.run(tokens)[1] for tokens in self.corrupted]
        self.whole = [self.run(tokens)[0][-1] for tokens in self.clean]

    def logits(self, keep):
        """(N, V) at the last position; `keep` are `Edges` of bool."""
        rows = zip(self.clean, self.other, strict=True)
        return np.array([self.run(tokens, keep, other)[0][-1] for tokens, other in rows])

    def kl(self, keep):
        """Mean KL(model ‖ circuit)."""
        own, found = (_log_softmax(np.array(x)) for x in (self.whole, self.logits(keep)))
        return float((np.exp(own) * (own - found)).sum(-1).mean())

    def metric(self, keep=None):
        """Mean logit difference; of the model itself if nothing is said."""
        at = np.array(self.whole) if keep is None else self.logits(keep)
        rows = np.arange(len(at))
        return float((at[rows, self.answers[0]] - at[rows, self.answers[1]]).mean())

    def run(self, tokens, keep=None, other=None):
        """(T, V) logits, and what each writer wrote, in the order of `Edges`."""
        c, p = self.c, self.p
        written = {0: p["embed"]["embedding"][tokens] + p["positions"]["embedding"][: len(tokens)]}
        constant = np.zeros(c.d_model)

        def read(name, *place):
            row = None if keep is None else np.asarray(getattr(keep, name))[place]
            own = [x if row is None or row[w] else other[w] for w, x in written.items()]
            return sum(own) + constant

        for layer in range(c.n_layers):
            at = jax.tree.map(lambda x, own=layer: x[own], p["blocks"])
            attn, new = at["attn"], {}
            for head in range(c.n_heads):
                own = {"q": head, "k": head * c.n_kv_heads // c.n_heads}
                own["v"] = own["k"]
                q, k, v = (
                    _norm(read(n, layer, own[n]), at["norm1"]) @ attn[n]["kernel"][:, own[n]]
                    + attn[n]["bias"][own[n]]
                    for n in "qkv"
                )
                scores = q @ k.T / np.sqrt(c.d_head)
                scores[np.triu_indices(len(tokens), 1)] = -np.inf
                pattern = np.exp(_log_softmax(scores))
                new[1 + layer * c.n_heads + head] = pattern @ v @ attn["o"]["kernel"][head]
            written |= new
            constant = constant + attn["o"]["bias"]
            hidden = _norm(read("mlp", layer), at["norm2"]) @ at["mlp"]["in"]["kernel"]
            hidden = np.maximum(hidden + at["mlp"]["in"]["bias"], 0)
            out = hidden @ at["mlp"]["out"]["kernel"] + at["mlp"]["out"]["bias"]
            written[1 + c.n_layers * c.n_heads + layer] = out
        return _norm(read("final"), p["norm_f"]) @ p["unembed"]["kernel"], written


def _norm(x, weights):
    wide = x - x.mean(-1, keepdims=True)
    wide = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
    return wide * weights["scale"] + weights["bias"]


def _log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
