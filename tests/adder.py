"""Addition modulo p with weights by hand, in the vocabulary of `modular-addition`.

Angles add by products of cosines and sines, as in `testbeds.hand_built.rotation`; two heads fetch
the summands, four gated neurons multiply, and everything else is small noise. Nothing is trained.
"""

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import DecoderConfig, Tokenizer, init
from hagd_jax.tasks.modular import vocabulary

# Dimensions of the stream.
COS, SIN, FIRST, SECOND, LAST, COS_A, SIN_A, COS_B, SIN_B, C, S = range(11)
HEADS, NEURONS = 3, 8


def make_adder(p=11, noise=0.02, neurons=NEURONS):
    config = DecoderConfig(
        vocab_size=p + 1, n_layers=1, d_model=12, n_heads=HEADS, d_head=4, d_mlp=neurons,
        norm="none", max_positions=3, gated_mlp=True, activation="relu", qkv_bias=False,
        attn_out_bias=False, mlp_bias=True,
    )  # fmt: skip
    model = init(config, jax.random.key(0), tokenizer=Tokenizer.words(vocabulary(p)))
    rng = np.random.default_rng(0)
    w = jax.tree.map(lambda x: noise * rng.normal(size=x.shape).astype(np.float32), model.params)
    angle = 2 * np.pi * np.arange(p) / p
    w["embed"]["embedding"][:] = 0
    w["embed"]["embedding"][:p, [COS, SIN]] = np.c_[np.cos(angle), np.sin(angle)]
    w["positions"]["embedding"][:] = 0
    w["positions"]["embedding"][[0, 1, 2], [FIRST, SECOND, LAST]] = 1
    attn, mlp = w["blocks"]["attn"], w["blocks"]["mlp"]
    for head, place in enumerate((FIRST, SECOND)):
        attn["q"]["kernel"][0, LAST, head, 0] = 40
        attn["k"]["kernel"][0, place, head, 0] = 1
        attn["v"]["kernel"][0, [COS, SIN], head, [0, 1]] = 1
    out = attn["o"]["kernel"][0]
    out[0, [0, 1], [COS_A, SIN_A]] = 1
    # relu(x + 1) y = x y + y: the second head takes the y back.
    out[1, [0, 1], [COS_B, SIN_B]] = 1
    out[1, 0, [C, S]], out[1, 1, [C, S]] = -1, (1, -1)
    products = ((COS_A, COS_B, C, 1), (SIN_A, SIN_B, C, -1), (SIN_A, COS_B, S, 1),
                (COS_A, SIN_B, S, 1))  # fmt: skip
    mlp["gate"]["bias"][0, :4] = 1
    for neuron, (gate, read, write, sign) in enumerate(products):
        mlp["gate"]["kernel"][0, gate, neuron] = 1
        mlp["in"]["kernel"][0, read, neuron] = 1
        mlp["out"]["kernel"][0, neuron, write] = sign
    w["unembed"]["kernel"][:] = 0
    w["unembed"]["kernel"][[C, S], :p] = 10 * np.stack([np.cos(angle), np.sin(angle)])
    return model.replace(params=jax.tree.map(jnp.asarray, w), name=f"adder-{p}")
