"""A transformer with a known circuit, and the task it does; shared by tests and a worker."""

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.causal import ValidateConfig
from hagd_jax.models import DecoderConfig, init
from hagd_jax.pipeline import DescribeConfig, ExtractConfig
from hagd_jax.scores import GradientConfig
from hagd_jax.search import MaskConfig
from hagd_jax.tasks import Task, Text, make_prompts

# The answer repeats the first token: head 1 of layer 0 looks at it, everything else is noise.
CONFIG = DecoderConfig(
    vocab_size=8, n_layers=1, d_model=24, n_heads=2, d_head=8, d_mlp=8, norm="none",
    max_positions=3, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
EXTRACT = ExtractConfig(
    nodes="1",
    search="masks",
    gradient=GradientConfig(batch_size=8),
    masks=MaskConfig(steps=20, check_every=10),
    describe=DescribeConfig(prompts=0),
    judge=ValidateConfig(
        claims="core",
        ablations=("counterfactual", "mean", "resample"),
        controls=19,
        draws=2,
        batch_size=8,
    ),
)


def make_copier():
    """A transformer whose head 1 copies position 0's token to the logits of the last position."""
    model = init(CONFIG, jax.random.key(0))
    p = jax.tree.map(lambda x: np.array(x) * 0.05, model.params)
    # Dimensions 0 to 7 hold the token read, 8 to 15 the token written, 16 and 17 the position.
    p["embed"]["embedding"][:] = np.eye(24)[:8]
    p["positions"]["embedding"][:] = 0
    p["positions"]["embedding"][0, 16] = p["positions"]["embedding"][2, 17] = 1
    attn = p["blocks"]["attn"]
    for name in "qkvo":
        attn[name]["kernel"][:] *= 0.1
    attn["q"]["kernel"][0, 17, 1, 0] = 30  # the last position asks
    attn["k"]["kernel"][0, 16, 1, 0] = 1  # for the first one
    attn["v"]["kernel"][0, :8, 1, :8] = np.eye(8)
    attn["o"]["kernel"][0, 1, :8, 8:16] = np.eye(8)
    p["unembed"]["kernel"][:] = 0
    p["unembed"]["kernel"][8:16] = 5 * np.eye(8)
    return model.replace(params=jax.tree.map(jnp.asarray, p), name="copier")


def make_task():
    """Clean and corrupted prompts differ in the first token alone."""
    rng = np.random.default_rng(0)
    splits = {}
    for split in ("discover", "select", "test"):
        first = rng.integers(0, 8, 24)
        other = (first + rng.integers(1, 8, 24)) % 8
        rest = rng.integers(0, 8, (24, 2))
        clean, corrupted = np.c_[first, rest], np.c_[other, rest]
        splits[split] = make_prompts(clean, corrupted, first, other, vocab_size=8)
    texts = {split: (Text("a", "b", "c", "d", "t"),) * 24 for split in splits}
    return Task("copy", "Repeat the first token.", splits, texts, tuple(range(8)))
