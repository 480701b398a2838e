"""Whether a transcoder leaves out a middle feature that is known to be there.

Sparsity pays for rewriting A → B → C as A → C: one feature instead of two. Models whose chains
are known (`testbeds.two_hop`) show how much of a transcoder's account of C does so, by attribution
and by experiment.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, forward, mlp
from hagd_jax.testbeds.two_hop import TwoHop
from hagd_jax.transcoders.checks import require_fit
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.transcoder import Transcoder


class SkipShare(struct.PyTreeNode):
    """The skip share tells how a transcoder accounts for C, chain by chain.

    Attributes:
        share: (n,) skip share: how much of A → C's attribution bypasses B, 0 to 1; NaN if nothing
            is attributed.
        across: (n,) the part of it that features of earlier layers write over cross-layer edges;
            the rest are features of C's own layer which read a and b where B is to be read.
        response: (n,) how much of the model's change of C shows when B is flipped between the
            layers: 1 as the model, 0 none.
    """

    share: Any
    across: Any
    response: Any

    __repr__ = one_line


def skip_share(transcoder: Transcoder, chains: TwoHop, tokens: Any = None) -> SkipShare:
    """Measure the skip share and the response of every chain of a two-hop model.

    The transcoder stands beside the undisturbed model, its active features fixed. What a variable
    v of a chain, with direction d_v and value s_v, contributes to C through the features of layer
    l is then linear:

        A_l(v) = Σ_f active_f (d_C · W_dec^{l→later}_f) (W_enc^l_f · d_v) (s_v − mean s_v).

    Three paths lead from A = {a, b} to C, each added up token by token:

    - across: Σ_{l < later} A_l(a) + A_l(b), over cross-layer edges;
    - own: A_later(a) + A_later(b), by features of C's layer that read the inputs of B;
    - through: Σ_{earlier < l ≤ later} A_l(B), as the model computes it.

    With |·| summed over the tokens in which the chain is present,

        skip share = (|across| + |own|) / (|across| + |own| + |through|).

    A skip connection counts as one more feature of C's layer. The response is causal:
    x + (1 − 2B) d_B replaces x at all layers after B's, and Σ ΔĈ ΔC / Σ ΔC² compares the changes
    in what the transcoder and the MLP write to C in its layer.

    Args:
        transcoder: For this model.
        chains: From `testbeds.two_hop.two_hop`.
        tokens: (N,) inputs to measure on; all of them if None.

    Returns:
        The `SkipShare`.

    Raises:
        InputError: If the transcoder is another model's, or there is no token.
    """
    require_fit(transcoder.config, chains.model.config)
    tokens = np.arange(chains.model.config.vocab_size) if tokens is None else tokens
    if jnp.ndim(tokens) != 1 or jnp.size(tokens) == 0:
        raise InputError("tokens", got=f"shape {jnp.shape(tokens)}", expected="(N,), N ≥ 1")
    bare = chains.replace(model=chains.model.bare())
    return _skip_share(transcoder.bare(), bare, jnp.asarray(tokens, jnp.int32))


class _Chain(NamedTuple):
    """One chain's truth on N tokens."""

    earlier: jax.Array
    later: jax.Array
    directions: jax.Array  # (5, D)
    present: jax.Array  # (N,)
    values: jax.Array  # (N, 5)


@jax.jit
def _skip_share(transcoder: Transcoder, chains: TwoHop, tokens: jax.Array) -> SkipShare:
    config = transcoder.config
    trace = forward(chains.model, tokens[:, None], capture=[config.reads]).trace
    x = trace[config.reads][:, :, 0].astype(jnp.float32)
    active = feat.encode(transcoder.params, x, config) != 0
    each = _Chain(
        chains.earlier,
        chains.later,
        chains.directions,
        chains.present[tokens].T,
        chains.values[tokens].swapaxes(0, 1),
    )

    def one(chain: _Chain) -> SkipShare:
        across, own, through = _paths(transcoder, active, chain)
        total = across + own + through
        response = _response(transcoder, chains.model, x, chain)
        return SkipShare((across + own) / total, across / total, response)

    return jax.lax.map(one, each)


def _paths(
    transcoder: Transcoder, active: jax.Array, chain: _Chain
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """|across|, |own| and |through|, each summed over tokens."""
    params = transcoder.params
    layers = jnp.arange(transcoder.config.n_layers)[:, None]
    a, b, _, middle, last = chain.directions
    edge = jnp.asarray(_edges(transcoder.config))[:, chain.later]
    writes = jnp.einsum("lfd,d->lf", params["W_dec"][edge], last) * (edge >= 0)[:, None]
    mean = chain.values.T @ chain.present / jnp.maximum(chain.present.sum(), 1)
    apart = (chain.values - mean) * chain.present[:, None]

    def contribution(direction: jax.Array, apart: jax.Array) -> jax.Array:
        """(L, N) A_l of one variable."""
        reads = jnp.einsum("lfd,d->lf", params["W_enc"], direction)
        gain = jnp.einsum("lnf,lf->ln", active.astype(jnp.float32), reads * writes)
        if "W_skip" in params:
            gain = gain.at[chain.later].add(last @ params["W_skip"][chain.later] @ direction)
        return gain * apart

    inputs = contribution(a, apart[:, 0]) + contribution(b, apart[:, 1])
    across = jnp.sum(inputs * (layers < chain.later), 0)
    through = jnp.sum(contribution(middle, apart[:, 3]) * (layers > chain.earlier), 0)
    return abs(across).sum(), abs(inputs[chain.later]).sum(), abs(through).sum()


def _response(
    transcoder: Transcoder, model: LanguageModel, x: jax.Array, chain: _Chain
) -> jax.Array:
    """Σ ΔĈ ΔC / Σ ΔC² when B is flipped in what the layers after it read."""
    config = transcoder.config
    after = jnp.arange(config.n_layers) > chain.earlier
    flip = (1 - 2 * chain.values[:, 3]) * chain.present
    flipped = x + after[:, None, None] * flip[:, None] * chain.directions[3]

    def changes(outputs: Any) -> jax.Array:
        moved = outputs(flipped) - outputs(x)
        return moved[chain.later] @ chain.directions[4]

    def reconstructed(x: jax.Array) -> jax.Array:
        found = feat.encode(transcoder.params, x, config)
        return feat.decode(transcoder.params, found, x, config)

    truth = changes(lambda x: mlp(model, x, site=config.reads))
    return jnp.sum(changes(reconstructed) * truth) / jnp.sum(truth**2)


def _edges(config: TranscoderConfig) -> np.ndarray:
    """(L, L) the edge from each layer to each other, −1 where there is none."""
    graph: Any = layer_graph(config)
    table = np.full((config.n_layers, config.n_layers), -1)
    table[graph.senders, graph.receivers] = np.arange(len(graph.receivers))
    return table
